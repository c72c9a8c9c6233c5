//! The mount itself: made by mount(2) or by fusermount3, or handed to us; taken off only while it is
//! provably ours and on top, so that nothing below it ever comes down.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::mount_table::{self, Entry, Identity};
use super::{fusermount, preflight};
use crate::config::{self, Access, Config};
use crate::refusal::StartError;
use crate::sys::process;

/// A mount of ours.
#[derive(Debug)]
pub struct Mounted {
    place: Option<(PathBuf, Identity)>,
    device: Option<u64>,
    /// While this is open, fusermount3 waits to unmount after us.
    _auto_unmount: Option<OwnedFd>,
}

/// What became of a mount that was to be taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// It is off.
    Clean,
    /// It was busy: no name leads to it any more, but open files live on.
    Detached,
    /// It was not there, not on top, or never ours to take off.
    Absent,
}

impl Mounted {
    /// Mounts as `config` says. The second result is the session's /dev/fuse.
    ///
    /// # Errors
    /// The sentence for what is missing or forbidden.
    pub fn new(config: &Config) -> Result<(Self, OwnedFd), StartError> {
        if let Some(number) = preflight::passed_descriptor(&config.mount_point) {
            return Self::adopt(config, number);
        }
        let (device, auto_unmount) = make(config)?;
        // Nothing has to answer for this, so it is the same before and after INIT.
        let identity = Identity::at(&config.mount_point)
            .map_err(|errno| StartError::Mount(config.mount_point.clone(), errno))?;
        let place = Some((config.mount_point.clone(), identity));
        let device_number = Some(identity.device);
        Ok((
            Self {
                place,
                device: device_number,
                _auto_unmount: auto_unmount,
            },
            device,
        ))
    }

    fn adopt(config: &Config, number: i32) -> Result<(Self, OwnedFd), StartError> {
        let refuse = |why: String| StartError::Descriptor(config.mount_point.clone(), why);
        let fuse = process::duplicate(number).map_err(|error| refuse(error.to_string()))?;
        let device = mount_table::device_of_connection(&fuse);
        let entry = device.and_then(Entry::of_device);
        if entry.is_some_and(|entry| !entry.options.contains("default_permissions")) {
            return Err(refuse(
                "it was mounted without default_permissions; add that".into(),
            ));
        }
        Ok((
            Self {
                place: None,
                device,
                _auto_unmount: None,
            },
            fuse,
        ))
    }

    /// `st_dev` of everything in the mount, if it can be known.
    pub fn device(&self) -> Option<u64> {
        self.device
    }

    /// Where it is, if it is ours to look after.
    pub fn path(&self) -> Option<&Path> {
        self.place.as_ref().map(|(path, _)| path.as_path())
    }

    /// Whether somebody else has made the mount, and looks after it.
    pub fn is_adopted(&self) -> bool {
        self.place.is_none()
    }

    /// Takes the mount off, detaching it when it is busy.
    ///
    /// # Errors
    /// Those of umount2(2), or fusermount3's refusal.
    pub fn unmount(&self) -> io::Result<Unmounted> {
        let Some((path, identity)) = &self.place else {
            return Ok(Unmounted::Absent);
        };
        for (lazy, outcome) in [(false, Unmounted::Clean), (true, Unmounted::Detached)] {
            if Identity::at(path) != Ok(*identity) {
                return Ok(Unmounted::Absent);
            }
            match take_off(path, *identity, lazy) {
                Ok(()) => return Ok(outcome),
                Err(error) if lazy => return Err(error),
                Err(error) => log::debug!("unmounting {path:?}: {error}"),
            }
        }
        Ok(Unmounted::Absent)
    }
}

/// Unmounts what lies on top at `path`, provided that it is `identity`.
///
/// # Errors
/// ENOENT when something else is there; otherwise umount2's errors, or fusermount3's refusal.
pub fn take_off(path: &Path, identity: Identity, lazy: bool) -> io::Result<()> {
    if Identity::at(path)? != identity {
        return Err(Errno::NOENT.into());
    }
    let detach = if lazy {
        UnmountFlags::DETACH
    } else {
        UnmountFlags::empty()
    };
    match rustix::mount::unmount(path, detach | UnmountFlags::NOFOLLOW) {
        Err(Errno::PERM) => fusermount::unmount(path, lazy),
        result => Ok(result?),
    }
}

/// /dev/fuse, opened anew.
///
/// # Errors
/// What open(2) says.
pub fn open_device() -> Result<OwnedFd, Errno> {
    rustix::fs::open(c"/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

fn make(config: &Config) -> Result<(OwnedFd, Option<OwnedFd>), StartError> {
    // fusermount3 opens it with our rights too, so this answers for both ways.
    let device = open_device().map_err(StartError::Device)?;
    if config.auto_unmount {
        return fusermount::mount(config);
    }
    match mount_directly(config, &device) {
        Ok(()) => Ok((device, None)),
        Err(Errno::PERM) => {
            drop(device);
            fusermount::mount(config)
        }
        Err(errno) => Err(StartError::Mount(config.mount_point.clone(), errno)),
    }
}

fn mount_directly(config: &Config, device: &OwnedFd) -> Result<(), Errno> {
    let mut options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::getuid(),
        rustix::process::getgid(),
    );
    if config.access != Access::Owner {
        options.push_str(",allow_other");
    }
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    let mut kind = std::ffi::OsString::from("fuse.");
    kind.push(&config.subtype);
    let flags = mount_flags(config.flags);
    rustix::mount::mount(
        &config.fsname,
        &config.mount_point,
        kind,
        flags,
        options.as_c_str(),
    )
}

fn mount_flags(flags: config::MountFlags) -> MountFlags {
    let switches = [
        (flags.read_only, MountFlags::RDONLY),
        (flags.no_exec, MountFlags::NOEXEC),
        (flags.no_suid, MountFlags::NOSUID),
        (flags.no_dev, MountFlags::NODEV),
        (flags.no_atime, MountFlags::NOATIME),
        (flags.sync, MountFlags::SYNCHRONOUS),
        (flags.dir_sync, MountFlags::DIRSYNC),
    ];
    switches
        .into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, flag)| flag)
        .collect()
}
