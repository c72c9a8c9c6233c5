//! The adapter's parts, and how a request's operation is run and answered.

use super::convert::actor;
use super::passthrough::Passthrough;
use super::reply::Answer;
use crate::actor::Actor;
use crate::cache::Timeouts;
use crate::config::Config;
use crate::dispatch::Dispatch;
use crate::fs::{Entry, Fs};
use crate::view::Tree;
use fuser::{INodeNo, ReplyEntry, Request};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::sync::Arc;

/// Serves one `Fs` to the kernel.
#[derive(Debug)]
pub struct Adapter<T: Tree> {
    pub(super) fs: Arc<Fs<T>>,
    pub(super) dispatch: Dispatch<Fs<T>>,
    pub(super) passthrough: Arc<Passthrough>,
    pub(super) timeouts: Timeouts,
}

impl<T: Tree> Adapter<T> {
    /// Serves `fs` as `config` says.
    pub fn new(fs: Arc<Fs<T>>, config: &Config) -> Self {
        Adapter {
            dispatch: Dispatch::new(fs.clone(), config.threads),
            timeouts: fs.timeouts(),
            fs,
            passthrough: Arc::new(Passthrough::new(config)),
        }
    }

    /// Answers a request of a handle, which may be the kernel's own and acts as the handle's opener.
    pub(super) fn handle<O>(
        &self,
        node: INodeNo,
        reply: impl Answer<O>,
        op: impl FnOnce(&Fs<T>) -> Result<O> + Send + 'static,
    ) {
        self.dispatch
            .content(node.0, move |fs| reply.answer(op(fs)));
    }

    /// Answers a caller's request that concerns the bytes of `node`.
    pub(super) fn content<O>(
        &self,
        req: &Request,
        node: INodeNo,
        reply: impl Answer<O>,
        op: impl Fn(&Fs<T>) -> Result<O> + Send + 'static,
    ) {
        let by = actor(req);
        self.dispatch
            .content(node.0, move |fs| answer(fs, by, reply, op));
    }

    /// Answers a caller's request that concerns `node` but not its bytes.
    pub(super) fn tree<O>(
        &self,
        req: &Request,
        node: INodeNo,
        reply: impl Answer<O>,
        op: impl Fn(&Fs<T>) -> Result<O> + Send + 'static,
    ) {
        let by = actor(req);
        self.dispatch
            .tree(node.0, move |fs| answer(fs, by, reply, op));
    }

    /// As `tree`, for a request that sets the modification time of `node`: what clients have stored through mappings before
    /// is written back before.
    pub(super) fn after_stores<O>(
        &self,
        req: &Request,
        node: INodeNo,
        reply: impl Answer<O>,
        op: impl Fn(&Fs<T>) -> Result<O> + Send + 'static,
    ) {
        if !self.fs.may_hold_stores(node.0) {
            return self.tree(req, node, reply, op);
        }
        let by = actor(req);
        let write_back = move |fs: &Arc<Fs<T>>| fs.write_back(node.0);
        let job = move |fs: &Arc<Fs<T>>| answer(fs, by, reply, op);
        self.dispatch.tree_after(node.0, write_back, job);
    }

    /// Answers a request that makes or finds the inode `name` in the directory `parent`.
    pub(super) fn entry(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
        op: impl Fn(&Fs<T>, &OsStr) -> Result<Entry> + Send + 'static,
    ) {
        let name = name.to_owned();
        self.tree(req, parent, (reply, self.timeouts), move |fs| op(fs, &name));
    }
}

/// Runs a caller's request and answers it.
fn answer<T: Tree, O>(
    fs: &Arc<Fs<T>>,
    by: Actor,
    reply: impl Answer<O>,
    op: impl Fn(&Fs<T>) -> Result<O> + Send + 'static,
) {
    fs.with_room(move |fs| ask(fs, &by, &op), |outcome| reply.answer(outcome));
}

/// Runs a caller's request. Of one that has met something stale, the kernel asks once more.
pub(super) fn ask<T: Tree, O>(
    fs: &Fs<T>,
    by: &Actor,
    op: impl FnOnce(&Fs<T>) -> Result<O>,
) -> Result<O> {
    by.begin();
    op(fs).inspect_err(|&errno| {
        if errno == Errno::STALE {
            fs.told_stale(by);
        }
    })
}
