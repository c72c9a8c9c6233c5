//! What the store no longer needs: it gives back the room, as far as durable records allow.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::Store;
use super::content::{Content, PAGE, pages};
use super::data;
use super::node::NodeId;
use super::table;
use super::tail;
use super::turn::Turn;
use super::undurable::Garbage;

impl Store {
    /// Removes a file that the state does not need any more. If it stays, the next opening removes it.
    pub(super) fn remove(&self, path: &Path) {
        match self.disk.remove(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::warn!("{} stays in the store: {error}", path.display())
            }
            _ => {}
        }
    }

    /// Removes a data file. Who opens it meanwhile does not keep it.
    pub(super) fn remove_data(&self, id: NodeId, data: u64) {
        self.remove(&data::path(id, data));
        self.data.close(id, data);
    }

    /// Gives back the room of data files, as far as the records that allow it are durable.
    pub(super) fn collect_garbage(&self) {
        let garbage = self.log.lock().undurable.take_garbage();
        for garbage in garbage {
            match garbage {
                Garbage::Unused(id, data) => self.remove_data(id, data),
                Garbage::Longer(id) => self.shorten(id),
            }
        }
    }

    /// Cuts the node's data file behind its last page, if a power cut could not make the file longer again.
    fn shorten(&self, id: NodeId) {
        let _stripe = self.stripe(id).lock();
        // One that the kernel has is as long as its file, or longer by now.
        if self.is_lent(id) {
            return;
        }
        if self.log.lock().undurable.has_records(id) {
            return self.log.lock().undurable.put_garbage(Garbage::Longer(id));
        }
        let cut = || -> io::Result<()> {
            let Some(Content { data, size, .. }) = self.content(id)? else {
                return Ok(());
            };
            let Some(data) = self.data.get(&*self.disk, id, data)? else {
                return Ok(());
            };
            let end = pages(size).saturating_mul(PAGE);
            if data.file.size()? > end {
                data.file.set_len(end)
            } else {
                Ok(())
            }
        };
        if let Err(error) = cut() {
            log::warn!("a data file of the store stays longer than its file: {error}");
        }
    }

    /// Makes room on a full disk: what is no longer needed goes at once, not with the next barrier.
    fn make_room(&self) {
        if self.sync_names().is_ok() {
            self.collect_garbage();
        }
    }

    /// Does it once more if there was no room, after giving back what is no longer needed.
    pub(super) fn with_room(&self, mut work: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        match work() {
            Err(error) if is_full(&error) && self.log.lock().undurable.has_garbage() => {
                self.make_room();
                work()
            }
            done => done,
        }
    }

    /// Removes data files that no file of the view has: what a life that ended too early left. Those of this life, whose
    /// number is `first` or higher, are not looked at.
    ///
    /// # Errors
    /// That of the call that failed.
    pub(super) fn sweep(&self, first: u64) -> io::Result<()> {
        for number in 0..data::DIRECTORIES {
            let directory = data::directory(NodeId(number));
            for name in self.disk.list(&directory)? {
                let found = name.to_str().and_then(data::parse);
                let Some((id, data)) = found.filter(|(_, data)| *data < first) else {
                    continue;
                };
                let _stripe = self.stripe(id).lock();
                let unused = self.content(id)?.is_none_or(|content| content.data != data);
                // One that lost its file in this life stays until the record of that is durable.
                if unused && !self.log.lock().undurable.waits(id, data) {
                    self.remove(&data::path(id, data));
                }
            }
        }
        Ok(())
    }

    /// Removes tables and tails that do not count.
    pub(super) fn sweep_state(&self, turn: &Turn) -> io::Result<()> {
        let tables: HashSet<_> = turn
            .manifest
            .tables
            .iter()
            .map(|number| table::path(*number))
            .collect();
        for name in self.disk.list("tables".as_ref())? {
            let path = Path::new("tables").join(name);
            if !tables.contains(&path) {
                self.remove(&path);
            }
        }
        let current = tail::path(self.log.lock().tail.number());
        for name in self.disk.list("tails".as_ref())? {
            let path = Path::new("tails").join(name);
            if path != current {
                self.remove(&path);
            }
        }
        Ok(())
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}
