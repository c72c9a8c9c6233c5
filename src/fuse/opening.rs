//! OPEN and CREATE. The kernel may serve the opened file by itself (`passthrough`).

use super::adapter::{Adapter, run};
use super::convert::actor;
use super::reply::sent_errno;
use crate::counters::Kind;
use crate::fs::Fs;
use crate::view::Tree;
use fuser::{INodeNo, ReplyCreate, ReplyOpen, Request};
use rustix::fs::OFlags;
use std::ffi::OsStr;

impl<T: Tree> Adapter<T> {
    /// Answers OPEN.
    pub(super) fn open_file(&self, req: &Request, node: INodeNo, flags: OFlags, reply: ReplyOpen) {
        let (by, passthrough) = (actor(req), self.passthrough.clone());
        let reply = self.count(Kind::Open, node, reply);
        // The first open for writing waits for readers, and open(2) on the source may block. Requests for attributes must not
        // wait behind it.
        self.dispatch.content(node.0, move |fs| {
            let open = move |fs: &Fs<T>| run(fs, &by, |fs| fs.open(&by, node.0, flags));
            fs.with_descriptor(open, move |opened| {
                reply.send(sent_errno(&opened), |reply| {
                    passthrough.opened(&by, opened, reply)
                });
            });
        });
    }

    /// Answers CREATE.
    pub(super) fn create_file(
        &self,
        req: &Request,
        (parent, name): (INodeNo, &OsStr),
        (mode, umask, flags): (u32, u32, OFlags),
        reply: ReplyCreate,
    ) {
        let (by, name) = (actor(req), name.to_owned());
        let (passthrough, timeouts) = (self.passthrough.clone(), self.timeouts);
        let reply = self.count(Kind::Create, parent, reply);
        self.dispatch.tree(parent.0, move |fs| {
            let create = move |fs: &Fs<T>| {
                run(fs, &by, |fs| {
                    fs.create(&by, parent.0, &name, mode, umask, flags)
                })
            };
            fs.with_descriptor(create, move |created| {
                reply.send(sent_errno(&created), |reply| {
                    passthrough.created(&by, created, timeouts, reply);
                });
            });
        });
    }
}
