//! The mount. mount(2) or fusermount3 makes it, or another program makes it and passes its /dev/fuse to mmfs. mmfs unmounts it only
//! if its identity proves that it is this mount and that it is on top. So no mount below it is ever unmounted.

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

/// The mount of this process.
#[derive(Debug)]
pub struct Mounted {
    /// `None` if another program has made the mount.
    place: Option<(PathBuf, Identity)>,
    device: Option<u64>,
    /// fusermount3 unmounts when this is closed.
    _auto_unmount: Option<OwnedFd>,
}

/// The outcome of unmounting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// It is unmounted.
    Clean,
    /// It was busy, so it was detached: no path leads to it any more, but open files can still be used.
    Detached,
    /// It was not there or not on top, or another program has made it.
    Absent,
}

impl Mounted {
    /// Mounts with the settings of `config`. The second result is the session's /dev/fuse.
    ///
    /// # Errors
    /// The sentence that says why it cannot be mounted.
    pub fn new(config: &Config) -> Result<(Self, OwnedFd), StartError> {
        if let Some(number) = device::passed_number(&config.mount_point) {
            return Self::adopt(&config.mount_point, number);
        }
        let options = MountOptions::new(config);
        let (device, auto_unmount) = make(&options)?;
        let mount_point = options.mount_point;
        // This sends no request, so it works before INIT is answered.
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
            log::info!("mmfs status does not list this mount: mount it with {MARK}");
        }
        let mounted = Self {
            place: None,
            device,
            _auto_unmount: None,
        };
        Ok((mounted, fuse))
    }

    /// `st_dev` of all files in the mount. `None` if another program has made it, before Linux 6.17.
    pub fn device(&self) -> Option<u64> {
        self.device
    }

    /// Its mount point. `None` if another program has made the mount.
    pub fn path(&self) -> Option<&Path> {
        self.place.as_ref().map(|(path, _)| path.as_path())
    }

    /// Whether another program has made the mount.
    pub fn is_adopted(&self) -> bool {
        self.place.is_none()
    }

    /// Unmounts. A busy mount is detached.
    ///
    /// # Errors
    /// Those of umount2(2), or the message of fusermount3.
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

/// Unmounts the mount on top at `path` if it has this `identity`.
///
/// # Errors
/// ENOENT if another mount is on top. Those of umount2(2), or the message of fusermount3.
pub fn unmount(path: &Path, identity: Identity, lazy: bool) -> io::Result<()> {
    let point = MountPoint::hold(path)?;
    if point.identity()? != identity {
        return Err(Errno::NOENT.into());
    }
    point.unmount(lazy)
}

/// Mounts with the settings of `config` by mount(2), and returns the session's /dev/fuse, for another process to serve it.
///
/// # Errors
/// The sentence that says why it cannot be mounted.
pub fn mount_for_another(config: &Config) -> Result<OwnedFd, StartError> {
    let options = MountOptions::new(config);
    let device = device::open().map_err(StartError::Device)?;
    match mount_directly(&options, &device) {
        Ok(()) => Ok(device),
        Err(errno) => Err(StartError::Mount(options.mount_point, errno)),
    }
}

fn make(options: &MountOptions) -> Result<(OwnedFd, Option<OwnedFd>), StartError> {
    // fusermount3 opens /dev/fuse with the rights of the user, too. So an error here is the reason with fusermount3 as well.
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
