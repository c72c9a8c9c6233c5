//! What the daemon writes of itself to its log: everything when SIGUSR1 asks for it, and what waits when something does not answer
//! for ten seconds. No verbosity but `-qq` hides these lines.
//!
//! Nothing here takes a lock that a request may hold, or asks the source: this is for when something hangs.

use std::time::Duration;

use crate::fuse::{Channel, NOT_ANSWERING};
use crate::logging::REPORT;
use crate::report::{MAX_ANSWER, Request};
use crate::show;
use crate::sys::threads;
use crate::view::Tree;

/// How often is looked for requests that are not answered.
const INTERVAL: Duration = Duration::from_secs(2);

/// How many of the last requests are written when something does not answer.
const LAST: usize = 256;

/// For a line at a time.
const STACK_SIZE: usize = 256 << 10;

/// Writes all that the mount says of itself: its status, the last requests, and those that are not answered.
pub fn all<T: Tree>(channel: &Channel<T>) {
    write("status", &show::describe(&channel.status()));
    requests(channel, usize::MAX);
}

/// Starts a thread that writes the requests that wait and the last ones, once whenever something does not answer.
///
/// # Errors
/// Those of pthread_create(3).
pub fn watch<T: Tree>(channel: Channel<T>) -> std::io::Result<()> {
    threads::start(STACK_SIZE, move || {
        let mut is_told = false;
        loop {
            std::thread::sleep(INTERVAL);
            let waits = channel.waits();
            let is_silent = waits.files_not_answering > 0;
            if is_silent && !is_told {
                log::warn!(
                    "something does not answer: {} requests wait, the oldest for {} s",
                    waits.requests,
                    waits.oldest_us / 1_000_000
                );
                requests(&channel, LAST);
            }
            if is_told && !is_silent {
                log::info!(target: REPORT, "everything has answered that did not for {NOT_ANSWERING:?}");
            }
            is_told = is_silent;
        }
    })
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
    let mut from = 0;
    loop {
        let page = channel.trace(from, MAX_ANSWER);
        if page.requests.is_empty() || page.next <= from {
            return all;
        }
        from = page.next;
        all.extend(page.requests);
    }
}

fn write(what: &str, text: &str) {
    for line in text.lines().filter(|line| !line.is_empty()) {
        log::info!(target: REPORT, "{what}: {line}");
    }
}
