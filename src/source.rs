//! The tree being served: finding names in it without ever leaving it, one `SourceDir` per filesystem.

mod again;
mod atime;
mod identity;
mod name;
mod read_only;

pub use again::{hold, proc_path, reopen};
pub use atime::{AtimeRule, quietly};
pub use name::check_name;

use identity::{Identity, Rules, identity, rules};
use read_only::{ReadOnlyClone, warn_of_no_clone};

use crate::attr::{Attr, MountId};
use crate::mount_table;
use crate::sys::exported::{self, ExportedHandle};
use crate::sys::mounts;
use parking_lot::RwLock;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::path::Arg;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{Hash, Hasher};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// One filesystem of the source.
#[derive(Debug)]
pub struct SourceDir {
    /// A directory of it, for `open_by_handle_at(2)`; `None` where none could be opened.
    root: Option<OwnedFd>,
    /// What its inodes are opened through when nothing of the source may change.
    read_only: Option<Arc<ReadOnlyClone>>,
    /// Whether the log says that it is opened without such a clone.
    told: AtomicBool,
    /// Its device number.
    pub dev: u64,
    /// Its type and number of its own.
    identity: Option<Identity>,
    /// Those of the mount it was first met in, then.
    rules: Rules,
    /// Its place among the filesystems met, 0 for the one of the source's root.
    pub index: u32,
    /// Whether a forgotten inode can be opened by its exported handle.
    pub by_handle: bool,
    /// Whether attributes may change on another machine, so that statx(2) must ask.
    pub remote: bool,
    /// Whether it stands on other filesystems, or may do so.
    pub stacked: bool,
    /// Whether a page fault in a hole fills it, or may do so.
    pub faults_allocate: bool,
    /// When reading moves access times.
    pub atime: AtimeRule,
    /// Whether the birth time of an inode never changes.
    born_once: bool,
    /// Exported handles in a row that did not contain the inode number.
    without_number: AtomicU32,
}

/// What an inode is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One of the source, of this type.
    Source(FileType),
    /// The root of a mount of mmfs's own, which is shown as an empty directory: walking it would make the daemon wait
    /// for itself.
    OwnMount,
}

impl Hash for Kind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Kind::Source(kind) => kind.as_raw_mode().hash(state),
            Kind::OwnMount => 0u32.hash(state),
        }
    }
}

/// An inode as it was met under a name.
#[derive(Debug)]
pub struct Inode {
    /// A descriptor on it, O_PATH unless it was opened for more; none where looking was enough.
    pub fd: Option<Arc<OwnedFd>>,
    /// Its attributes.
    pub attr: Attr,
    /// The filesystem it lives on.
    pub source: Arc<SourceDir>,
    /// What tells it from every other inode, where its filesystem can say so.
    pub handle: Option<ExportedHandle>,
    /// What it is to us.
    pub kind: Kind,
}

impl Inode {
    /// Tells two lives of a reused inode number apart; constant where nothing can. The lower 32 bits do almost always.
    pub fn life(&self) -> u64 {
        match (&self.handle, self.attr.btime) {
            (Some(handle), _) => handle.life(),
            // overlayfs changes the birth time on copy-up while the inode lives on. A symbolic link has no
            // descriptors to lose by that, and the kernel caches its target.
            (None, Some(born))
                if self.source.born_once || self.attr.kind() == FileType::Symlink =>
            {
                let low = (born.sec as u32).rotate_left(16) ^ born.nsec;
                u64::from(born.nsec) << 32 | u64::from(low)
            }
            _ => 0,
        }
    }
}

/// The filesystems met below the source.
#[derive(Debug, Default)]
struct Met {
    /// By `SourceDir::index`. One that has gone keeps its place, for its inodes are remembered by it.
    all: Vec<Arc<SourceDir>>,
    /// By device number and mount. A device number alone is given to another filesystem as soon as it is free.
    by_mount: HashMap<(u64, MountId), Arc<SourceDir>>,
}

impl Met {
    /// The filesystem met as this mount.
    fn known(&self, attr: &Attr) -> Option<&Arc<SourceDir>> {
        self.by_mount.get(&(attr.dev, attr.mount))
    }

    /// The filesystem that is certainly the one `found`, met elsewhere with the same rules: as the device number was never
    /// free, it is no other's. The first one has the rules `first` now.
    fn same(
        &self,
        attr: &Attr,
        found: (Option<Identity>, Rules),
        first: Rules,
    ) -> Option<Arc<SourceDir>> {
        let lives = |mount: &MountId, source: &SourceDir| {
            source.root.is_some() || !mount.is_unique || mounts::is_mounted(mount.id)
        };
        let mut candidates = self.by_mount.iter().filter(|((dev, mount), source)| {
            let rules = source.root.as_ref().map_or(source.rules, |_| first);
            *dev == attr.dev && (source.identity, rules) == found && lives(mount, source)
        });
        candidates.next().map(|(_, source)| source.clone())
    }
}

/// All filesystems met below the source.
#[derive(Debug)]
pub struct Sources {
    met: RwLock<Met>,
    /// The device number of our own mount, 0 while unknown.
    own: AtomicU64,
    read_only: Option<Arc<ReadOnlyClone>>,
}

impl Sources {
    /// Starts with the filesystem of the directory `root`, of which nothing may change when `read_only`.
    ///
    /// # Errors
    /// Those of open(2) and statx(2).
    pub fn open(root: &Path, read_only: bool) -> Result<(Self, Inode)> {
        let path = root;
        let fd = fs::open(
            root,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let attr = stat(fd.as_fd(), AtFlags::empty())?;
        let sources = Sources {
            met: RwLock::default(),
            own: AtomicU64::new(0),
            read_only: read_only
                .then(|| ReadOnlyClone::of(fd.as_fd(), path))
                .flatten(),
        };
        let source = sources.of_mount(&attr, fd.as_fd());
        let handle = exported::name_to_handle_at(&fd)?;
        let root = Inode {
            fd: Some(Arc::new(fd)),
            kind: Kind::Source(attr.kind()),
            attr,
            source,
            handle,
        };
        Ok((sources, root))
    }

    /// Tells which device number is our own mount's, so that it is never entered.
    pub fn set_own_device(&self, dev: u64) {
        self.own.store(dev, Relaxed);
    }

    /// The filesystem of the source's root.
    pub fn first(&self) -> Arc<SourceDir> {
        self.met.read().all[0].clone()
    }

    /// The filesystem met as number `index`.
    pub fn at(&self, index: u32) -> Option<Arc<SourceDir>> {
        self.met.read().all.get(index as usize).cloned()
    }

    /// Finds `name` in the directory `dir`, following nothing.
    ///
    /// # Errors
    /// ENOENT and the others of openat(2); EINVAL for what is not a single name.
    pub fn find(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Inode> {
        check_name(name)?;
        let fd = fs::openat(
            dir,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        self.identify(Arc::new(fd))
    }

    /// Says which inode a descriptor is on.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn identify(&self, fd: Arc<OwnedFd>) -> Result<Inode> {
        // Without DONT_SYNC, statx on our own mount would wait for ourselves.
        let mut attr = stat(fd.as_fd(), AtFlags::STATX_DONT_SYNC)?;
        if attr.mount_root && self.is_mmfs(&attr) {
            let source = self.first();
            attr.mode = FileType::Directory.as_raw_mode() | 0o555;
            return Ok(Inode {
                fd: Some(fd),
                attr,
                source,
                handle: None,
                kind: Kind::OwnMount,
            });
        }
        let source = self.of_mount(&attr, fd.as_fd());
        if source.remote {
            attr = stat(fd.as_fd(), AtFlags::empty())?;
        }
        // An error taken for «has none» would give a living inode another generation.
        let handle = exported::name_to_handle_at(&fd)?;
        Ok(Inode {
            fd: Some(fd),
            kind: Kind::Source(attr.kind()),
            attr,
            source,
            handle,
        })
    }

    fn is_mmfs(&self, attr: &Attr) -> bool {
        attr.dev == self.own.load(Relaxed) || mounted_by_mmfs(attr.dev)
    }

    /// The filesystem of an inode that was met through `fd`.
    fn of_mount(&self, attr: &Attr, fd: BorrowedFd<'_>) -> Arc<SourceDir> {
        // Where mounts are numbered like others before them, each is looked at when its root is met.
        let is_sure = attr.mount.is_unique || !attr.mount_root;
        if let Some(known) = self.met.read().known(attr).filter(|_| is_sure) {
            return known.clone();
        }
        let found = identity(fd);
        let first = self.met.read().all.first().cloned();
        let first = first.as_ref().and_then(|first| first.root.as_ref());
        let (own, first) = (
            rules(fd),
            first.map_or(Rules::empty(), |root| rules(root.as_fd())),
        );
        let mut met = self.met.write();
        let known = met.known(attr).filter(|s| is_sure || s.identity == found);
        if let Some(known) = known {
            return known.clone();
        }
        let source = met.same(attr, (found, own), first).unwrap_or_else(|| {
            let index = met.all.len() as u32;
            let new = SourceDir::new(attr, found, (fd, index), self.read_only.clone());
            let new = Arc::new(new);
            log::debug!("filesystem {:x} of the source: {new:?}", attr.dev);
            met.all.push(new.clone());
            new
        });
        met.by_mount.insert((attr.dev, attr.mount), source.clone());
        source
    }
}

impl SourceDir {
    fn new(
        attr: &Attr,
        identity: Option<Identity>,
        (fd, index): (BorrowedFd<'_>, u32),
        read_only: Option<Arc<ReadOnlyClone>>,
    ) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // A descriptor on another filesystem would keep it from being unmounted for as long as we live.
        let root = (index == 0 && attr.is_dir())
            .then(|| fs::openat(fd, c".", flags, Mode::empty()).ok())
            .flatten();
        let handle = exported::name_to_handle_at(fd).ok().flatten();
        let by_handle = root.as_ref().zip(handle).is_some_and(|(root, handle)| {
            exported::open_by_handle_at(root.as_fd(), &handle, OFlags::PATH).is_ok()
        });
        let kind = identity.map_or(OVERLAY, |(kind, _)| kind);
        SourceDir {
            root,
            read_only,
            told: AtomicBool::new(false),
            dev: attr.dev,
            identity,
            rules: rules(fd),
            index,
            by_handle,
            remote: REMOTE.contains(&kind),
            stacked: STACKED.contains(&kind),
            faults_allocate: IN_MEMORY.contains(&kind) || STACKED.contains(&kind),
            atime: AtimeRule::of(fd),
            born_once: kind != OVERLAY,
            without_number: AtomicU32::new(0),
        }
    }

    /// Looks at `name` in a directory of this filesystem without opening it; `None` for whatever needs a descriptor
    /// or a second look: directories, mounts, and filesystems whose handles do not tell the inode number.
    ///
    /// # Errors
    /// ENOENT when there is none.
    pub fn glimpse(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Attr>> {
        let quick = self.by_handle
            && !self.remote
            && self.without_number.load(Relaxed) < MAX_WITHOUT_NUMBER;
        if !quick || check_name(name).is_err() {
            return Ok(None);
        }
        let how = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        match fs::statx(dir, name, how, Attr::MASK).map(Attr::from) {
            Err(Errno::NOENT) => Err(Errno::NOENT),
            seen => Ok(seen
                .ok()
                .filter(|attr| !attr.is_dir() && !attr.mount_root && attr.dev == self.dev)),
        }
    }

    /// Adds the exported handle to what was glimpsed under `name`; `None` where it cannot be had, or another inode may
    /// have taken the name between the two. Where that is so as a rule, nothing is glimpsed any more.
    pub fn confirm(
        self: &Arc<Self>,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        attr: Attr,
    ) -> Option<Inode> {
        let handle = name.into_with_c_str(|name| exported::name_to_handle_in(dir, name));
        let handle = handle.ok().flatten()?;
        if handle.ino() != Some(attr.ino) {
            self.without_number.fetch_add(1, Relaxed);
            return None;
        }
        if self.without_number.load(Relaxed) != 0 {
            self.without_number.store(0, Relaxed);
        }
        Some(Inode {
            fd: None,
            kind: Kind::Source(attr.kind()),
            attr,
            source: self.clone(),
            handle: Some(handle),
        })
    }

    /// Finds an inode by its exported handle: an O_PATH descriptor.
    ///
    /// # Errors
    /// ESTALE when it is gone; the others of open_by_handle_at(2).
    pub fn find_exported(&self, handle: &ExportedHandle) -> Result<OwnedFd> {
        let root = self.root.as_ref().ok_or(Errno::STALE)?;
        exported::open_by_handle_at(root.as_fd(), handle, OFlags::PATH)
    }

    /// Opens an inode by its exported handle.
    ///
    /// # Errors
    /// Those of `find_exported`.
    pub fn open_exported(&self, handle: &ExportedHandle, flags: OFlags) -> Result<OwnedFd> {
        let root = match &self.read_only {
            Some(clone) => clone.open_root(),
            None => self.root.as_ref(),
        };
        let root = root.ok_or(Errno::STALE)?;
        exported::open_by_handle_at(root.as_fd(), handle, flags)
    }

    /// Whether inodes are opened through a clone of their mount, through which nothing can change.
    pub fn is_read_only(&self) -> bool {
        self.read_only.is_some()
    }

    /// Whether what is open through a clone of its mount keeps nobody from unmounting that mount, so that a descriptor
    /// beside it has to.
    pub fn needs_holding(&self) -> bool {
        self.is_read_only() && self.index != 0
    }

    /// Opens the inode behind `fd` once more. `flags` may be O_PATH.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
        let Some(clone) = &self.read_only else {
            return reopen(fd, flags);
        };
        // On a read-only mount everything leaves access times alone, and O_NOATIME is a privilege.
        let without = |errno| {
            // A single file may just have been removed.
            let is_mount = self.index != 0 && !matches!(errno, Errno::MFILE | Errno::NFILE);
            if is_mount && !self.told.swap(true, Relaxed) {
                warn_of_no_clone(fd, errno);
            }
        };
        match clone.open(fd, flags - OFlags::NOATIME, without) {
            Err(errno) if !matches!(errno, Errno::MFILE | Errno::NFILE) => {
                log::debug!("not opened through the clone of its mount: {errno}");
                reopen(fd, flags)
            }
            outcome => outcome,
        }
    }

    /// The attributes behind a descriptor of this filesystem.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn stat(&self, fd: BorrowedFd<'_>) -> Result<Attr> {
        stat(
            fd,
            if self.remote {
                AtFlags::empty()
            } else {
                AtFlags::STATX_DONT_SYNC
            },
        )
    }
}

/// So many in a row are the filesystem's form of handles, not races.
const MAX_WITHOUT_NUMBER: u32 = 16;

// Magic numbers from statfs(2).
const OVERLAY: u64 = 0x794c_7630;
/// overlayfs and ecryptfs.
const STACKED: [u64; 2] = [OVERLAY, 0xf15f];
/// tmpfs and hugetlbfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x9584_58f6];
const REMOTE: [u64; 8] = [
    0x6573_5546,
    0x6969,
    0xff53_4d42,
    0xfe53_4d42,
    0x517b,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
];

/// The attributes of the inode a descriptor is on; it may be O_PATH.
fn stat(fd: BorrowedFd<'_>, sync: AtFlags) -> Result<Attr> {
    fs::statx(fd, c"", AtFlags::EMPTY_PATH | sync, Attr::MASK).map(Attr::from)
}

/// Whether the mount table says that `dev` is a mount made by mmfs.
fn mounted_by_mmfs(dev: u64) -> bool {
    // Without a table nothing is known to be ours, so nothing is hidden.
    mount_table::find(|mount| mount.device == dev && mount.is_mmfs())
        .is_ok_and(|found| found.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_components_are_names() {
        for bad in ["", ".", "..", "a/b", "/"] {
            assert_eq!(check_name(OsStr::new(bad)), Err(Errno::INVAL), "{bad:?}");
        }
        for good in ["a", "...", ".hidden", "new\nline"] {
            assert_eq!(check_name(OsStr::new(good)), Ok(()), "{good:?}");
        }
    }
}
