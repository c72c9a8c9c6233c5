//! One method for each request: decodes it, calls `Fs`, replies. No decision is taken here.

use super::adapter::Adapter;
use super::channel::is_question;
use super::convert::{actor, decode_device, open_flags, set_time, writing};
use super::ioctl;
use super::negotiation::negotiate;
use super::reply::{Answer, list, list_plus};
use crate::counters::Kind;
use crate::fs::Listed;
use crate::request::SetAttr;
use crate::view::Tree;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs as sys;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::SystemTime;

impl<T: Tree> Filesystem for Adapter<T> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let known = negotiate(config)?;
        self.facts.negotiated(known);
        if known.contains(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP) {
            self.fs.set_mixes_direct();
        }
        self.passthrough.negotiate(config, &self.fs);
        Ok(())
    }

    fn destroy(&mut self) {
        self.fs.settle();
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // The node of the name is not known yet, so the request waits in the queue of the directory.
        let by = actor(req);
        self.entry(req, Kind::Lookup, parent, name, reply, move |fs, name| {
            fs.lookup(&by, parent.0, name)
        });
    }

    fn forget(&self, _: &Request, node: INodeNo, count: u64) {
        let counted = self.count(Kind::Forget.at(0, count), node, ());
        self.dispatch
            .any(move |fs| counted.send(0, |()| fs.forget(node.0, count)));
    }

    fn getattr(&self, req: &Request, node: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.tree(
            req,
            Kind::GetAttr,
            node,
            (reply, self.timeouts),
            move |fs| fs.getattr(node.0, fh.map(|fh| fh.0)),
        );
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
        self.set_attributes(req, (node, fh.map(|fh| fh.0)), set, reply);
    }

    fn readlink(&self, req: &Request, node: INodeNo, reply: ReplyData) {
        self.tree(req, Kind::ReadLink, node, reply, move |fs| {
            fs.readlink(node.0)
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
        let (by, rdev) = (actor(req), decode_device(rdev));
        self.entry(req, Kind::MkNod, parent, name, reply, move |fs, name| {
            fs.mknod(&by, parent.0, name, mode, umask, rdev)
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
        let by = actor(req);
        self.entry(req, Kind::MkDir, parent, name, reply, move |fs, name| {
            fs.mkdir(&by, parent.0, name, mode, umask)
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.tree(req, Kind::Unlink, parent, reply, move |fs| {
            fs.unlink(parent.0, &name)
        });
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.tree(req, Kind::RmDir, parent, reply, move |fs| {
            fs.rmdir(parent.0, &name)
        });
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (by, target) = (actor(req), target.to_owned());
        self.entry(req, Kind::Symlink, parent, name, reply, move |fs, name| {
            fs.symlink(&by, parent.0, name, &target)
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = sys::RenameFlags::from_bits_retain(flags.bits());
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        self.tree(req, Kind::Rename, parent, reply, move |fs| {
            fs.rename((parent.0, &name), (new_parent.0, &new_name), flags)
        });
    }

    fn link(&self, req: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(req, Kind::Link, parent, name, reply, move |fs, name| {
            fs.link(node.0, parent.0, name)
        });
    }

    fn open(&self, req: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.open_file(req, node, open_flags(flags.0), reply);
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
        let made = (mode, umask, open_flags(flags));
        self.create_file(req, (parent, name), made, reply);
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
        let reply = self.count(Kind::Read.at(offset, size.into()), node, reply);
        self.dispatch.content(node.0, move |fs| {
            fs.read(fh.0, offset, size, flags, |bytes| reply.answer(bytes));
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
        let how = writing(write_flags, open_flags(flags.0));
        let what = Kind::Write.at(offset, data.len() as u64);
        let reply = self.count(what, node, reply);
        self.dispatch.content_with(node.0, data, move |fs, data| {
            fs.write_with_room(fh.0, (offset, data), how, |count| reply.answer(count));
        });
    }

    fn flush(&self, _: &Request, node: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.handle(Kind::Flush, node, reply, move |fs| fs.flush(fh.0));
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
        self.handle(Kind::Release, node, reply, move |fs| fs.release(fh.0));
    }

    fn fsync(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.handle(Kind::Fsync, node, reply, move |fs| {
            fs.fsync(fh.0, data_only)
        });
    }

    fn opendir(&self, req: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let flags = open_flags(flags.0);
        self.tree(req, Kind::OpenDir, node, reply, move |fs| {
            fs.opendir(node.0, flags)
        });
    }

    fn readdir(
        &self,
        req: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let by = actor(req);
        let mut reply = self.count(Kind::ReadDir.at(offset, 0), node, reply);
        self.dispatch.tree(node.0, move |fs| {
            by.begin();
            let listed = fs.readdir(fh.0, offset, |entry| list(&mut reply.reply, entry));
            reply.answer(listed);
        });
    }

    fn readdirplus(
        &self,
        req: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let by = actor(req);
        let mut reply = self.count(Kind::ReadDirPlus.at(offset, 0), node, reply);
        let timeouts = self.timeouts;
        self.dispatch.tree(node.0, move |fs| {
            by.begin();
            let take = |entry: &Listed<'_>| list_plus(&mut reply.reply, entry, timeouts);
            let listed = fs.readdirplus(fh.0, offset, take);
            reply.answer(listed);
        });
    }

    fn releasedir(
        &self,
        _: &Request,
        node: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let reply = self.count(Kind::ReleaseDir, node, reply);
        self.dispatch
            .any(move |fs| reply.answer(fs.releasedir(fh.0)));
    }

    fn fsyncdir(
        &self,
        req: &Request,
        node: INodeNo,
        fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.tree(req, Kind::FsyncDir, node, reply, move |fs| {
            fs.fsyncdir(fh.0, data_only)
        });
    }

    fn statfs(&self, req: &Request, node: INodeNo, reply: ReplyStatfs) {
        self.tree(req, Kind::StatFs, node, reply, move |fs| fs.statfs(node.0));
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
        if is_question(name) {
            return self.chosen(req, node, (name, value), reply);
        }
        let (by, name, value) = (actor(req), name.to_owned(), value.to_owned());
        self.tree(req, Kind::SetXattr, node, reply, move |fs| {
            fs.setxattr(&by, node.0, &name, &value, flags as u32)
        });
    }

    fn getxattr(&self, req: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if is_question(name) {
            return self.question(req, node, name, size, reply);
        }
        let name = name.to_owned();
        self.tree(
            req,
            Kind::GetXattr,
            node,
            (reply, size),
            move |fs| match size {
                0 => fs.getxattr_size(node.0, &name).map(|len| (len, Vec::new())),
                _ => fs
                    .getxattr(node.0, &name, size as usize)
                    .map(|value| (value.len(), value)),
            },
        );
    }

    fn listxattr(&self, req: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let by = actor(req);
        self.tree(req, Kind::ListXattr, node, (reply, size), move |fs| {
            fs.listxattr(&by, node.0).map(|list| (list.len(), list))
        });
    }

    fn removexattr(&self, req: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if is_question(name) {
            return self.refuse_control(node, reply);
        }
        let (by, name) = (actor(req), name.to_owned());
        self.tree(req, Kind::RemoveXattr, node, reply, move |fs| {
            fs.removexattr(&by, node.0, &name)
        });
    }

    fn access(&self, _: &Request, node: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        // With default_permissions the kernel checks permissions and sends no ACCESS. To ENOSYS it would allow the access.
        self.unsupported(Kind::Access, node, |errno| reply.error(errno));
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
        let by = actor(req);
        self.content(
            req,
            Kind::Fallocate.at(offset, length),
            node,
            reply,
            move |fs| fs.fallocate(&by, fh.0, offset, length, mode as u32),
        );
    }

    fn lseek(
        &self,
        req: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.content(
            req,
            Kind::Lseek.at(offset as u64, 0),
            node,
            reply,
            move |fs| {
                let offset = u64::try_from(offset).map_err(|_| rustix::io::Errno::NXIO)?;
                fs.lseek(fh.0, offset, whence)
            },
        );
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
        let by = actor(req);
        let (from, to) = ((fh_in.0, offset_in), (fh_out.0, offset_out));
        self.content(
            req,
            Kind::CopyFileRange.at(offset_out, len),
            node_out,
            reply,
            move |fs| fs.copy_file_range(&by, from, to, len),
        );
    }

    fn ioctl(
        &self,
        req: &Request,
        node: INodeNo,
        fh: FileHandle,
        _: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let given = in_data.to_owned();
        self.tree(req, Kind::Ioctl, node, reply, move |fs| {
            ioctl::answer(fs, (node.0, fh.0), cmd, &given)
        });
    }

    fn poll(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        // After ENOSYS the kernel answers poll(2) by itself: regular files are always ready.
        self.unsupported(Kind::Poll, node, |errno| reply.error(errno));
    }

    fn bmap(&self, _: &Request, node: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        self.unsupported(Kind::Bmap, node, |errno| reply.error(errno));
    }
}
