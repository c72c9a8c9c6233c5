//! Runs the operation of a request, and answers the request.

use super::convert::actor;
use super::discards::Discards;
use super::facts::Facts;
use super::gated::Gated;
use super::passthrough::Passthrough;
use super::reply::Answer;
use super::served::Counted;
use crate::actor::Actor;
use crate::cache::Timeouts;
use crate::config::Config;
use crate::counters::{Kind, Requests, What};
use crate::fs::{Entry, Fs};
use crate::request::SetAttr;
use crate::view::Tree;
use fuser::{INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry, Request};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::sync::Arc;

/// Serves one `Fs` to the kernel.
#[derive(Debug)]
pub struct Adapter<T: Tree> {
    pub(super) fs: Arc<Fs<T>>,
    pub(super) dispatch: Gated<T>,
    pub(super) discards: Arc<Discards<T>>,
    pub(super) passthrough: Arc<Passthrough>,
    pub(super) timeouts: Timeouts,
    pub(super) requests: &'static Requests,
    pub(super) facts: Arc<Facts>,
}

impl<T: Tree> Adapter<T> {
    /// Serves `fs` with the settings of `config`.
    pub fn new(fs: Arc<Fs<T>>, config: &Config) -> Self {
        Adapter {
            dispatch: Gated::new(fs.clone(), config.threads),
            discards: Arc::new(Discards::new(fs.clone())),
            timeouts: fs.timeouts(),
            fs,
            passthrough: Arc::new(Passthrough::new(config)),
            requests: Requests::new(),
            facts: Arc::new(Facts::new(config)),
        }
    }

    /// The constant part of the mount's status.
    pub fn facts(&self) -> Arc<Facts> {
        self.facts.clone()
    }

    /// Counts a request that has arrived. The result answers it.
    pub(super) fn count<R>(&self, what: impl Into<What>, node: INodeNo, reply: R) -> Counted<R> {
        Counted::new(self.requests.begin(what.into(), node.0), reply)
    }

    /// Refuses to remove an attribute of the control channel.
    pub(super) fn refuse_control(&self, node: INodeNo, reply: ReplyEmpty) {
        let reply = self.count(Kind::Control, node, reply);
        reply.answer(Err(Errno::PERM));
    }

    /// Answers ENOSYS, after which the kernel sends no further request of this kind.
    pub(super) fn unsupported(&self, kind: Kind, node: INodeNo, reply: impl FnOnce(fuser::Errno)) {
        let counted = self.count(kind, node, ());
        counted.send(libc::ENOSYS, |()| reply(fuser::Errno::ENOSYS));
    }

    /// Answers a request on a handle. It may come from the kernel itself, and acts as the handle's opener.
    pub(super) fn handle<O>(
        &self,
        what: impl Into<What>,
        node: INodeNo,
        reply: impl Answer<O>,
        op: impl FnOnce(&Fs<T>) -> Result<O> + Send + 'static,
    ) {
        let reply = self.count(what, node, reply);
        self.dispatch
            .content(node.0, move |fs| reply.answer(op(fs)));
    }

    /// Answers a caller's request that concerns the bytes of `node`.
    pub(super) fn content<O>(
        &self,
        req: &Request,
        what: impl Into<What>,
        node: INodeNo,
        reply: impl Answer<O>,
        op: impl Fn(&Fs<T>) -> Result<O> + Send + 'static,
    ) {
        let reply = self.count(what, node, reply);
        let by = actor(req);
        self.dispatch
            .content(node.0, move |fs| answer(fs, by, reply, op));
    }

    /// Answers a caller's request that concerns `node` but not its bytes.
    pub(super) fn tree<O>(
        &self,
        req: &Request,
        what: impl Into<What>,
        node: INodeNo,
        reply: impl Answer<O>,
        op: impl Fn(&Fs<T>) -> Result<O> + Send + 'static,
    ) {
        let reply = self.count(what, node, reply);
        let by = actor(req);
        self.dispatch
            .tree(node.0, move |fs| answer(fs, by, reply, op));
    }

    /// Answers SETATTR.
    pub(super) fn set_attributes(
        &self,
        req: &Request,
        (node, fh): (INodeNo, Option<u64>),
        set: SetAttr,
        reply: ReplyAttr,
    ) {
        let (by, reply) = (actor(req), (reply, self.timeouts));
        let change = move |fs: &Fs<T>| fs.setattr(&by, node.0, fh, &set);
        match (set.size, set.mtime) {
            // A resize waits for reads and writes of the file. The kernel writes no pages back until the resize is answered.
            (Some(_), _) => self.content(req, Kind::SetAttr, node, reply, change),
            (None, Some(_)) => self.after_stores(req, Kind::SetAttr, node, reply, change),
            (None, None) => self.tree(req, Kind::SetAttr, node, reply, change),
        }
    }

    /// As `tree`, for a request that sets the modification time of `node`. Pages that clients have stored into through mappings
    /// are written back first.
    pub(super) fn after_stores<O>(
        &self,
        req: &Request,
        kind: Kind,
        node: INodeNo,
        reply: impl Answer<O>,
        op: impl Fn(&Fs<T>) -> Result<O> + Send + 'static,
    ) {
        if !self.fs.may_hold_stores(node.0) {
            return self.tree(req, kind, node, reply, op);
        }
        let (by, reply) = (actor(req), self.count(kind, node, reply));
        let write_back = move |fs: &Arc<Fs<T>>| fs.write_back(node.0);
        let job = move |fs: &Arc<Fs<T>>| answer(fs, by, reply, op);
        self.dispatch.tree_after(node.0, write_back, job);
    }

    /// Answers a request that creates or looks up `name` in the directory `parent`.
    pub(super) fn entry(
        &self,
        req: &Request,
        kind: Kind,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
        op: impl Fn(&Fs<T>, &OsStr) -> Result<Entry> + Send + 'static,
    ) {
        let name = name.to_owned();
        let reply = (reply, self.timeouts);
        self.tree(req, kind, parent, reply, move |fs| op(fs, &name));
    }
}

/// Runs a caller's request and answers it.
fn answer<T: Tree, O>(
    fs: &Arc<Fs<T>>,
    by: Actor,
    reply: impl Answer<O>,
    op: impl Fn(&Fs<T>) -> Result<O> + Send + 'static,
) {
    fs.with_room(move |fs| run(fs, &by, &op), |outcome| reply.answer(outcome));
}

/// Runs a caller's request. After ESTALE the kernel tries it once more.
pub(super) fn run<T: Tree, O>(
    fs: &Fs<T>,
    by: &Actor,
    op: impl FnOnce(&Fs<T>) -> Result<O>,
) -> Result<O> {
    by.begin();
    op(fs).inspect_err(|&errno| {
        if errno == Errno::STALE {
            fs.begin_retry(by);
        }
    })
}
