//! Making durable: one node, all names, or everything.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Store;
use super::data;
use super::garbage::is_full;
use super::life::{Life, random};
use super::manifest::{MAX_TABLES, Manifest};
use super::node::NodeId;
use super::record::Record;
use super::state::{Puts, merge, to_merge};
use super::table::{self, Builder, Table};
use super::tail::{self, Reserve, Tail};
use super::turn::{Purpose, Turn, Unfinished};
use super::undurable::{DirtyFile, Work};

/// Above so many files, one syncfs(2) is made instead of an fdatasync(2) each.
const SYNCFS_ABOVE: usize = 32;
/// Files whose state is settled under one hold of the lock: nobody waits long for it.
const AT_ONCE: usize = 256;

/// What data files are synced for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// fsync(2) of this node: who asks is told of its errors.
    Node(NodeId),
    /// All names, or all that there is.
    All,
    /// A change that comes next. It waits for no other sync, and calls nothing durable that another may have lost.
    Change,
}

impl Store {
    /// fsync(2) of a node. `data_only`, as fdatasync(2): times that came by writing may be lost.
    ///
    /// # Errors
    /// EIO, ENOSPC, EDQUOT: bytes of it were lost, or may be. A barrier's error is told once.
    pub fn sync(&self, id: NodeId, data_only: bool) -> io::Result<()> {
        let mut error = self.log.lock().undurable.take_error(id);
        let refreshed = self.refresh_to_sync(Some(id));
        let done = self.sync_node(id, data_only).and(refreshed);
        // A barrier may have met it meanwhile.
        error = error.or_else(|| self.log.lock().undurable.take_error(id));
        let doubted = self.sync_doubted(id);
        error.map_or(done.and(doubted), Err)
    }

    /// What landed before a kill in pages that the map had already left no record. It is synced when it is asked for.
    fn sync_doubted(&self, id: NodeId) -> io::Result<()> {
        if !self.doubts {
            return Ok(());
        }
        let Some(content) = self.content(id)? else {
            return Ok(());
        };
        let data = self.data.get(&*self.disk, id, content.data)?;
        data.map_or(Ok(()), |data| data.file.sync())
    }

    fn sync_node(&self, id: NodeId, data_only: bool) -> io::Result<()> {
        let work = self.log.lock().undurable.work_for(id, data_only);
        self.sync_work(work, For::Node(id))
    }

    /// Makes a node durable before something else happens to it. An error is told to who syncs the node, too.
    pub(super) fn secure_node(&self, id: NodeId) -> io::Result<()> {
        let work = self.log.lock().undurable.work_for(id, true);
        self.sync_work(work, For::Change)
    }

    /// fsync(2) of a directory: all names and attributes become durable, and the bytes of files that took the place of others.
    ///
    /// # Errors
    /// As [`Store::sync`].
    pub fn sync_names(&self) -> io::Result<()> {
        let refreshed = self.refresh_to_sync(None);
        let work = self.log.lock().undurable.work_for_names();
        self.sync_work(work, For::All).and(refreshed)
    }

    fn sync_work(&self, work: Work, asked: For) -> io::Result<()> {
        self.sync_files(&work.files, asked)?;
        let Some((upto, nodes)) = work.record else {
            return Ok(());
        };
        let record = Record::Sync {
            upto,
            nodes: nodes.clone(),
        };
        let number = match self.append(&record, Reserve::All) {
            Ok(number) => number,
            // Too many nodes for a record, or no room for it.
            Err(_) => return self.barrier_of(&mut self.turn.lock(), Purpose::Sync),
        };
        if !self.sync_tail(number) {
            return self.barrier_of(&mut self.turn.lock(), Purpose::Sync);
        }
        self.log.lock().undurable.record_durable(upto, &nodes);
        Ok(())
    }

    /// Syncs data files. The failure of another than the one that was asked for is told to who syncs that one.
    fn sync_files(&self, files: &[DirtyFile], asked: For) -> io::Result<()> {
        let mut result = Ok(());
        if files.len() > SYNCFS_ABOVE && self.sync_filesystem() {
            for files in files.chunks(AT_ONCE) {
                let sound: Vec<_> = files
                    .iter()
                    .filter(|file| self.heard_of_others(file.node, asked))
                    .collect();
                let mut log = self.log.lock();
                for file in sound {
                    result = result.and(log.undurable.file_synced(file));
                }
            }
            return result;
        }
        for file in files {
            result = result.and(self.sync_one(file, asked));
        }
        result
    }

    fn sync_one(&self, file: &DirtyFile, asked: For) -> io::Result<()> {
        let sync = self.syncing.begin(file.node);
        let done = self.sync_file(file);
        if let Err(error) = &done {
            let told = asked == For::Node(file.node);
            self.log.lock().undurable.file_failed(file, error, told);
        }
        self.syncing.end(sync);
        done?;
        if self.heard_of_others(file.node, asked) {
            self.log.lock().undurable.file_synced(file)
        } else {
            Ok(())
        }
    }

    /// Whether all syncs of the file that ran beside this one have ended, and noted what they met. False: there is one, and this one
    /// may not wait. The file stays to be synced then.
    fn heard_of_others(&self, id: NodeId, asked: For) -> bool {
        if asked == For::Change {
            return !self.syncing.has(id);
        }
        self.syncing.wait_for_others(id);
        true
    }

    /// Makes all files durable at once. False: that is not to be had. It is not tried again after a failure, which may be of
    /// a file that nobody has asked for: the kernel has told it, and would call the next one good.
    fn sync_filesystem(&self) -> bool {
        let mut works = self.syncs_all.lock();
        if *works {
            let done = self.disk.sync_filesystem();
            if let Err(error) = &done {
                log::warn!("bytes of a file of the store may be lost: {error}");
            }
            *works = matches!(done, Ok(true));
        }
        *works
    }

    fn sync_file(&self, file: &DirtyFile) -> io::Result<()> {
        // None: a durable record has let go of it.
        let Some(data) = self.data.get(&*self.disk, file.node, file.data)? else {
            return Ok(());
        };
        data.file.sync()?;
        if file.fresh {
            self.disk.sync_directory(&data::directory(file.node))
        } else {
            Ok(())
        }
    }

    /// Makes the tail durable up to a record. False: the sync failed.
    fn sync_tail(&self, number: u64) -> bool {
        let mut commit = self.commit.lock();
        loop {
            if commit.failed.is_some() || commit.durable >= number {
                return commit.failed.is_none();
            }
            if !commit.leading {
                break;
            }
            self.committed.wait(&mut commit);
        }
        commit.leading = true;
        drop(commit);
        let (files, last) = {
            let log = self.log.lock();
            let tails = log.older.iter().chain([&log.tail]);
            (
                tails
                    .map(|tail| Arc::clone(tail.file()))
                    .collect::<Vec<_>>(),
                log.tail.next() - 1,
            )
        };
        let result = files.iter().try_for_each(|file| file.sync());
        let latest = self.log.lock().tail.next() - 1;
        let mut commit = self.commit.lock();
        commit.leading = false;
        match &result {
            Ok(()) => commit.durable = commit.durable.max(last),
            // The kernel takes its pages for written from now on: what the tail holds is in memory only.
            Err(_) if commit.durable >= latest => {}
            Err(error) => {
                log::error!(
                    "the store's tail could not be made durable ({error}): a barrier is made instead"
                );
                commit.failed = Some(latest);
                if let Some(life) = &*self.life.lock() {
                    life.take_away();
                }
            }
        }
        self.committed.notify_all();
        result.is_ok()
    }

    /// Makes everything durable: syncs all data files, writes what is in memory into a table, and begins a new tail.
    ///
    /// # Errors
    /// That of the call that failed. What was answered still counts, and the next barrier makes it durable. The error of a data
    /// file is told to who syncs that file, and is not an error here.
    pub fn barrier(&self) -> io::Result<()> {
        self.refresh_all();
        // On a full disk there is no room for the next tail before the garbage goes.
        self.with_room(|| self.barrier_of(&mut self.turn.lock(), Purpose::Sync))?;
        self.collect_garbage();
        Ok(())
    }

    /// A barrier that leaves the garbage: whoever holds a stripe may make it.
    pub(super) fn barrier_of(&self, turn: &mut Turn, purpose: Purpose) -> io::Result<()> {
        // One that failed comes first, as it was: so there are never more than two tails.
        self.finish(turn, Purpose::Sync)?;
        let nothing = {
            let log = self.log.lock();
            if log.is_closed {
                return Ok(());
            }
            log.undurable.is_empty() && log.tail.size() == 0
        };
        if nothing && purpose == Purpose::Sync {
            return Ok(());
        }
        let needs_reserve = purpose == Purpose::Sync;
        let mut tail = Tail::make(&*self.disk, turn.next_tail, random()?, needs_reserve)?;
        {
            let mut log = self.log.lock();
            let next = log.tail.next();
            tail.begin(&self.uuid, next)?;
            let old = std::mem::replace(&mut log.tail, tail);
            log.older = Some(old);
            log.is_closed = purpose == Purpose::Close;
            self.state.freeze();
            turn.unfinished = Some(Unfinished {
                upto: next - 1,
                used: self.room.used(),
                files: log.undurable.work_for_all().files,
                table: None,
            });
        }
        // Not before: the numbers of tails that count have no gap.
        turn.next_tail += 1;
        self.finish(turn, purpose)
    }

    /// Writes what was frozen, if there is anything.
    fn finish(&self, turn: &mut Turn, purpose: Purpose) -> io::Result<()> {
        let Some(Unfinished {
            upto, used, files, ..
        }) = turn.unfinished.clone()
        else {
            return Ok(());
        };
        // A file that fails is told to who syncs it. Waiting for a disk that has lost it would hold up all others for ever.
        if let Err(error) = self.sync_files(&files, For::All) {
            log::warn!("bytes of a file of the store may be lost: {error}");
        }
        self.write_state(turn, upto, used, purpose)?;
        turn.unfinished = None;
        self.settle_all(upto);
        let older = self.log.lock().older.take();
        if let Some(tail) = older {
            self.remove(&tail::path(tail.number()));
        }
        Ok(())
    }

    fn write_state(
        &self,
        turn: &mut Turn,
        upto: u64,
        used: u64,
        purpose: Purpose,
    ) -> io::Result<()> {
        let old = self.state.tables();
        let mut tables = old.to_vec();
        let mut merged = 0;
        if let Some((table, in_it)) = self.new_table(turn, &old)? {
            merged = in_it;
            tables.splice(..merged, [table]);
        }
        let log = self.log.lock();
        let manifest = Manifest {
            tables: tables.iter().map(|table| table.number()).collect(),
            tail: log.tail.number(),
            first: upto + 1,
            next: self.next.load(Ordering::Relaxed),
            used,
            closed: purpose == Purpose::Close,
            life: turn.manifest.life,
        };
        drop(log);
        manifest.write(&*self.disk, &self.uuid)?;
        turn.manifest = manifest;
        self.state.set_tables(tables);
        for table in &old[..merged] {
            self.remove(&table::path(table.number()));
        }
        Ok(())
    }

    /// The table of what was frozen, and how many of the newest tables it has in it. One that was written when something failed
    /// later is used again: a barrier that fails over and over leaves no more than that. None: nothing was frozen.
    fn new_table(
        &self,
        turn: &mut Turn,
        tables: &[Arc<Table>],
    ) -> io::Result<Option<(Arc<Table>, usize)>> {
        let written = turn
            .unfinished
            .as_ref()
            .and_then(|unfinished| unfinished.table.clone());
        let frozen = self.state.frozen();
        if written.is_some() || frozen.is_empty() {
            return Ok(written);
        }
        let len = frozen
            .iter()
            .map(|(key, value)| (key.len() + value.as_ref().map_or(0, Vec::len) + 6) as u64)
            .sum();
        let mut merged = to_merge(tables, len);
        let mut table = self.write_table(turn, &frozen, tables, merged);
        while let Err(error) = &table {
            // There may be room for the new entries alone, or an old table cannot be read.
            let fewer = if is_full(error) {
                0
            } else {
                merged.saturating_sub(1)
            };
            if fewer == merged || tables.len() - fewer >= MAX_TABLES {
                break;
            }
            merged = fewer;
            table = self.write_table(turn, &frozen, tables, merged);
        }
        let written = (Arc::new(table?), merged);
        if let Some(unfinished) = &mut turn.unfinished {
            unfinished.table = Some(written.clone());
        }
        Ok(Some(written))
    }

    /// Writes a table of what was frozen and of the newest `merged` tables. If that fails, nothing is left of it.
    fn write_table(
        &self,
        turn: &mut Turn,
        frozen: &Puts,
        tables: &[Arc<Table>],
        merged: usize,
    ) -> io::Result<Table> {
        let number = turn.next_table;
        let builder = Builder::new(&*self.disk, number)?;
        turn.next_table += 1;
        merge(builder, frozen, &tables[..merged], merged == tables.len())
            .inspect_err(|_| self.remove(&table::path(number)))
    }

    fn settle_all(&self, upto: u64) {
        {
            let mut commit = self.commit.lock();
            commit.durable = commit.durable.max(upto);
            if commit.failed.is_some_and(|last| last <= upto) {
                commit.failed = None;
                self.put_cookie();
            }
        }
        let nodes = self.log.lock().undurable.nodes();
        self.log.lock().undurable.record_durable(upto, &[]);
        for nodes in nodes.chunks(AT_ONCE) {
            self.log.lock().undurable.record_durable(upto, nodes);
        }
    }

    /// The barrier covers what a failed sync of the tail lost: after a kill, all records count again.
    fn put_cookie(&self) {
        if let Some(Err(error)) = self.life.lock().as_ref().map(Life::put) {
            log::warn!("{error}: if mmfs is killed, changes that were not synced are lost");
        }
    }

    /// Makes everything durable and ends: the next opening has nothing to recover.
    ///
    /// # Errors
    /// As [`Store::barrier`]. The next opening recovers then. Also that of a file which nobody was told.
    pub fn close(&self) -> io::Result<()> {
        self.end_loans();
        match self.barrier() {
            // The last barrier needs no reserve for a tail.
            Err(error) if is_full(&error) => {}
            done => done?,
        }
        self.barrier_of(&mut self.turn.lock(), Purpose::Close)?;
        let lost = self.log.lock().undurable.take_errors();
        self.collect_garbage();
        // It holds no record, and has the reserve.
        self.remove(&tail::path(self.log.lock().tail.number()));
        if let Some(life) = self.life.lock().take() {
            life.take_away();
        }
        lost.map_or(Ok(()), Err)
    }

    pub(super) fn stripe(&self, id: NodeId) -> &parking_lot::Mutex<()> {
        &self.stripes[(id.0 % self.stripes.len() as u64) as usize]
    }
}
