//! Counts a request from its decoding until its reply is sent, with the errno of the reply.

use super::reply::Answer;
use crate::counters::Served;
use rustix::io::Result;

/// A reply and its request.
#[derive(Debug)]
pub struct Counted<R> {
    pub reply: R,
    request: Served,
}

impl<R> Counted<R> {
    pub fn new(request: Served, reply: R) -> Self {
        Counted { reply, request }
    }

    /// Counts the answer `errno`, 0 for success, then sends the reply with `send`.
    pub fn send(mut self, errno: i32, send: impl FnOnce(R)) {
        self.request.answers(errno);
        send(self.reply);
        // With `-vvv`. The FUSE library logs the request itself at that verbosity.
        log::trace!("{}", self.request);
    }
}

impl<O, R: Answer<O>> Answer<O> for Counted<R> {
    fn answer(self, outcome: Result<O>) {
        let errno = self.reply.errno(&outcome);
        self.send(errno, |reply| reply.answer(outcome));
    }

    fn errno(&self, outcome: &Result<O>) -> i32 {
        self.reply.errno(outcome)
    }
}
