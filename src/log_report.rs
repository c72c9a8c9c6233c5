//! Reports of the daemon in its log. At SIGUSR1 it writes its status and requests. If a file does not answer for ten seconds,
//! it writes the requests that wait. Only `-qq` hides these lines.
//!
//! These reports are needed when something hangs. So nothing here takes a lock that a request may hold, or accesses the source.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::fuse::{Channel, NOT_ANSWERING};
use crate::logging::REPORT;
use crate::report::{MAX_ANSWER, Request};
use crate::show;
use crate::sys::threads;
use crate::view::Tree;

/// How often the thread checks for files that do not answer.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Minimum time between two reports about files that do not answer. A client can cause such files at any rate.
const MIN_PAUSE: Duration = Duration::from_secs(60);

/// How many of the last requests such a report has.
const LAST_REQUESTS: usize = 256;

/// Stack of the thread, in bytes. It writes one line at a time.
const STACK_SIZE: usize = 256 << 10;

/// Writes the mount's status, its last requests, and those that are not answered yet.
pub fn all<T: Tree>(channel: &Channel<T>) {
    write("status", &show::describe(&channel.status()));
    requests(channel, usize::MAX);
}

/// Starts a thread that writes the waiting and the last requests when another file does not answer any more.
///
/// # Errors
/// Those of pthread_create(3).
pub fn watch<T: Tree>(channel: Channel<T>) -> std::io::Result<()> {
    threads::start(STACK_SIZE, move || {
        let mut reported = Reported::default();
        loop {
            std::thread::sleep(CHECK_INTERVAL);
            match reported.update(channel.not_answering(), Instant::now()) {
                Some(Event::NotAnswering) => {
                    let waiting = channel.waiting_summary();
                    log::warn!(
                        target: REPORT,
                        "requests are not answered: {} wait, the oldest for {} s",
                        waiting.requests,
                        waiting.oldest_us / 1_000_000
                    );
                    requests(&channel, LAST_REQUESTS);
                }
                Some(Event::AllAnswered) => {
                    log::info!(target: REPORT, "all requests that waited for {NOT_ANSWERING:?} or more are answered now");
                }
                None => {}
            }
        }
    })
}

/// An event to report.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    NotAnswering,
    AllAnswered,
}

/// The inodes that the log has reported as not answering.
#[derive(Debug, Default)]
struct Reported {
    nodes: HashSet<u64>,
    /// Whether `AllAnswered` is still to be reported.
    is_open: bool,
    /// Time of the last report.
    last: Option<Instant>,
}

impl Reported {
    fn update(&mut self, not_answering: HashSet<u64>, now: Instant) -> Option<Event> {
        self.nodes.retain(|node| not_answering.contains(node));
        if not_answering.is_empty() {
            return std::mem::take(&mut self.is_open).then_some(Event::AllAnswered);
        }
        let pause = self.last.map(|last| now.duration_since(last));
        let is_soon = pause.is_some_and(|pause| pause < MIN_PAUSE);
        // An inode that comes too soon is reported later, if it still does not answer.
        if is_soon || not_answering.is_subset(&self.nodes) {
            return None;
        }
        *self = Reported {
            nodes: not_answering,
            is_open: true,
            last: Some(now),
        };
        Some(Event::NotAnswering)
    }
}

/// Writes the last requests, at most `most`, and all that are not answered yet.
fn requests<T: Tree>(channel: &Channel<T>, most: usize) {
    let answered = last(channel);
    let first = answered.len().saturating_sub(most);
    for one in &answered[first..] {
        write("trace", &show::answered(one));
    }
    for one in &channel.waiting(MAX_ANSWER).requests {
        write("waiting", &show::unanswered(one));
    }
}

/// The requests that the mount keeps, in the order of their answers.
fn last<T: Tree>(channel: &Channel<T>) -> Vec<Request> {
    let mut all = Vec::new();
    let mut page = channel.trace(0, MAX_ANSWER);
    let end = show::end(&page);
    loop {
        let (next, is_last) = (page.next, page.requests.is_empty());
        all.append(&mut page.requests);
        if is_last || next >= end {
            return all;
        }
        page = channel.trace(next, MAX_ANSWER);
    }
}

fn write(what: &str, text: &str) {
    for line in text.lines().filter(|line| !line.is_empty()) {
        log::info!(target: REPORT, "{what}: {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_that_does_not_answer_is_reported_once_and_not_too_often() {
        let mut reported = Reported::default();
        let start = Instant::now();
        let mut update = |nodes: &[u64], seconds| {
            let now = start + Duration::from_secs(seconds);
            reported.update(nodes.iter().copied().collect(), now)
        };
        assert_eq!(update(&[], 0), None);
        assert_eq!(update(&[1], 2), Some(Event::NotAnswering));
        assert_eq!(update(&[1], 100), None, "once");
        assert_eq!(
            update(&[1, 2], 102),
            Some(Event::NotAnswering),
            "while the first does not answer"
        );
        assert_eq!(update(&[1, 2, 3], 104), None, "too soon");
        assert_eq!(update(&[3], 162), Some(Event::NotAnswering), "later");
        assert_eq!(update(&[], 164), Some(Event::AllAnswered));
        assert_eq!(update(&[], 166), None);
        assert_eq!(update(&[1], 230), Some(Event::NotAnswering), "again");
        assert_eq!(update(&[2], 232), None, "too soon");
        assert_eq!(update(&[], 234), Some(Event::AllAnswered));
    }
}
