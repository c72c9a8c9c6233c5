//! Passes open files through to the kernel (`--passthrough`). The kernel then reads, writes and maps the source's file by itself, and
//! sends only other requests. This needs Linux 6.9 and CAP_SYS_ADMIN. mmfs serves files that cannot be passed through from
//! windows.

use super::convert::{file_attr, fopen_flags, fuse_errno, passthrough_flags};
use crate::actor::Actor;
use crate::cache::Timeouts;
use crate::config::Config;
use crate::fs::{Entry, Fs, Opened};
use crate::report::Feature;
use crate::view::{Content, Tree};
use fuser::{BackingId, FileHandle, Generation, InitFlags, KernelConfig, ReplyCreate, ReplyOpen};
use rustix::io::Result;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether files are passed through.
#[derive(Debug)]
pub struct Passthrough {
    enabled: AtomicBool,
    /// Whether the log already has a line that a file could not be passed through.
    refusal_logged: AtomicBool,
    /// Why no files are passed through. Empty while passthrough is on.
    why_not: OnceLock<&'static str>,
}

/// Whether these features of a kernel include passthrough.
pub fn offers_passthrough(offered: InitFlags) -> bool {
    offered.contains(InitFlags::FUSE_PASSTHROUGH)
}

impl Passthrough {
    /// Enabled if `config` asks for it and its other options allow it.
    pub fn new(config: &Config) -> Self {
        let this = Passthrough {
            enabled: AtomicBool::new(config.passthrough),
            refusal_logged: AtomicBool::new(false),
            why_not: OnceLock::new(),
        };
        if config.flags.no_atime || config.flags.sync {
            this.turn_off("passthrough does not work with noatime or sync");
        }
        this
    }

    /// Asks the kernel for passthrough, and turns it off if the kernel lacks it. Where the files' filesystem is itself stacked on
    /// others, the mount needs one more level, and no filesystem can be stacked on it.
    pub fn negotiate<T: Tree>(&self, config: &mut KernelConfig, fs: &Fs<T>) {
        if !self.enabled.load(Relaxed) {
            return;
        }
        let depth = if fs.is_stacked() { 2 } else { 1 };
        if config
            .add_capabilities(InitFlags::FUSE_PASSTHROUGH)
            .is_err()
            || config.set_max_stack_depth(depth).is_err()
        {
            self.turn_off("this kernel has no FUSE passthrough (it needs Linux 6.9)");
        } else if T::TRUNCATES_AT_OPEN {
            // So the file is cut before it is passed through, not afterwards.
            let _ = config.add_capabilities(InitFlags::FUSE_ATOMIC_O_TRUNC);
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
            Some(backing) => reply.opened_passthrough(fh, passthrough_flags(&opened), backing),
            None => {
                let flags = fopen_flags(&opened);
                drop(opened); // The client may close the file immediately. mmfs must not keep it open after that.
                reply.opened(fh, flags);
            }
        }
    }

    /// Answers CREATE.
    pub fn created<O: Content>(
        &self,
        by: &Actor,
        outcome: Result<(Entry, Opened<O>)>,
        timeouts: Timeouts,
        reply: ReplyCreate,
    ) {
        let (entry, opened) = match outcome {
            Ok(created) => created,
            Err(errno) => return reply.error(fuse_errno(errno)),
        };
        let fh = FileHandle(opened.fh);
        let timeout = entry.timeouts(timeouts).shorter();
        let (attr, generation) = (file_attr(&entry.attr), Generation(entry.generation.into()));
        match self.backing(by, &opened, |fd| reply.open_backing(fd)) {
            Some(backing) => {
                let flags = passthrough_flags(&opened);
                reply.created_passthrough(&timeout, &attr, generation, fh, flags, backing);
            }
            None => {
                let flags = fopen_flags(&opened);
                drop(opened); // As above.
                reply.created(&timeout, &attr, generation, fh, flags);
            }
        }
    }

    /// The kernel's id for a file that is passed through, for one that was just opened. `None` if mmfs serves it from windows. All
    /// opens of a file share one id, so the first open decides for the others.
    fn backing<'a, O: Content>(
        &self,
        by: &Actor,
        opened: &'a Opened<O>,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> Option<&'a BackingId> {
        let content = opened.content();
        let may_begin = self.enabled.load(Relaxed) && opened.may_pass_through;
        // While the kernel serves a file by itself, every further open must be passed through, too. Otherwise it fails with EIO.
        if !may_begin && !content.is_passed_through() {
            return None;
        }
        content.pass_through(by, |fd| {
            register(fd).inspect_err(|error| self.refused(error)).ok()
        })
    }

    fn refused(&self, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::EPERM) => self.turn_off("passthrough needs CAP_SYS_ADMIN"),
            // For example ELOOP: the file's filesystem is stacked higher than the source's root.
            _ if !self.refusal_logged.swap(true, Relaxed) => {
                log::warn!(
                    "a file cannot be passed through ({error}): such files are served from maps"
                );
            }
            _ => {}
        }
    }

    /// For the status: whether passthrough is in use, or why it is not.
    pub fn feature(&self) -> Feature {
        let in_use = self.enabled.load(Relaxed);
        let note = match (in_use, self.why_not.get()) {
            (true, _) if self.refusal_logged.load(Relaxed) => "some files cannot be passed through",
            (true, _) => "",
            (false, Some(why)) => why,
            (false, None) => "not asked for",
        };
        Feature::new("passthrough", in_use, note)
    }

    fn turn_off(&self, why: &'static str) {
        if self.enabled.swap(false, Relaxed) {
            let _ = self.why_not.set(why);
            log::warn!("{why}: files are served from maps");
        }
    }
}
