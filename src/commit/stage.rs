//! Making what is new, under temporary names beside the source's files.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::all_settings;
use super::bytes::Filled;
use super::handed::{self, Handed};
use super::planned::{Make, Plan, Planned, What};
use super::progress::Progress;
use super::settings::Lacking;
use super::steps::Step;
use super::tree::{Identity, Tree, stat};
use crate::store::is_synced_as_a_whole;
use crate::view::private::{Changed, Unmounted};

/// What was made.
#[derive(Debug, Default)]
pub struct Made {
    /// Of each that was to be made.
    pub identities: Vec<Identity>,
    /// What could not be set, and of which path of the view.
    pub lacking: Vec<(Vec<u8>, Lacking)>,
}

/// What is not made, and the path of the view.
pub type Failed = (Vec<u8>, io::Error);

/// Makes all that is new.
///
/// # Errors
/// The first one. What was made until then stays, and is to be removed.
pub fn make_all(
    view: &Unmounted,
    tree: &Tree,
    (plan, changed): (&Plan, &[Changed]),
    handed: &[Option<Handed>],
    progress: &Progress,
) -> Result<Made, Failed> {
    let mut made = Made::default();
    for (make, handed) in plan.makes.iter().zip(handed) {
        let one = &changed[make.of];
        let stage = Stage {
            view,
            tree,
            one,
            handed: handed.as_ref(),
            progress,
        };
        let done = progress.goes_on().and_then(|()| stage.make(make));
        let (identity, lacking) = done.map_err(|error| (one.spot.path.clone(), error))?;
        made.identities.push(identity);
        if !lacking.is_empty() {
            made.lacking.push((one.spot.path.clone(), lacking));
        }
    }
    Ok(made)
}

struct Stage<'a> {
    view: &'a Unmounted,
    tree: &'a Tree,
    one: &'a Changed,
    /// Its data file, if that may become the source's.
    handed: Option<&'a Handed>,
    progress: &'a Progress,
}

impl Stage<'_> {
    fn make(&self, make: &Make) -> io::Result<(Identity, Lacking)> {
        let (directory, name) = self.tree.place(&make.at)?;
        let (directory, name) = (&*directory, name);
        let link = |from: &[u8]| -> io::Result<()> {
            let (old, old_name) = self.tree.place(from)?;
            Ok(fs::linkat(
                &*old,
                old_name,
                directory,
                name,
                AtFlags::empty(),
            )?)
        };
        match &make.what {
            What::Link(first) => link(first)?,
            What::LinkOf(way, identity) => {
                link(way)?;
                let found = self.tree.attr(&make.at)?.map(|attr| Identity::of(&attr));
                if found != Some(*identity) {
                    return Err(Errno::STALE.into());
                }
            }
            What::Inode => return self.inode(directory, name),
        }
        let attr = self.tree.attr(&make.at)?.ok_or(Errno::STALE)?;
        Ok((Identity::of(&attr), Lacking::new()))
    }

    fn inode(&self, directory: &OwnedFd, name: &OsStr) -> io::Result<(Identity, Lacking)> {
        let attr = &self.one.attr;
        let private = Mode::RUSR | Mode::WUSR;
        let fd = match attr.kind() {
            FileType::RegularFile => match self.hand_over(directory, name)? {
                Some(fd) => fd,
                None => {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW;
                    let fd = fs::openat(directory, name, flags | OFlags::CLOEXEC, private)?;
                    self.fill(&fd)?;
                    fd
                }
            },
            kind => {
                match kind {
                    FileType::Directory => {
                        fs::mkdirat(directory, name, private | Mode::XUSR)?;
                        // Its attributes come when all that is to lie in it does.
                        let fd = held(directory, name)?;
                        return Ok((Identity::of(&stat(&fd)?), Lacking::new()));
                    }
                    FileType::Symlink => {
                        let target = self.view.target(self.one)?;
                        fs::symlinkat(OsStr::from_bytes(&target), directory, name)?;
                    }
                    kind => fs::mknodat(directory, name, kind, private, attr.rdev)?,
                }
                held(directory, name)?
            }
        };
        let lacking = all_settings(self.view, self.one)?.apply(&fd)?;
        if attr.is_file() && !is_synced_as_a_whole(&fd) {
            fs::fsync(&fd)?;
        }
        Ok((Identity::of(&stat(&fd)?), lacking))
    }

    fn hand_over(&self, directory: &OwnedFd, name: &OsStr) -> io::Result<Option<OwnedFd>> {
        let Some(handed) = self.handed else {
            return Ok(None);
        };
        let done = handed::hand_over(self.view, self.one, handed, (directory, name))?;
        if done.is_some() {
            self.progress.bytes(self.one.attr.size)?;
        }
        Ok(done)
    }

    fn fill(&self, to: &OwnedFd) -> io::Result<()> {
        let base = match self.one.is_of_source() {
            true => self.base()?,
            false => None,
        };
        let filled = Filled {
            view: self.view,
            changed: self.one,
            base: base.as_ref(),
            to,
            progress: self.progress,
        };
        filled.fill()
    }

    /// The source's file, by the path that it had when it was first changed.
    fn base(&self) -> io::Result<Option<OwnedFd>> {
        let identity = Identity::of(&self.view.source_attr(self.one)?);
        let way = self.view.reached(self.one)?;
        // Without it, its bytes come through the view.
        Ok(self.tree.read(&way, &identity).ok())
    }
}

fn held(directory: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(directory, name, flags, Mode::empty())?)
}

/// The steps, with the inodes that were made.
pub fn steps(planned: Vec<Planned>, made: &[Identity]) -> Vec<Step> {
    let step = |planned| match planned {
        Planned::Step(step) => step,
        Planned::Place {
            make,
            from,
            to,
            over,
        } => Step::Rename {
            from,
            to,
            what: made[make],
            over,
        },
        Planned::SetMade {
            make,
            path,
            settings,
        } => Step::Set {
            path,
            what: made[make],
            settings,
        },
    };
    planned.into_iter().map(step).collect()
}
