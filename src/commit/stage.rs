//! Making what is new, under temporary names beside the source's files.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::all_settings;
use super::bytes::Filled;
use super::handed::Handed;
use super::path::above;
use super::planned::{Make, Plan, Planned, What};
use super::progress::Progress;
use super::settings::Lacking;
use super::steps::Step;
use super::tree::{Identity, Tree, stat};
use crate::store::{Journal, is_synced_as_a_whole};
use crate::view::private::{Changed, Unmounted};

/// What was made.
#[derive(Default)]
pub struct Made {
    /// Of each that was to be made.
    pub identities: Vec<Identity>,
    /// Data files that are to be renamed, by the index of what was to be made.
    pub handed: HashMap<usize, Handed>,
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
    (tree, journal): (&Tree, &Journal),
    (plan, changed): (&Plan, &[Changed]),
    mut candidates: HashMap<usize, Handed>,
    progress: &Progress,
) -> Result<Made, Failed> {
    let mut made = Made::default();
    let mut may_move = None;
    for (index, make) in plan.makes.iter().enumerate() {
        let one = &changed[make.of];
        let stage = Stage {
            view,
            tree,
            one,
            progress,
        };
        let failed = |error| (one.spot.path.clone(), error);
        progress.goes_on().map_err(failed)?;
        if let Some(handed) = candidates.remove(&index) {
            let may_move = *may_move.get_or_insert_with(|| stage.may_move(make, journal));
            if may_move && stage.hand_over(make, &handed).map_err(failed)? {
                made.identities.push(handed.identity());
                made.handed.insert(index, handed);
                continue;
            }
        }
        let (identity, lacking) = stage.make(make).map_err(failed)?;
        made.identities.push(identity);
        if !lacking.is_empty() {
            made.lacking.push((one.spot.path.clone(), lacking));
        }
    }
    for planned in &plan.steps {
        if let Planned::SetMade { make, settings, .. } = planned {
            let (make, identity) = (&plan.makes[*make], &made.identities[*make]);
            // All are set when all that is to lie in it does. Whether they have room is found now.
            let tried = tree.hold(&make.at, identity);
            let tried = tried.and_then(|held| settings.xattrs_without_acls().apply(&held));
            tried.map_err(|errno| (changed[make.of].spot.path.clone(), errno.into()))?;
        }
    }
    Ok(made)
}

struct Stage<'a> {
    view: &'a Unmounted,
    tree: &'a Tree,
    one: &'a Changed,
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
            FileType::RegularFile => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW;
                let fd = fs::openat(directory, name, flags | OFlags::CLOEXEC, private)?;
                self.fill(&fd)?;
                fd
            }
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

    fn may_move(&self, make: &Make, journal: &Journal) -> bool {
        let place = self.tree.place(&make.at);
        place.is_ok_and(|(directory, name)| journal.may_move_to(&directory, name))
    }

    /// Prepares the data file to be renamed. False: it has to be copied.
    fn hand_over(&self, make: &Make, handed: &Handed) -> io::Result<bool> {
        let (directory, _) = self.tree.place(&make.at)?;
        let is_handed = handed.prepare(self.view, self.one, &directory)?;
        if is_handed {
            self.progress.bytes(self.one.attr.size)?;
        }
        Ok(is_handed)
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

/// The steps of a plan, with the inodes that were made.
pub fn steps(plan: &mut Plan, changed: &[Changed], made: &Made) -> Vec<Step> {
    let planned = std::mem::take(&mut plan.steps);
    let shown = |make: usize| &*changed[plan.makes[make].of].spot.path;
    // What lies in a directory that is made gets its place there just before that gets its own.
    let mut inside: HashMap<usize, Vec<usize>> = HashMap::new();
    let placed = planned.iter().filter_map(|planned| match planned {
        Planned::Place { make, .. } => Some((&*plan.makes[*make].at, *make)),
        _ => None,
    });
    let placed: HashMap<&[u8], usize> = placed.collect();
    for index in made.handed.keys() {
        let directory = above(&plan.makes[*index].at).find_map(|path| placed.get(path));
        if let Some(directory) = directory {
            inside.entry(*directory).or_default().push(*index);
        }
    }
    let mut steps = Vec::new();
    for planned in planned {
        let step = match planned {
            Planned::Step(step) => step,
            Planned::Place {
                make,
                from,
                to,
                over,
            } => match made.handed.get(&make) {
                Some(handed) => handed.place(to, shown(make), over),
                None => {
                    let len = plan.makes[make].at.len();
                    for index in inside.remove(&make).into_iter().flatten() {
                        let to = [&*from, &plan.makes[index].at[len..]].concat();
                        steps.push(made.handed[&index].place(to, shown(index), None));
                    }
                    Step::Rename {
                        from,
                        to,
                        what: made.identities[make],
                        over,
                    }
                }
            },
            Planned::SetMade {
                make,
                path,
                settings,
            } => Step::Set {
                path,
                what: made.identities[make],
                settings,
            },
        };
        steps.push(step);
    }
    steps
}
