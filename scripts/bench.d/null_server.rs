//! What FUSE itself costs: a server that answers mmfs's requests from a constant, for scripts/bench.
//!
//! `null_server MNT SIZE DIRS FILES` shows `big` and `over` of SIZE bytes and, as `tree` and `doomed`, DIRS
//! directories of FILES files of 4 KiB. Whatever is made succeeds and is forgotten; whatever is removed stays.

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, UNIX_EPOCH};

const TTL: Duration = Duration::from_secs(1);
/// Nobody could find a directory again that was made: it is believed for as long as a run may take.
const MADE_TTL: Duration = Duration::from_secs(3600);
const PAGE: u64 = 4096;

const ROOT: u64 = 1;
const BIG: u64 = 2;
const WORK: u64 = 3;
const TREE: u64 = 4;
/// Directory `d` of the tree is `DIR + d`, its file `f` is `FILE + d * DIR + f`.
const DIR: u64 = 1 << 20;
const FILE: u64 = 1 << 40;
const MADE: u64 = 1 << 60;
const MADE_DIR: u64 = 1 << 61;

static ZEROES: [u8; 1 << 20] = [0; 1 << 20];

struct Null {
    size: u64,
    dirs: u64,
    files: u64,
    made: AtomicU64,
}

impl Null {
    fn find(&self, parent: u64, name: &str) -> Option<u64> {
        let number = name.get(1..).and_then(|n| n.parse::<u64>().ok());
        match (parent, name, number) {
            (ROOT, "big" | "over", _) => Some(BIG),
            (ROOT, "work", _) => Some(WORK),
            (ROOT, "tree" | "doomed", _) => Some(TREE),
            (TREE, _, Some(d)) if d < self.dirs => Some(DIR + d),
            (DIR..FILE, _, Some(f)) if f < self.files => Some(FILE + (parent - DIR) * DIR + f),
            _ => None,
        }
    }

    fn attr(&self, ino: u64) -> FileAttr {
        let is_dir = matches!(ino, ROOT | WORK..FILE | MADE_DIR..);
        let size = match ino {
            BIG => self.size,
            _ => PAGE,
        };
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_dir {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if is_dir { 0o755 } else { 0o644 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        }
    }

    /// The entry at `offset` of a directory.
    fn listed(&self, dir: u64, offset: u64) -> Option<(u64, String)> {
        match dir {
            TREE if offset < self.dirs => Some((DIR + offset, format!("d{offset:03}"))),
            DIR..FILE if offset < self.files => {
                Some((FILE + (dir - DIR) * DIR + offset, format!("f{offset:03}")))
            }
            _ => None,
        }
    }

    fn next(&self, base: u64) -> u64 {
        base + self.made.fetch_add(1, Relaxed)
    }
}

impl Filesystem for Null {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        mmfs::fuse::negotiate(config)?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str().and_then(|name| self.find(parent.0, name)) {
            Some(ino) => reply.entry(&TTL, &self.attr(ino), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn forget(&self, _: &Request, _: INodeNo, _: u64) {}

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino.0));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<fuser::TimeOrNow>,
        _: Option<fuser::TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&TTL, &self.attr(ino.0));
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.entry(&MADE_TTL, &self.attr(self.next(MADE_DIR)), Generation(0));
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.ok();
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.ok();
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mut how = FopenFlags::FOPEN_KEEP_CACHE;
        how.set(FopenFlags::FOPEN_NOFLUSH, flags.0 & 3 == 0);
        reply.opened(FileHandle(0), how);
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let attr = FileAttr {
            size: 0,
            ..self.attr(self.next(MADE))
        };
        reply.created(
            &TTL,
            &attr,
            Generation(0),
            FileHandle(0),
            FopenFlags::empty(),
        );
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.attr(ino.0).size.saturating_sub(offset);
        reply.data(&ZEROES[..(u64::from(size).min(left)) as usize]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        dir: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for next in offset.. {
            let Some((ino, name)) = self.listed(dir.0, next) else {
                break;
            };
            if reply.add(INodeNo(ino), next + 1, self.attr(ino).kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        dir: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        for next in offset.. {
            let Some((ino, name)) = self.listed(dir.0, next) else {
                break;
            };
            if reply.add(
                INodeNo(ino),
                next + 1,
                name,
                &TTL,
                &self.attr(ino),
                Generation(0),
            ) {
                break;
            }
        }
        reply.ok();
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, mount_point, size, dirs, files] = &args[..] else {
        eprintln!("usage: null_server MNT SIZE DIRS FILES");
        std::process::exit(2);
    };
    let number = |text: &String| text.parse().expect("a number");
    let null = Null {
        size: number(size),
        dirs: number(dirs),
        files: number(files),
        made: AtomicU64::new(0),
    };
    let mut options = fuser::Config::default();
    options.mount_options = vec![
        fuser::MountOption::CUSTOM("subtype=null".into()),
        fuser::MountOption::DefaultPermissions,
    ];
    options.acl = fuser::SessionACL::All;
    options.n_threads = Some(4);
    options.clone_fd = true;
    let session = fuser::Session::new(null, mount_point, &options).expect("mounting");
    session.run().expect("serving");
}
