//! `mmfs trace`: the last requests of a mount, and with `--follow` new ones.

use super::out::print;
use super::text::{errno, micros, moment};
use crate::ask::{self, ANSWER_TIMEOUT, NoAnswer};
use crate::counters::KEPT;
use crate::refusal::StartError;
use crate::report::{Request, Trace};
use crate::terminal::one_line;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How often new requests are asked for. If more than 4,096 come in between, some are lost.
const INTERVAL: Duration = Duration::from_millis(100);

/// Prints the last requests of a mount that took at least `slow`. Then it prints those that are not answered yet. With `follow` it
/// prints new requests instead, until the mount is gone.
///
/// # Errors
/// The mount gives no answer, or the text cannot be written.
pub fn trace(mount_point: &Path, follow: bool, slow: Duration) -> Result<(), StartError> {
    let refused = |why: NoAnswer| StartError::NotAnswered(mount_point.into(), why.to_string());
    let least = slow.as_micros() as u64;
    let mut page = ask::trace(mount_point, 0).map_err(refused)?;
    let (mut from, end) = (0, end(&page));
    loop {
        let lost = from != 0 && page.requests.first().is_some_and(|one| one.number > from);
        if lost && !print("...\n")? || !show(&page, least, answered)? {
            return Ok(());
        }
        let is_last = page.requests.is_empty() || page.next == from;
        let goes_on = page.next > from && page.next < end;
        from = page.next;
        if !follow && (is_last || !goes_on) {
            let waiting = ask::waiting(mount_point).map_err(refused)?;
            return show(&waiting, least, unanswered).map(drop);
        }
        if is_last {
            thread::sleep(INTERVAL);
        }
        let next = match follow {
            true => next(mount_point, from),
            false => ask::trace(mount_point, from),
        };
        page = match next {
            // The mount is gone.
            Err(NoAnswer::Dead | NoAnswer::NotOurs) if follow => return Ok(()),
            next => next.map_err(refused)?,
        };
    }
}

/// An upper limit for the number after the last request that the mount had when it sent this first page. At this number all
/// requests of that time have been read, and newer ones are left out.
pub fn end(first: &Trace) -> u64 {
    let number = first.requests.first().map(|one| one.number);
    number.map_or(first.next, |number| number.saturating_add(KEPT))
}

/// Asks for the next page, without a timeout. No second question is asked meanwhile: each question is a process that the kernel may
/// be unable to end.
fn next(mount_point: &Path, from: u64) -> Result<Trace, NoAnswer> {
    let mut asking = ask::asking_trace(mount_point, from)?;
    loop {
        match asking.wait(ANSWER_TIMEOUT) {
            Err(NoAnswer::TimedOut) => {}
            answer => return answer,
        }
    }
}

fn show(page: &Trace, least: u64, line: impl Fn(&Request) -> String) -> Result<bool, StartError> {
    let slow = page.requests.iter().filter(|one| one.took_us >= least);
    let lines: String = slow.map(line).collect();
    print(&lines)
}

/// One line for a request that was answered.
pub fn answered(one: &Request) -> String {
    line(one, &errno(one.errno))
}

/// One line for a request that is not answered yet.
pub fn unanswered(one: &Request) -> String {
    line(one, "not answered yet")
}

fn line(one: &Request, outcome: &str) -> String {
    let place = match (one.offset, one.length) {
        (0, 0) => String::new(),
        (offset, length) => format!(" {length} bytes at {offset}"),
    };
    format!(
        "{} {:>9} {} node {}{place}: {outcome}\n",
        moment(one.time_us),
        micros(one.took_us),
        one_line(&one.kind),
        one.node
    )
}
