//! What the daemon writes of itself to its log: everything when SIGUSR1 asks for it, and what waits when something does not answer
//! for ten seconds. No verbosity but `-qq` hides these lines.
//!
//! Nothing here takes a lock that a request may hold, or asks the source: this is for when something hangs.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::fuse::{Channel, NOT_ANSWERING};
use crate::logging::REPORT;
use crate::report::{MAX_ANSWER, Request};
use crate::show;
use crate::sys::threads;
use crate::view::Tree;

/// How often is looked for requests that are not answered.
const INTERVAL: Duration = Duration::from_secs(2);

/// Between two times that something is written about what does not answer. Clients can have files that do not as often as they like.
const LEAST_PAUSE: Duration = Duration::from_secs(60);

/// How many of the last requests are written when something does not answer.
const LAST: usize = 256;

/// For a line at a time.
const STACK_SIZE: usize = 256 << 10;

/// Writes all that the mount says of itself: its status, the last requests, and those that are not answered.
pub fn all<T: Tree>(channel: &Channel<T>) {
    write("status", &show::describe(&channel.status()));
    requests(channel, usize::MAX);
}

/// Starts a thread that writes the requests that wait and the last ones, whenever something does not answer that did before.
///
/// # Errors
/// Those of pthread_create(3).
pub fn watch<T: Tree>(channel: Channel<T>) -> std::io::Result<()> {
    threads::start(STACK_SIZE, move || {
        let mut told = Told::default();
        loop {
            std::thread::sleep(INTERVAL);
            match told.look(channel.silent(), Instant::now()) {
                Some(News::Silent) => {
                    let waits = channel.waits();
                    log::warn!(
                        "requests are not answered: {} wait, the oldest for {} s",
                        waits.requests,
                        waits.oldest_us / 1_000_000
                    );
                    requests(&channel, LAST);
                }
                Some(News::Answered) => {
                    log::info!(target: REPORT, "all requests that waited for {NOT_ANSWERING:?} or more are answered now");
                }
                None => {}
            }
        }
    })
}

/// What is to be written.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Silent,
    Answered,
}

/// What the log has of inodes that do not answer.
#[derive(Debug, Default)]
struct Told {
    /// Those that it has.
    nodes: HashSet<u64>,
    /// Whether it has not yet that all have answered.
    is_open: bool,
    /// When it was told of some last.
    last: Option<Instant>,
}

impl Told {
    fn look(&mut self, silent: HashSet<u64>, now: Instant) -> Option<News> {
        self.nodes.retain(|node| silent.contains(node));
        if silent.is_empty() {
            return std::mem::take(&mut self.is_open).then_some(News::Answered);
        }
        let last = self.last.map(|last| now.duration_since(last));
        let is_soon = last.is_some_and(|pause| pause < LEAST_PAUSE);
        // Those that come too soon are written later, if they are silent still.
        if is_soon || silent.is_subset(&self.nodes) {
            return None;
        }
        *self = Told {
            nodes: silent,
            is_open: true,
            last: Some(now),
        };
        Some(News::Silent)
    }
}

/// Writes the last requests, as many as `most`, and all that are not answered.
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

/// The requests that are remembered, in the order of their answers.
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
    fn each_file_that_does_not_answer_is_told_once_and_not_too_often() {
        let mut told = Told::default();
        let start = Instant::now();
        let mut look = |silent: &[u64], seconds| {
            let now = start + Duration::from_secs(seconds);
            told.look(silent.iter().copied().collect(), now)
        };
        assert_eq!(look(&[], 0), None);
        assert_eq!(look(&[1], 2), Some(News::Silent));
        assert_eq!(look(&[1], 100), None, "once");
        assert_eq!(
            look(&[1, 2], 102),
            Some(News::Silent),
            "while the first is silent"
        );
        assert_eq!(look(&[1, 2, 3], 104), None, "too soon");
        assert_eq!(look(&[3], 162), Some(News::Silent), "still silent");
        assert_eq!(look(&[], 164), Some(News::Answered));
        assert_eq!(look(&[], 166), None);
        assert_eq!(look(&[1], 230), Some(News::Silent), "again");
        assert_eq!(look(&[2], 232), None, "too soon");
        assert_eq!(look(&[], 234), Some(News::Answered), "all the same");
    }
}
