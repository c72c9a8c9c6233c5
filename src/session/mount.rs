//! The mount itself: made by mount(2) or by fusermount3, or made by another program and passed to us. It is unmounted
//! only while it is provably ours and on top, so that nothing below it is ever unmounted.

use std::ffi::CString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::mount_options::MountOptions;
use super::mount_point::MountPoint;
use super::top_mount::Identity;
use super::{device, fusermount};
use crate::config::Config;
use crate::mount_table::{self, MARK};
use crate::refusal::StartError;

/// A mount of ours.
#[derive(Debug)]
pub struct Mounted {
    place: Option<(PathBuf, Identity)>,
    device: Option<u64>,
    /// While this is open, fusermount3 waits to unmount after us.
    _auto_unmount: Option<OwnedFd>,
}

/// The outcome of unmounting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// It is unmounted.
    Clean,
    /// It was busy: no name leads to it any more, but open files live on.
    Detached,
    /// It was not there, not on top, or never ours to unmount.
    Absent,
}

impl Mounted {
    /// Mounts as `config` says. The second result is the session's /dev/fuse.
    ///
    /// # Errors
    /// The sentence for what is missing or forbidden.
    pub fn new(config: &Config) -> Result<(Self, OwnedFd), StartError> {
        if let Some(number) = device::passed_number(&config.mount_point) {
            return Self::adopt(&config.mount_point, number);
        }
        let options = MountOptions::new(config);
        let (device, auto_unmount) = make(&options)?;
        let mount_point = options.mount_point;
        // No request is sent for this, so it is the same before and after INIT.
        let identity = Identity::at(&mount_point)
            .map_err(|errno| StartError::Mount(mount_point.clone(), errno))?;
        let mounted = Self {
            place: Some((mount_point, identity)),
            device: Some(identity.device),
            _auto_unmount: auto_unmount,
        };
        Ok((mounted, device))
    }

    fn adopt(mount_point: &Path, number: RawFd) -> Result<(Self, OwnedFd), StartError> {
        let fuse = device::duplicate(mount_point, number)?;
        let device = device::mount_device(&fuse);
        let mount = device.and_then(|device| {
            let found = mount_table::find(|mount| mount.device == device);
            found.ok().flatten()
        });
        // With or without default_permissions, the kernel checks permissions (`fuse::negotiation`).
        if mount.is_some_and(|mount| !mount.is_mmfs()) {
            log::info!("no other mmfs knows this mount as one of mmfs: mount it with {MARK}");
        }
        let mounted = Self {
            place: None,
            device,
            _auto_unmount: None,
        };
        Ok((mounted, fuse))
    }

    /// `st_dev` of everything in the mount, if it can be known.
    pub fn device(&self) -> Option<u64> {
        self.device
    }

    /// Where it is, if we have made it.
    pub fn path(&self) -> Option<&Path> {
        self.place.as_ref().map(|(path, _)| path.as_path())
    }

    /// Whether another program has made the mount.
    pub fn is_adopted(&self) -> bool {
        self.place.is_none()
    }

    /// Unmounts, detaching the mount when it is busy.
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
            match unmount(path, *identity, lazy) {
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
pub fn unmount(path: &Path, identity: Identity, lazy: bool) -> io::Result<()> {
    let point = MountPoint::hold(path)?;
    if point.identity()? != identity {
        return Err(Errno::NOENT.into());
    }
    point.unmount(lazy)
}

fn make(options: &MountOptions) -> Result<(OwnedFd, Option<OwnedFd>), StartError> {
    // fusermount3 opens it with our rights too, so this answers for both ways.
    let device = device::open().map_err(StartError::Device)?;
    if options.auto_unmount {
        return fusermount::mount(options);
    }
    match mount_directly(options, &device) {
        Ok(()) => Ok((device, None)),
        Err(Errno::PERM) => {
            drop(device);
            fusermount::mount(options)
        }
        Err(errno) => Err(StartError::Mount(options.mount_point.clone(), errno)),
    }
}

fn mount_directly(options: &MountOptions, device: &OwnedFd) -> Result<(), Errno> {
    let data = CString::new(options.data(device)).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(
        &options.fsname,
        &options.mount_point,
        options.fs_type(),
        options.flags(),
        data.as_c_str(),
    )
}
