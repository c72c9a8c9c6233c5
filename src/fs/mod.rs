//! The operations of the filesystem in plain types; they can be tested without a mount.

mod attributes;
mod data;
mod directories;
mod housekeeping;
mod invalidation;
mod names;
mod xattrs;

pub use attributes::{SetAttr, SetTime};
pub use data::{Opened, Writing};
pub use directories::Listed;

use crate::config::{Config, MountFlags};
use crate::handle::{FileHandle, HandleTable};
use crate::inode::{InodeTable, Located, ROOT};
use crate::mapping::budget::{AddressSpace, default_budget};
use crate::mapping::{Alarm, Chore, Context, guard};
use crate::source::reopen;
use crate::sys::identity::Caller;
use directories::DirHandle;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// The largest READ or WRITE the kernel may send, in bytes.
pub const MAX_REQUEST: u32 = 1 << 20;

/// Who asked, as the kernel says.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Filesystem ids of the caller.
    pub caller: Caller,
    /// Its process, 0 when it is in a namespace of its own.
    pub pid: u32,
}

impl Asker {
    /// Whether suid and sgid bits survive what this caller does. The kernel tells for writes only; for the
    /// rest this is CAP_FSETID as good as it can be known from here.
    fn keeps_setid(&self) -> bool {
        self.caller.uid == 0
    }
}

/// One served tree.
#[derive(Debug)]
pub struct Fs {
    inodes: InodeTable,
    files: HandleTable<FileHandle>,
    dirs: HandleTable<DirHandle>,
    context: Arc<Context>,
    flags: MountFlags,
    direct_io: bool,
    sync_on_close: bool,
    /// How long a listing may be believed.
    listing_timeout: Duration,
    chores: Mutex<Option<Receiver<Chore>>>,
    /// Whether open files are being watched, so that an open need not wake anybody up.
    watched: AtomicBool,
}

impl Fs {
    /// Opens the source.
    ///
    /// # Errors
    /// Those of opening it, and of installing the SIGBUS handler.
    pub fn new(config: &Config) -> io::Result<Arc<Self>> {
        let handler = guard::install()?;
        let descriptors = raise_descriptor_limit();
        let inodes = InodeTable::open(&config.source, descriptors / 4)?;
        let (sender, receiver) = channel();
        let budget = config.map_budget.unwrap_or_else(default_budget);
        let context = Context {
            space: AddressSpace::new(budget, config.window_size, u64::from(MAX_REQUEST)),
            handler,
            write_path: config.write_path,
            no_atime: config.flags.no_atime,
            chores: sender,
            attributes: Alarm::default(),
        };
        Ok(Arc::new(Fs {
            inodes,
            files: HandleTable::default(),
            dirs: HandleTable::default(),
            context: Arc::new(context),
            flags: config.flags,
            direct_io: config.direct_io,
            sync_on_close: config.sync_on_close,
            listing_timeout: config.attr_timeout.min(config.entry_timeout),
            chores: Mutex::new(Some(receiver)),
            watched: AtomicBool::new(false),
        }))
    }

    /// Tells the device number of our own mount, which is never entered.
    pub fn set_own_device(&self, dev: u64) {
        self.inodes.sources().set_own_device(dev);
    }

    /// `tell` has the kernel ask for a node's attributes anew. It must not wait for a request.
    pub fn tell_of_attributes(&self, tell: impl Fn(u64) + Send + Sync + 'static) {
        self.context.attributes.connect(tell);
    }

    /// Whether the source's filesystem itself stands on others, or may do so.
    pub fn is_stacked(&self) -> bool {
        self.inodes.source(ROOT).is_ok_and(|source| source.stacked)
    }

    /// With `dirsync`, makes a change of the directory durable before it is answered.
    fn directory_changed(&self, dir: &Located) -> Result<()> {
        if !self.flags.dir_sync && !self.flags.sync {
            return Ok(());
        }
        after_change(|| rustix::fs::fsync(reopen(dir, OFlags::RDONLY | OFlags::DIRECTORY)?))
    }
}

/// Runs what comes after a change that took place: once more where it finds something stale, and then that is
/// EIO. ESTALE would have the kernel do the whole operation again, which then meets its own change (EEXIST for
/// the caller's own new file).
fn after_change<T>(work: impl Fn() -> Result<T>) -> Result<T> {
    match work() {
        Err(Errno::STALE) => work().map_err(|again| match again {
            Errno::STALE => Errno::IO,
            other => other,
        }),
        outcome => outcome,
    }
}

/// Raises the soft limit of open files to the hard one and returns it.
fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // What cannot be raised stays as it is.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
    let now = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(now).unwrap_or(1024).min(1 << 16)
}
