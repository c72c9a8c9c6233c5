//! The tree being served. Names are found by descriptors, never beyond the source. There is one `SourceDir` for each
//! filesystem.

mod again;
mod atime;
mod identity;
mod kinds;
mod name;
mod read_only;

pub use again::{hold, proc_path, reopen};
pub use atime::{AtimeRule, open_noatime};
pub use identity::Lasting;
pub use name::check_name;

use identity::{Identity, Rules, identity, rules};
use kinds::{IN_MEMORY, LASTING, OVERLAY, REMOTE, STACKED};
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

/// A filesystem of the source.
#[derive(Debug)]
pub struct SourceDir {
    /// A directory on it, for `open_by_handle_at(2)`. `None` if none could be opened.
    root: Option<OwnedFd>,
    /// The clone of the source's mount through which inodes are opened on a read-only view.
    read_only: Option<Arc<ReadOnlyClone>>,
    /// Whether the log already says that inodes are opened without such a clone.
    has_warned: AtomicBool,
    /// Its device number.
    pub dev: u64,
    /// Its type and its filesystem id.
    identity: Option<Identity>,
    /// By what a later mount finds it again.
    pub lasting: Lasting,
    /// Whether exported handles outlive a mount: later ones give the same inode the same handle, and no other inode.
    pub has_lasting_handles: bool,
    /// The flags of the mount it was found in, as of then.
    rules: Rules,
    /// Its index among the filesystems found. 0: the one of the source's root.
    pub index: u32,
    /// Whether a forgotten inode can be opened by its exported handle.
    pub by_handle: bool,
    /// Whether attributes may change on another machine, so that statx(2) must ask.
    pub remote: bool,
    /// Whether it is stacked on other filesystems, or may be.
    pub stacked: bool,
    /// Whether a page fault in a hole allocates its block, or may do so.
    pub faults_allocate: bool,
    /// When reading moves access times.
    pub atime: AtimeRule,
    /// Whether the birth time of an inode never changes.
    has_fixed_btime: bool,
    /// How many exported handles in a row did not contain the inode number.
    without_number: AtomicU32,
}

/// How mmfs shows an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As an inode of the source, of this type.
    Source(FileType),
    /// As an empty directory, because it is the root of mmfs's own mount. The daemon would wait for itself if it walked there.
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

/// An inode found by name.
#[derive(Debug)]
pub struct Inode {
    /// A descriptor on it, O_PATH unless it was opened for more. `None` if statx(2) was enough.
    pub fd: Option<Arc<OwnedFd>>,
    /// Its attributes.
    pub attr: Attr,
    /// The filesystem it lives on.
    pub source: Arc<SourceDir>,
    /// Identifies the inode among all others, if its filesystem supports that.
    pub handle: Option<ExportedHandle>,
    /// How mmfs shows it.
    pub kind: Kind,
}

impl Inode {
    /// Distinguishes two inodes that had the same number one after the other. Constant if the filesystem cannot tell them
    /// apart. The lower 32 bits almost always suffice.
    pub fn life(&self) -> u64 {
        match &self.handle {
            Some(handle) => handle.life(),
            None => self.born().unwrap_or(0),
        }
    }

    /// Its time of birth in one number, if the filesystem has one that tells inodes apart.
    pub fn born(&self) -> Option<u64> {
        // overlayfs changes the birth time on copy-up, although the inode is the same. For a symbolic link that does no
        // harm: it has no open descriptors, and the kernel caches its target.
        let is_fixed = self.source.has_fixed_btime || self.attr.kind() == FileType::Symlink;
        let born = self.attr.btime.filter(|_| is_fixed)?;
        let low = (born.sec as u32).rotate_left(16) ^ born.nsec;
        Some(u64::from(born.nsec) << 32 | u64::from(low))
    }
}

/// The filesystems found below the source.
#[derive(Debug, Default)]
struct Met {
    /// By `SourceDir::index`. An unmounted one keeps its index, because nodes refer to it.
    all: Vec<Arc<SourceDir>>,
    /// By device number and mount. A free device number may be given to another filesystem at once, so it is not enough.
    by_mount: HashMap<(u64, MountId), Arc<SourceDir>>,
}

impl Met {
    /// The filesystem found in this mount.
    fn known(&self, attr: &Attr) -> Option<&Arc<SourceDir>> {
        self.by_mount.get(&(attr.dev, attr.mount))
    }

    /// The same filesystem as `found`, found in another mount with equal flags. The device number was in use all the time, so
    /// it is not that of another filesystem. `first` are the present flags of the first filesystem's mount.
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
    /// The device number of mmfs's own mount. 0: unknown.
    own: AtomicU64,
    read_only: Option<Arc<ReadOnlyClone>>,
}

impl Sources {
    /// Opens the source's root directory. With `read_only` nothing of the source may change.
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

    /// Sets the device number of mmfs's own mount, which is never entered.
    pub fn set_own_device(&self, dev: u64) {
        self.own.store(dev, Relaxed);
    }

    /// The filesystem of the source's root.
    pub fn first(&self) -> Arc<SourceDir> {
        self.met.read().all[0].clone()
    }

    /// The filesystem with this index.
    pub fn at(&self, index: u32) -> Option<Arc<SourceDir>> {
        self.met.read().all.get(index as usize).cloned()
    }

    /// Finds `name` in the directory `dir`. Follows neither symbolic links nor automounts.
    ///
    /// # Errors
    /// Those of openat(2), ENOENT among them. EINVAL if it is not a single component.
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

    /// The inode behind a descriptor.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn identify(&self, fd: Arc<OwnedFd>) -> Result<Inode> {
        // Without DONT_SYNC, statx(2) of mmfs's own mount would wait for the daemon itself.
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
        // An error must not count as "has no handle": the inode would get another generation.
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

    /// The filesystem of the inode behind `fd`.
    fn of_mount(&self, attr: &Attr, fd: BorrowedFd<'_>) -> Arc<SourceDir> {
        // Mount numbers that are not unique may be used again. So each such mount is checked when its root is found.
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
        // A descriptor on another filesystem would keep that one from being unmounted while mmfs runs.
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
            has_warned: AtomicBool::new(false),
            dev: attr.dev,
            identity,
            lasting: Lasting::of(fd),
            has_lasting_handles: LASTING.contains(&kind),
            rules: rules(fd),
            index,
            by_handle,
            remote: REMOTE.contains(&kind),
            stacked: STACKED.contains(&kind),
            faults_allocate: IN_MEMORY.contains(&kind) || STACKED.contains(&kind),
            atime: AtimeRule::of(fd),
            has_fixed_btime: kind != OVERLAY,
            without_number: AtomicU32::new(0),
        }
    }

    /// Calls statx(2) on `name` in a directory of this filesystem, without opening it. `None` if that is not enough: for
    /// directories, mounts, and filesystems whose handles do not contain the inode number.
    ///
    /// # Errors
    /// Those of statx(2), ENOENT among them.
    pub fn stat_name(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Attr>> {
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

    /// Adds the exported handle to the attributes that `stat_name` returned for `name`. `None` if there is none, or if the name
    /// may have got another inode in between. If that happens `MAX_WITHOUT_NUMBER` times in a row, `stat_name` returns `None`
    /// from then on.
    pub fn add_handle(
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

    /// An O_PATH descriptor on the inode of an exported handle.
    ///
    /// # Errors
    /// ESTALE if it is gone; the others of open_by_handle_at(2).
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

    /// Whether inodes are opened through a read-only clone of their mount.
    pub fn is_read_only(&self) -> bool {
        self.read_only.is_some()
    }

    /// Whether a descriptor in the source's mount must be held beside an open file: a descriptor in the clone does not keep the
    /// mount busy.
    pub fn needs_holding(&self) -> bool {
        self.is_read_only() && self.index != 0
    }

    /// Opens the inode behind `fd` again. `flags` may be O_PATH.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
        let Some(clone) = &self.read_only else {
            return reopen(fd, flags);
        };
        // A read-only mount moves no access times, so O_NOATIME, a privilege, is not needed.
        let without = |errno| {
            // With index 0 the reason may be a single file that was just removed.
            let is_mount = self.index != 0 && !matches!(errno, Errno::MFILE | Errno::NFILE);
            if is_mount && !self.has_warned.swap(true, Relaxed) {
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

/// After this many in a row, the filesystem's handles do not contain the number. Fewer may be races.
const MAX_WITHOUT_NUMBER: u32 = 16;

/// The attributes of the inode behind a descriptor, which may be O_PATH.
fn stat(fd: BorrowedFd<'_>, sync: AtFlags) -> Result<Attr> {
    fs::statx(fd, c"", AtFlags::EMPTY_PATH | sync, Attr::MASK).map(Attr::from)
}

/// Whether a directory is on a stacked filesystem, or may be.
pub fn is_stacked(directory: &Path) -> bool {
    fs::statfs(directory).map_or(true, |found| STACKED.contains(&(found.f_type as u64)))
}

/// Whether the mount table says that `dev` is a mount made by mmfs.
fn mounted_by_mmfs(dev: u64) -> bool {
    // If the table cannot be read, no mount is taken for mmfs's own.
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
