//! Giving up all changes at once.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::Store;
use super::data;
use super::manifest::Manifest;
use super::node::NodeId;
use super::tail;

impl Store {
    /// Gives up all changes, and ends: the next opening finds the source as it is. A kill or a power cut leaves all of them or none.
    /// The numbers of nodes and data files are not used again.
    ///
    /// # Errors
    /// That of the call that failed. All changes still count then, unless the last sync was what failed: all or none may.
    pub fn discard(&self) -> io::Result<()> {
        self.end_loans();
        let mut turn = self.turn.lock();
        let first = {
            let mut log = self.log.lock();
            log.is_closed = true;
            log.tail.next()
        };
        let manifest = Manifest {
            tables: Vec::new(),
            tail: turn.next_tail,
            first,
            next: self.next.load(Ordering::Relaxed),
            used: 0,
            closed: true,
            life: turn.manifest.life,
        };
        manifest.write(&*self.disk, &self.uuid)?;
        turn.manifest = manifest;
        // Nothing of it counts any more. What stays now, the next opening removes.
        if let Err(error) = self
            .sweep_state(&turn)
            .and_then(|()| self.remove_all_data())
        {
            log::warn!("a file of discarded changes stays in the store: {error}");
        }
        self.remove(&tail::path(self.log.lock().tail.number()));
        if let Some(life) = self.life.lock().take() {
            life.take_away();
        }
        Ok(())
    }

    fn remove_all_data(&self) -> io::Result<()> {
        for number in 0..data::DIRECTORIES {
            let directory = data::directory(NodeId(number));
            for name in self.disk.list(&directory)? {
                if name.to_str().and_then(data::parse).is_some() {
                    self.remove(&directory.join(Path::new(&name)));
                }
            }
        }
        Ok(())
    }
}
