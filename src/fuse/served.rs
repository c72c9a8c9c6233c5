//! Requests are counted from when they are decoded until their reply is sent, with what they were answered.

use super::reply::Answer;
use crate::counters::Served;
use rustix::io::Result;

/// A reply, and the request that is served by it.
#[derive(Debug)]
pub struct Counted<R> {
    pub reply: R,
    request: Served,
}

impl<R> Counted<R> {
    pub fn new(request: Served, reply: R) -> Self {
        Counted { reply, request }
    }

    /// Has `send` send the reply, whose errno is known: 0 for success.
    pub fn send(mut self, errno: i32, send: impl FnOnce(R)) {
        self.request.answers(errno);
        send(self.reply);
        // As the FUSE library logs the request itself, so its answer: by `-vvv`.
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
