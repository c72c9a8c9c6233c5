//! `mmfs trace`: the last requests of a mount, and those that come.

use super::out::print;
use super::text::{clean, errno, micros, moment};
use crate::ask::{self, NoAnswer};
use crate::refusal::StartError;
use crate::report::{Request, Trace};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How often is looked for new requests. Between two looks 4,096 may come before any is lost.
const INTERVAL: Duration = Duration::from_millis(100);

/// Prints the requests of a mount that took at least `slow`: the last ones, and then those that are not answered yet; with
/// `follow` those that come.
///
/// # Errors
/// The mount gives no answer at first.
pub fn trace(mount_point: &Path, follow: bool, slow: Duration) -> Result<(), StartError> {
    let refused = |why: NoAnswer| StartError::NotAnswered(mount_point.into(), why.to_string());
    let least = slow.as_micros() as u64;
    let mut from = 0;
    let mut first = true;
    loop {
        let page = match ask::trace(mount_point, from) {
            Ok(page) => page,
            Err(why) if first => return Err(refused(why)),
            Err(NoAnswer::TimedOut) => continue,
            // The mount is gone, and so is what was to be followed.
            Err(_) => return Ok(()),
        };
        first = false;
        let lost = from != 0 && page.requests.first().is_some_and(|one| one.number > from);
        if lost && !print("...\n") {
            return Ok(());
        }
        if !show(&page, least, answered) {
            return Ok(());
        }
        let is_end = page.requests.is_empty() || page.next == from;
        from = page.next;
        if is_end && !follow {
            let waiting = ask::waiting(mount_point).map_err(refused)?;
            show(&waiting, least, unanswered);
            return Ok(());
        }
        if is_end {
            thread::sleep(INTERVAL);
        }
    }
}

fn show(page: &Trace, least: u64, line: impl Fn(&Request) -> String) -> bool {
    let slow = page.requests.iter().filter(|one| one.took_us >= least);
    let lines: String = slow.map(line).collect();
    print(&lines)
}

/// A request that was answered, in a line.
pub fn answered(one: &Request) -> String {
    line(one, &errno(one.errno))
}

/// A request that was not, in a line.
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
        clean(&one.kind),
        one.node
    )
}
