//! The FUSE adapter: decodes a request, calls `Fs`, replies. No decision is taken here.

mod convert;
mod ioctl;
mod negotiation;
mod passthrough;

pub use negotiation::{features, negotiate};

use crate::config::Config;
use crate::dispatch::Dispatch;
use crate::fs::{Fs, Listed, SetAttr, Writing};
use crate::inode::Entry;
use convert::{
    asker, attr, bare_attr, decode_device, empty, file_attr, file_type, fuse_errno, open_flags,
    set_time, statfs, written, xattr,
};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use passthrough::Passthrough;
pub use passthrough::offers_passthrough;
use rustix::fs as sys;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Serves one `Fs` to the kernel.
#[derive(Debug)]
pub struct Adapter {
    fs: Arc<Fs>,
    dispatch: Dispatch<Fs>,
    passthrough: Arc<Passthrough>,
    attr_timeout: Duration,
    entry_timeout: Duration,
}

impl Adapter {
    /// Serves `fs` with the timeouts of `config`.
    pub fn new(fs: Arc<Fs>, config: &Config) -> Self {
        Adapter {
            dispatch: Dispatch::new(fs.clone(), config.threads),
            fs,
            passthrough: Arc::new(Passthrough::new(config)),
            attr_timeout: config.attr_timeout,
            entry_timeout: config.entry_timeout,
        }
    }

    /// Answers with what was found or made in the directory `parent`.
    fn entry(
        &self,
        parent: INodeNo,
        reply: ReplyEntry,
        op: impl FnOnce(&Fs) -> rustix::io::Result<Entry> + Send + 'static,
    ) {
        let timeouts = (self.attr_timeout, self.entry_timeout);
        self.in_lane(parent, move |fs| entry(op(fs), timeouts, reply));
    }

    /// Answers with nothing but success, in the lane of the file's bytes.
    fn empty(
        &self,
        node: INodeNo,
        reply: ReplyEmpty,
        op: impl FnOnce(&Fs) -> rustix::io::Result<()> + Send + 'static,
    ) {
        self.dispatch
            .content(node.0, move |fs| empty(op(fs), reply));
    }

    /// Whatever might wait for one inode, but not for its bytes.
    fn in_lane(&self, node: INodeNo, op: impl FnOnce(&Fs) + Send + 'static) {
        self.dispatch.tree(node.0, op);
    }
}

fn entry(outcome: rustix::io::Result<Entry>, timeouts: (Duration, Duration), reply: ReplyEntry) {
    match outcome {
        Ok(e) => reply.entry_with_ttls(
            &timeouts.0,
            &timeouts.1,
            &file_attr(&e.attr),
            Generation(e.generation.into()),
        ),
        Err(errno) => reply.error(fuse_errno(errno)),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config);
        self.passthrough.negotiate(config, self.fs.is_stacked());
        Ok(())
    }

    fn destroy(&mut self) {
        self.fs.settle();
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // What the name leads to may never answer, and is not known yet: the directory's lane is taken.
        let name = name.to_owned();
        self.entry(parent, reply, move |fs| fs.lookup(parent.0, &name));
    }

    fn forget(&self, _: &Request, node: INodeNo, count: u64) {
        // It may have the source free a large file.
        self.dispatch.here(|fs| fs.forget(node.0, count));
    }

    fn getattr(&self, _: &Request, node: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let timeout = self.attr_timeout;
        self.in_lane(node, move |fs| {
            attr(fs.getattr(node.0, fh.map(|fh| fh.0)), timeout, reply)
        });
    }

    fn setattr(
        &self,
        req: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        };
        let asker = asker(req);
        let timeout = self.attr_timeout;
        let change = move |fs: &Fs| {
            let changed = fs.setattr(&asker, node.0, fh.map(|fh| fh.0), &set);
            attr(changed, timeout, reply);
        };
        match size {
            Some(_) => self.dispatch.content(node.0, change),
            None => self.dispatch.tree(node.0, change),
        }
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        self.in_lane(node, move |fs| match fs.readlink(node.0) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(fuse_errno(errno)),
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (asker, rdev, name) = (asker(req), decode_device(rdev), name.to_owned());
        self.entry(parent, reply, move |fs| {
            fs.mknod(&asker, parent.0, &name, mode, umask, rdev)
        });
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (asker, name) = (asker(req), name.to_owned());
        self.entry(parent, reply, move |fs| {
            fs.mkdir(&asker, parent.0, &name, mode, umask)
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.in_lane(parent, move |fs| empty(fs.unlink(parent.0, &name), reply));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.in_lane(parent, move |fs| empty(fs.rmdir(parent.0, &name), reply));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (asker, name, target) = (asker(req), name.to_owned(), target.to_owned());
        self.entry(parent, reply, move |fs| {
            fs.symlink(&asker, parent.0, &name, &target)
        });
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = sys::RenameFlags::from_bits_retain(flags.bits());
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        self.in_lane(parent, move |fs| {
            let (from, to) = ((parent.0, &*name), (new_parent.0, &*new_name));
            empty(fs.rename(from, to, flags), reply);
        });
    }

    fn link(&self, _: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.entry(parent, reply, move |fs| fs.link(node.0, parent.0, &name));
    }

    fn open(&self, req: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (asker, flags) = (asker(req), open_flags(flags.0));
        // The first writer waits for readers, to change the windows under them, and the source's own open may wait
        // for bytes: attributes must not wait with it.
        let passthrough = self.passthrough.clone();
        self.dispatch.content(node.0, move |fs| {
            let opened = fs.open(&asker, node.0, flags);
            passthrough.opened(fs, &asker, opened, reply);
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (asker, name, flags) = (asker(req), name.to_owned(), open_flags(flags));
        // One timeout serves name and attributes here, as in readdirplus.
        let timeout = self.attr_timeout.min(self.entry_timeout);
        let passthrough = self.passthrough.clone();
        self.in_lane(parent, move |fs| {
            let created = fs.create(&asker, parent.0, &name, mode, umask, flags);
            passthrough.created(fs, &asker, created, timeout, reply);
        });
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let flags = open_flags(flags.0);
        self.dispatch.content(node.0, move |fs| {
            fs.read(fh.0, offset, size, flags, |outcome| match outcome {
                Ok(bytes) => reply.data(bytes),
                Err(errno) => reply.error(fuse_errno(errno)),
            });
        });
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let how = Writing {
            flags: open_flags(flags.0),
            from_mapping: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            drop_setid: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        self.dispatch.content_with(node.0, data, move |fs, data| {
            written(fs.write(fh.0, offset, data, how), reply)
        });
    }

    fn flush(&self, _: &Request, node: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.empty(node, reply, move |fs| fs.flush(fh.0));
    }

    fn release(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.empty(node, reply, move |fs| fs.release(fh.0));
    }

    fn fsync(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.empty(node, reply, move |fs| fs.fsync(fh.0, data_only));
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.in_lane(node, move |fs| match fs.opendir(node.0) {
            Ok((fh, fresh)) => {
                let mut flags = FopenFlags::FOPEN_CACHE_DIR;
                flags.set(FopenFlags::FOPEN_KEEP_CACHE, fresh);
                reply.opened(FileHandle(fh), flags);
            }
            Err(errno) => reply.error(fuse_errno(errno)),
        });
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.in_lane(node, move |fs| {
            let take =
                |e: &Listed<'_>| !reply.add(INodeNo(e.ino), e.offset, file_type(e.kind), e.name);
            match fs.readdir(fh.0, offset, take) {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(fuse_errno(errno)),
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        // One timeout serves name and attributes here: the shorter keeps both promises.
        let timeout = self.attr_timeout.min(self.entry_timeout);
        self.in_lane(node, move |fs| {
            let take = |e: &Listed<'_>| {
                let (attr, timeout, generation) = match &e.entry {
                    Some(entry) => (file_attr(&entry.attr), timeout, entry.generation),
                    None => (bare_attr(e), Duration::ZERO, 0),
                };
                !reply.add(
                    INodeNo(e.ino),
                    e.offset,
                    e.name,
                    &timeout,
                    &attr,
                    Generation(generation.into()),
                )
            };
            match fs.readdirplus(fh.0, offset, take) {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(fuse_errno(errno)),
            }
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.dispatch.here(|fs| empty(fs.releasedir(fh.0), reply));
    }

    fn fsyncdir(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.in_lane(node, move |fs| empty(fs.fsyncdir(fh.0, data_only), reply));
    }

    fn statfs(&self, _: &Request, node: INodeNo, reply: ReplyStatfs) {
        self.in_lane(node, move |fs| statfs(fs.statfs(node.0), reply));
    }

    fn setxattr(
        &self,
        req: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (asker, name, value) = (asker(req), name.to_owned(), value.to_owned());
        self.in_lane(node, move |fs| {
            empty(
                fs.setxattr(&asker, node.0, &name, &value, flags as u32),
                reply,
            );
        });
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_owned();
        self.in_lane(node, move |fs| {
            let outcome = match size {
                0 => fs.getxattr_size(node.0, &name).map(|len| (len, Vec::new())),
                _ => fs
                    .getxattr(node.0, &name, size as usize)
                    .map(|value| (value.len(), value)),
            };
            xattr(outcome, size, reply);
        });
    }

    fn listxattr(&self, req: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let asker = asker(req);
        self.in_lane(node, move |fs| {
            let list = fs.listxattr(&asker, node.0);
            xattr(list.map(|list| (list.len(), list)), size, reply);
        });
    }

    fn removexattr(&self, req: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (asker, name) = (asker(req), name.to_owned());
        self.in_lane(node, move |fs| {
            empty(fs.removexattr(&asker, node.0, &name), reply)
        });
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        // Under default_permissions the kernel decides, and takes this for consent should it ever ask.
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        req: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let asker = asker(req);
        self.empty(node, reply, move |fs| {
            fs.fallocate(&asker, fh.0, offset, length, mode as u32)
        });
    }

    fn lseek(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.dispatch.content(node.0, move |fs| {
            let offset = u64::try_from(offset).map_err(|_| rustix::io::Errno::NXIO);
            match offset.and_then(|offset| fs.lseek(fh.0, offset, whence)) {
                Ok(found) => reply.offset(found as i64),
                Err(errno) => reply.error(fuse_errno(errno)),
            }
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        node_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let asker = asker(req);
        let (from, to) = ((fh_in.0, offset_in), (fh_out.0, offset_out));
        self.dispatch.content(node_out.0, move |fs| {
            written(fs.copy_file_range(&asker, from, to, len), reply)
        });
    }

    fn ioctl(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        _: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let given = in_data.to_owned();
        self.in_lane(node, move |fs| {
            match ioctl::answer(fs, (node.0, fh.0), cmd, &given) {
                Ok(data) => reply.ioctl(0, &data),
                Err(errno) => reply.error(fuse_errno(errno)),
            }
        });
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        // From now on the kernel answers by itself: regular files are always ready.
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }
}
