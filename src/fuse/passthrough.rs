//! Opened files handed over to the kernel (`--passthrough`): it reads, writes and maps the source by itself, and asks
//! for nothing but what is left (Linux 6.9, CAP_SYS_ADMIN). What cannot be handed over is served from windows.

use super::convert::{file_attr, fopen_flags, fuse_errno, passed_flags};
use crate::actor::Actor;
use crate::config::Config;
use crate::fs::{Entry, Opened};
use crate::view::Content;
use fuser::{BackingId, FileHandle, Generation, InitFlags, KernelConfig, ReplyCreate, ReplyOpen};
use rustix::io::Result;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Whether files are handed over.
#[derive(Debug)]
pub struct Passthrough {
    on: AtomicBool,
    complained: AtomicBool,
}

/// Whether a kernel that offers this can be asked for it.
pub fn offers_passthrough(offered: InitFlags) -> bool {
    offered.contains(InitFlags::FUSE_PASSTHROUGH)
}

impl Passthrough {
    /// Handing over if that is wanted, until the kernel refuses.
    pub fn new(config: &Config) -> Self {
        let this = Passthrough {
            on: AtomicBool::new(config.passthrough),
            complained: AtomicBool::new(false),
        };
        if config.flags.no_atime || config.flags.sync {
            this.give_up("the kernel passes files through neither with noatime nor with sync");
        }
        this
    }

    /// Asks the kernel for it. A source that is `stacked` on other filesystems itself takes a level more, and then
    /// nothing can be stacked on the mount.
    pub fn negotiate(&self, config: &mut KernelConfig, stacked: bool) {
        if !self.on.load(Relaxed) {
            return;
        }
        let depth = if stacked { 2 } else { 1 };
        if config
            .add_capabilities(InitFlags::FUSE_PASSTHROUGH)
            .is_err()
            || config.set_max_stack_depth(depth).is_err()
        {
            self.give_up("this kernel has no FUSE passthrough (Linux 6.9 has)");
        }
    }

    /// Answers OPEN.
    pub fn opened<O: Content>(&self, by: &Actor, outcome: Result<Opened<O>>, reply: ReplyOpen) {
        let opened = match outcome {
            Ok(opened) => opened,
            Err(errno) => return reply.error(fuse_errno(errno)),
        };
        let fh = FileHandle(opened.fh);
        match self.backing(by, &opened, |fd| reply.open_backing(fd)) {
            Some(backing) => reply.opened_passthrough(fh, passed_flags(&opened), backing),
            None => reply.opened(fh, fopen_flags(&opened)),
        }
    }

    /// Answers CREATE.
    pub fn created<O: Content>(
        &self,
        by: &Actor,
        outcome: Result<(Entry, Opened<O>)>,
        timeout: Duration,
        reply: ReplyCreate,
    ) {
        let (entry, opened) = match outcome {
            Ok(created) => created,
            Err(errno) => return reply.error(fuse_errno(errno)),
        };
        let fh = FileHandle(opened.fh);
        let (attr, generation) = (file_attr(&entry.attr), Generation(entry.generation.into()));
        match self.backing(by, &opened, |fd| reply.open_backing(fd)) {
            Some(backing) => {
                let flags = passed_flags(&opened);
                reply.created_passthrough(&timeout, &attr, generation, fh, flags, backing);
            }
            None => reply.created(&timeout, &attr, generation, fh, fopen_flags(&opened)),
        }
    }

    /// The kernel's hold on a file that was just opened. All who have it open share one, so what the first of
    /// them got holds for the others: `None` is service from windows.
    fn backing<'a, O: Content>(
        &self,
        by: &Actor,
        opened: &'a Opened<O>,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> Option<&'a BackingId> {
        if !self.on.load(Relaxed) && !opened.is_handed_over() {
            return None;
        }
        opened.hand_over(by, |fd| {
            register(fd).inspect_err(|error| self.refused(error)).ok()
        })
    }

    fn refused(&self, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::EPERM) => self.give_up("passthrough takes CAP_SYS_ADMIN"),
            // ELOOP: it lies on a filesystem that is stacked higher than the source's root.
            _ if !self.complained.swap(true, Relaxed) => {
                log::warn!(
                    "a file cannot be passed through ({error}): such files are served from maps"
                );
            }
            _ => {}
        }
    }

    fn give_up(&self, why: &str) {
        if self.on.swap(false, Relaxed) {
            log::warn!("{why}: files are served from maps");
        }
    }
}
