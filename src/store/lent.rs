//! Data files that the kernel has (`--passthrough`): it reads and writes them by itself, and says nothing of it.
//!
//! While the kernel may write to a data file, that file says how long the view's file is and when it was written. The state says
//! which ones these are, and so the next opening knows after a kill. What the kernel has done is recorded when somebody asks: that
//! is a refresh. A lent file is whole, and keeps its data file: a cut waits until its record is durable.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use super::codec::damaged;
use super::content::Content;
use super::data::Data;
use super::garbage::is_full;
use super::loan::{Access, Lent, Loan};
use super::node::{NodeId, Time};
use super::record::{Change, Record};
use super::tail::Reserve;
use super::writer::Writer;
use super::{DiskFile, Kind, Store};

/// The clock of file times stands still for up to 10 ms: what is written after so long has a later time.
const TICK: Duration = Duration::from_millis(20);

impl Store {
    /// Lends a file's data file to the kernel. It is as long as the file, and stays the file's until [`Store::take_back`].
    /// None: not all of the file's bytes are in it, or the kernel has too many data files.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn lend(&self, id: NodeId, access: Access) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let _stripe = self.stripe(id).lock();
        let Some(content) = self.lendable(id, access)? else {
            return Ok(None);
        };
        let writer = Writer::new(self, id, content, None, Time::default());
        let data = match access {
            Access::Reads => self.data_of(id, &content)?,
            _ => Some(writer.data()?),
        };
        let Some(data) = data else { return Ok(None) };
        if !self.is_lent(id) {
            writer.grow_to(content.size)?;
            if data.file.size()? < content.size {
                data.file.set_len(content.size)?;
                writer.landed();
            }
        }
        if !self.loans.hold(id, content.data) {
            return Ok(None);
        }
        if let Err(error) = self.record_loan(id, &data, content.data, access) {
            self.loans.let_go(id);
            return Err(error);
        }
        Ok(Some(Arc::clone(&data.file)))
    }

    fn lendable(&self, id: NodeId, access: Access) -> io::Result<Option<Content>> {
        match (self.content(id)?, self.node(id)?) {
            (Some(content), _) => Ok(Some(content).filter(Content::is_whole)),
            (None, Some(node)) if access != Access::Reads => {
                let is_new = node.kind == Kind::File && node.origin.is_none();
                Ok(is_new.then(|| Content::new(self.new_number().0, None)))
            }
            _ => Ok(None),
        }
    }

    /// The kernel does this, too, from now on, with a data file that it has already.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn lend_for(&self, id: NodeId, access: Access) -> io::Result<()> {
        let _stripe = self.stripe(id).lock();
        let lent = self.loans.get(id).ok_or(Errno::NOENT)?;
        let data = self.data.get(&*self.disk, id, lent.data)?;
        self.record_loan(id, &*data.ok_or_else(damaged)?, lent.data, access)
    }

    fn record_loan(&self, node: NodeId, file: &Data, data: u64, access: Access) -> io::Result<()> {
        let is_synced = access == Access::SyncedWrites;
        let had = self.loans.get(node).and_then(|lent| lent.loan);
        if access == Access::Reads || had.is_some_and(|had| had.is_synced || !is_synced) {
            return Ok(());
        }
        self.refresh_held(node)?;
        let (_, seen) = file.file.state()?;
        let loan = Some(Loan { is_synced, seen });
        if is_synced {
            self.log.lock().undurable.landed(node, data, false);
        }
        self.append(&Record::Lent { node, data, loan }, Reserve::Half)?;
        self.loans.update(node, |lent| lent.loan = loan);
        if is_synced {
            self.secure_node(node)?;
        }
        Ok(())
    }

    /// Ends what [`Store::lend`] began. The kernel does nothing with the data file any more.
    pub fn take_back(&self, id: NodeId) {
        let _stripe = self.stripe(id).lock();
        if self.loans.let_go(id) > 0 {
            return;
        }
        match self.end_loan(id) {
            // The store was closed, and has ended the loan.
            Err(error) if error.raw_os_error() == Some(libc::ESHUTDOWN) => {}
            Err(error) => log::warn!(
                "the length of a file of the store is recorded with the next barrier: {error}"
            ),
            Ok(()) => {}
        }
    }

    /// Records what the kernel did, and that it does no more. The stripe is held.
    fn end_loan(&self, node: NodeId) -> io::Result<()> {
        let Some(Lent { data, loan, .. }) = self.loans.get(node) else {
            return Ok(());
        };
        self.refresh_held(node)?;
        if loan.is_some() {
            let record = Record::Lent {
                node,
                data,
                loan: None,
            };
            self.append(&record, Reserve::Most)?;
        }
        self.loans.remove(node);
        Ok(())
    }

    /// Whether the kernel has the file's data file.
    pub fn is_lent(&self, id: NodeId) -> bool {
        self.loans.get(id).is_some()
    }

    /// Records what the kernel did with the file's data file, if it has it: a new length, and the time.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn refresh(&self, id: NodeId) -> io::Result<()> {
        if !self.is_lent(id) {
            return Ok(());
        }
        let _stripe = self.stripe(id).lock();
        self.refresh_held(id)
    }

    /// As [`Store::refresh`], and what the kernel writes afterwards has another time.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn refresh_and_part(&self, id: NodeId) -> io::Result<()> {
        self.refresh(id)?;
        if self.loans.get(id).is_some_and(|lent| lent.loan.is_some()) {
            std::thread::sleep(TICK);
        }
        self.refresh(id)
    }

    /// As [`Store::refresh`], for who holds the file's stripe.
    pub(super) fn refresh_held(&self, node: NodeId) -> io::Result<()> {
        let Some(lent) = self.loans.get(node) else {
            return Ok(());
        };
        let Some((loan, content)) = lent.loan.zip(self.content(node)?) else {
            return Ok(());
        };
        let Some(file) = self.data.get(&*self.disk, node, lent.data)? else {
            return Ok(());
        };
        let (size, time) = file.file.state()?;
        let grown = size > content.size;
        if grown || time != loan.seen || !lent.is_settled {
            self.log.lock().undurable.landed(node, lent.data, false);
        }
        if grown || time != loan.seen {
            let size = if grown { size } else { 0 };
            match self.append(
                &Record::by_kernel(node, lent.data, size, time),
                Reserve::Most,
            ) {
                // It was removed meanwhile.
                Err(_) if self.content(node)?.is_none() => return Ok(()),
                done => done?,
            };
        }
        self.loans.update(node, |lent| {
            lent.is_settled = is_old(time);
            lent.loan = Some(Loan { seen: time, ..loan });
        });
        Ok(())
    }

    /// Records what the kernel did with all files, before a barrier.
    pub(super) fn refresh_all(&self) {
        for id in self.loans.ids() {
            let _stripe = self.stripe(id).lock();
            let is_over = self.loans.get(id).is_some_and(|lent| lent.holders == 0);
            let done = match is_over {
                true => self.end_loan(id),
                false => self.refresh_held(id),
            };
            if let Err(error) = done {
                log::warn!(
                    "the length of a file of the store is recorded with the next barrier: {error}"
                );
            }
        }
    }

    /// Records what the kernel did with a file that is to be synced, and with those whose bytes have to be durable as well.
    pub(super) fn refresh_to_sync(&self, asked: Option<NodeId>) -> io::Result<()> {
        let ids = self.loans.ids();
        if ids.is_empty() {
            return Ok(());
        }
        let placed = self.log.lock().undurable.placed();
        let mut done = Ok(());
        for id in ids {
            if asked == Some(id) || placed.contains(&id) {
                let _stripe = self.stripe(id).lock();
                self.loans.update(id, |lent| lent.is_settled = false);
                done = done.and(self.refresh_held(id));
            }
        }
        done
    }

    /// A file that takes the place of another: what the kernel wrote to it goes with it.
    pub(super) fn refresh_placed(&self, changes: &[Change]) -> io::Result<()> {
        let placed = changes.iter().filter_map(Change::placed);
        placed.into_iter().try_for_each(|id| self.refresh(id))
    }

    /// The store is closed: what the kernel does from now on does not count.
    pub(super) fn end_loans(&self) {
        for id in self.loans.ids() {
            let _stripe = self.stripe(id).lock();
            if let Err(error) = self.end_loan(id) {
                log::warn!("the length of a file of the store is not recorded: {error}");
            }
        }
    }

    /// What the store has of a file's bytes, with what the kernel has done meanwhile.
    ///
    /// # Errors
    /// As [`Store::write`], without ENOSPC and EDQUOT.
    pub fn content_now(&self, id: NodeId) -> io::Result<Option<Content>> {
        let done = self.refresh(id);
        let mut content = self.content(id)?;
        match (done, &mut content) {
            // There is no room for the record. The file is as long nevertheless.
            (Err(error), Some(content)) if is_full(&error) => {
                let data = self.data_of(id, content)?;
                let size = data.map_or(Ok(0), |data| data.file.size())?;
                content.size = content.size.max(size);
            }
            (done, _) => done?,
        }
        Ok(content)
    }

    /// Sets the length of a file whose data file the kernel has, with `more` in the same record. The stripe is held.
    pub(super) fn truncate_lent(
        &self,
        writer: &Writer<'_>,
        size: u64,
        more: &[Change],
    ) -> io::Result<()> {
        let (node, content) = (writer.id, writer.content);
        let data = writer.data()?;
        let is_cut = size < content.size;
        if size > content.size {
            data.file.set_len(size)?;
            writer.landed();
        }
        let change = Change::Truncate {
            node,
            data: content.data,
            size,
            source: writer.now,
            time: writer.time,
            lent: true,
        };
        let reserve = if is_cut { Reserve::Most } else { Reserve::Half };
        self.append(&Record::Meta([&[change], more].concat()), reserve)?;
        if !is_cut {
            return Ok(());
        }
        let cut = self.secure_node(node).and_then(|()| {
            data.file.set_len(size)?;
            writer.landed();
            // The length is to be found after a power cut.
            let lent = self.loans.get(node).and_then(|lent| lent.loan);
            match lent.is_some_and(|loan| loan.is_synced) {
                true => data.file.sync(),
                false => Ok(()),
            }
        });
        if cut.is_err() {
            // The bytes are there still, and the kernel shows them.
            let size = data.file.size()?;
            self.append(
                &Record::by_kernel(node, content.data, size, writer.time),
                Reserve::All,
            )?;
        }
        cut
    }
}

/// Whether what is written now has a later time.
fn is_old(time: Time) -> bool {
    let seconds = u64::try_from(time.seconds).map(Duration::from_secs);
    let Ok(since) = seconds.map(|seconds| seconds + Duration::from_nanos(time.nanoseconds.into()))
    else {
        return true;
    };
    SystemTime::now()
        .duration_since(UNIX_EPOCH + since)
        .is_ok_and(|age| age > TICK)
}
