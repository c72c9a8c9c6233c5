//! A filesystem to be the source of a mount, in a process of its own: this very test program, started once more.
//!
//! In its root: `good0` to `good7`, 1 MiB each; `eio`, whose reads fail; `never0` to `never15`, whose reads are not
//! answered until the connection is cut.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEntry, ReplyOpen, Request, SessionACL,
};

use crate::common::{fuse, tools};

/// Tells the second process where to mount.
const POINT: &str = "MMFS_TEST_FAULTY_SOURCE";

/// The filesystem, mounted.
pub struct Faulty {
    point: tempfile::TempDir,
    child: Child,
}

impl Faulty {
    /// Starts this test program again, to run nothing but the test `server`, which calls `serve_if_asked`.
    #[track_caller]
    pub fn mount(server: &str) -> Self {
        let point = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(std::env::current_exe().expect("our own path"));
        command
            .args(["--exact", server, "--ignored"])
            .env(POINT, point.path())
            .stdin(Stdio::null());
        let this = Faulty {
            child: command.stdout(Stdio::null()).spawn().expect("ourselves"),
            point,
        };
        let mounted = || fuse::mount_at(this.point.path()).is_some();
        assert!(
            tools::wait_until(std::time::Duration::from_secs(5), mounted),
            "the faulty source does not mount"
        );
        this
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.point.path()
    }

    /// From now on nothing is answered.
    pub fn stop(&self) {
        fuse::kill(self.child.id(), rustix::process::Signal::STOP);
    }

    /// All requests it owes are answered with an error: that takes its end where fusectl is not mounted and we are not root.
    pub fn cut(&self) {
        fuse::abort(self.point.path(), Some(self.child.id()));
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.cut();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the second process: serves until it is killed. In the first one: nothing.
pub fn serve_if_asked() {
    let Some(point) = std::env::var_os(POINT) else {
        return;
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("faulty".into()),
        MountOption::DefaultPermissions,
    ];
    config.acl = SessionACL::All;
    let session = fuser::Session::new(Server::default(), point, &config).expect("a mount");
    // Not to be dropped: it would unmount whatever is there by then.
    std::mem::forget(session.spawn().expect("event loops"));
    loop {
        std::thread::park();
    }
}

/// How many files never answer.
pub const NEVER_ANSWERING: u64 = 16;
const GOOD: u64 = 8;
const EIO: u64 = 10;
const NEVER: u64 = 11;

fn names() -> impl Iterator<Item = String> {
    let good = (0..GOOD).map(|n| format!("good{n}"));
    let never = (0..NEVER_ANSWERING).map(|n| format!("never{n}"));
    good.chain(["eio".into()]).chain(never)
}

const LEN: u64 = 1 << 20;

/// Keeps the replies it owes: one that is dropped is answered.
#[derive(Default)]
struct Server {
    owed: Mutex<Vec<ReplyData>>,
}

fn attr(ino: u64) -> FileAttr {
    let (kind, perm, size) = match ino {
        1 => (FileType::Directory, 0o755, 4096),
        _ => (FileType::RegularFile, 0o666, LEN),
    };
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Reads of good files are not to wait for those that are never answered.
        config
            .set_max_background(1024)
            .map(drop)
            .map_err(|_| std::io::ErrorKind::InvalidInput.into())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match names().position(|known| *known == *name) {
            Some(at) => reply.entry(&Duration::from_secs(1), &attr(at as u64 + 2), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::from_secs(1), &attr(node.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match node.0 {
            EIO => reply.error(Errno::EIO),
            NEVER.. => self.owed.lock().expect("nobody panics").push(reply),
            _ => reply.data(&vec![
                b'g';
                LEN.saturating_sub(offset).min(size.into()) as usize
            ]),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for (at, name) in names().enumerate().skip(offset as usize) {
            if reply.add(
                INodeNo(at as u64 + 2),
                at as u64 + 1,
                FileType::RegularFile,
                &name,
            ) {
                break;
            }
        }
        reply.ok();
    }
}
