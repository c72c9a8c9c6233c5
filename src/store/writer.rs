//! One change of a file's bytes.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::Store;
use super::content::{Chunk, Content, From, PAGE, ReadSource, SourceState, page_of, pages};
use super::data::Data;
use super::node::{NodeId, Time};
use super::record::{Record, Written};
use super::tail::Reserve;

/// The most pages that [`Store::punch`] takes out of the middle of a file: 64 GiB.
const MAX_PUNCH: u64 = 1 << 24;

/// One change of a file's bytes, by who holds the file's stripe.
pub struct Writer<'a> {
    pub store: &'a Store,
    pub id: NodeId,
    pub content: Content,
    pub now: Option<SourceState>,
    pub time: Time,
    /// It has made the data file.
    made: Cell<bool>,
}

/// A data file that was made for a change which failed belongs to nothing.
impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if self.made.get() && matches!(self.store.content(self.id), Ok(None)) {
            self.store.remove_data(self.id, self.content.data);
        }
    }
}

impl<'a> Writer<'a> {
    /// A change of a file whose stripe is held. `now`: the source's file, as it was at the first change or is.
    pub fn new(
        store: &'a Store,
        id: NodeId,
        content: Content,
        now: Option<SourceState>,
        time: Time,
    ) -> Self {
        let made = Cell::new(false);
        Self {
            store,
            id,
            content,
            now,
            time,
            made,
        }
    }
}

impl Writer<'_> {
    pub fn data(&self) -> io::Result<Arc<Data>> {
        if let Some(data) = self.store.data_of(self.id, &self.content)? {
            return Ok(data);
        }
        let data = self
            .store
            .data
            .make(&*self.store.disk, self.id, self.content.data)?;
        self.made.set(true);
        self.store
            .log
            .lock()
            .undurable
            .landed(self.id, self.content.data, true);
        Ok(data)
    }

    pub fn landed(&self) {
        self.store
            .log
            .lock()
            .undurable
            .landed(self.id, self.content.data, false);
    }

    pub fn record(&self, first: u64, count: u64, from: From, size: u64) -> Record {
        let (node, data, source, time) = (self.id, self.content.data, self.now, self.time);
        Record::Written(Written {
            node,
            data,
            first,
            count,
            from,
            size,
            source,
            time,
        })
    }

    /// A cut that a power cut could take back becomes durable: what lies behind it is about to be written over.
    pub fn secure_cut(&self) -> io::Result<()> {
        let cut = self.store.log.lock().undurable.is_cut(self.id);
        if cut {
            self.store.secure_node(self.id)
        } else {
            Ok(())
        }
    }

    /// Makes the bytes from the end of the file up to `to` read as zeros, once the file reaches there.
    pub fn grow_to(&self, to: u64) -> io::Result<()> {
        let size = self.content.size;
        if to <= size && !self.content.is_whole() {
            return Ok(());
        }
        if self.content.is_whole() {
            // What lies behind the end was written by the kernel meanwhile.
            if self.store.is_lent(self.id) {
                return Ok(());
            }
            let Some(data) = self.store.data_of(self.id, &self.content)? else {
                return Ok(());
            };
            if !data.trimmed.load(Ordering::Relaxed) && data.file.size()? > size {
                data.file.set_len(size)?;
                self.landed();
            }
            data.trimmed.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let page = page_of(size);
        let ours = size % PAGE != 0
            && (page < self.content.dense
                || self
                    .store
                    .chunk(self.id, page / Chunk::PAGES)?
                    .get(page % Chunk::PAGES)
                    == Some(From::Data));
        if !ours {
            return Ok(());
        }
        self.secure_cut()?;
        let data = self.data()?;
        if data.file.size()? > size {
            let zeros = [0; PAGE as usize];
            data.file
                .write_all_at(&zeros[..(PAGE - size % PAGE) as usize], size)?;
            self.landed();
        }
        Ok(())
    }

    pub fn write(
        &self,
        at: u64,
        end: u64,
        bytes: &[u8],
        source: &mut ReadSource<'_>,
    ) -> io::Result<()> {
        let content = &self.content;
        let range = page_of(at)..pages(end);
        let has = self
            .store
            .pieces_of_pages(self.id, content, range.clone())?;
        let new = has.iter().filter(|from| **from != From::Data).count() as u64;
        // A page that is zero now may be one that the cut took away.
        if has.contains(&From::Zero) {
            self.secure_cut()?;
        }
        let grown = if content.is_whole() {
            pages(end).saturating_sub(pages(content.size))
        } else {
            new
        };
        self.store.room.check((grown * PAGE) as i64, false)?;
        let data = self.data()?;
        let done = match new {
            0 => data.file.write_all_at(bytes, at),
            _ => self.write_new(&data, at, bytes, &has, source),
        };
        if let Err(error) = done {
            // Part of it may stand behind the end.
            data.trimmed.store(false, Ordering::Relaxed);
            return Err(error);
        }
        self.landed();
        if new > 0 || end > content.size || !content.filed {
            let mut first = range.start;
            while first < range.end {
                let count = (range.end - first).min(Written::MAX_PAGES);
                let size = end.min((first + count) * PAGE).max(content.size);
                let done = self
                    .store
                    .append(&self.record(first, count, From::Data, size), Reserve::None);
                if let Err(error) = done {
                    data.trimmed.store(false, Ordering::Relaxed);
                    return Err(error);
                }
                first += count;
            }
            return Ok(());
        }
        self.record_time()
    }

    /// The first write into pages goes in whole pages: what is not written over is copied from where it came.
    pub fn write_new(
        &self,
        data: &Data,
        at: u64,
        bytes: &[u8],
        has: &[From],
        source: &mut ReadSource<'_>,
    ) -> io::Result<()> {
        let end = at + bytes.len() as u64;
        let begin = page_of(at) * PAGE;
        let head = (at - begin) as usize;
        let tail = (pages(end) * PAGE - end) as usize;
        let mut buffer = Vec::with_capacity(head + bytes.len() + tail);
        // A page of the store is left as it is, up to the write and behind it.
        let head = if has[0] == From::Data { 0 } else { head };
        let tail = if has[has.len() - 1] == From::Data {
            0
        } else {
            tail
        };
        buffer.resize(head, 0);
        if has[0] == From::Source && head > 0 {
            self.copy(begin, &mut buffer, source)?;
        }
        buffer.extend_from_slice(bytes);
        let behind = buffer.len();
        buffer.resize(behind + tail, 0);
        if has[has.len() - 1] == From::Source && tail > 0 {
            self.copy(end, &mut buffer[behind..], source)?;
        }
        data.file.write_all_at(&buffer, at - head as u64)
    }

    /// Copies from the source, with zeros from its limit on.
    pub fn copy(&self, at: u64, to: &mut [u8], source: &mut ReadSource<'_>) -> io::Result<()> {
        let len = self
            .content
            .source_limit
            .saturating_sub(at)
            .min(to.len() as u64) as usize;
        if len > 0 {
            source(at, &mut to[..len])
        } else {
            Ok(())
        }
    }

    /// Checks that [`Writer::zero_pages`] can do it.
    ///
    /// # Errors
    /// EOPNOTSUPP: above 64 GiB, and the source goes on behind them.
    pub fn check_zero_pages(&self, range: &Range<u64>) -> io::Result<()> {
        if is_long(range) && range.end * PAGE < self.content.source_limit {
            Err(Errno::OPNOTSUPP.into())
        } else {
            Ok(())
        }
    }

    pub fn zero_pages(&self, range: Range<u64>) -> io::Result<()> {
        let (begin, end) = (range.start * PAGE, range.end * PAGE);
        if begin >= end {
            return self.record_time();
        }
        self.secure_cut()?;
        if let Some(data) = self.store.data_of(self.id, &self.content)? {
            self.zero_bytes(&data, begin, end)?;
        }
        if is_long(&range) {
            let record = self.record(
                range.start,
                Written::SOURCE_ENDS,
                From::Zero,
                self.content.size,
            );
            return self.store.append(&record, Reserve::Most).map(drop);
        }
        let mut first = range.start;
        while first < range.end {
            let count = (range.end - first).min(Written::MAX_PAGES);
            self.store.append(
                &self.record(first, count, From::Zero, self.content.size),
                Reserve::Most,
            )?;
            first += count;
        }
        Ok(())
    }

    /// Makes bytes of the data file zero.
    pub fn zero_bytes(&self, data: &Data, begin: u64, end: u64) -> io::Result<()> {
        let end = end.min(data.file.size()?);
        if begin >= end {
            return Ok(());
        }
        match data.file.punch(begin, end - begin) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                let zeros = vec![0; 1 << 16];
                for at in (begin..end).step_by(zeros.len()) {
                    data.file
                        .write_all_at(&zeros[..(end - at).min(1 << 16) as usize], at)?;
                }
            }
            done => done?,
        }
        self.landed();
        Ok(())
    }

    /// A write into pages that the store has needs no record but for its time: one for each tick of the clock.
    pub fn record_time(&self) -> io::Result<()> {
        let now = Some(self.time);
        if self.content.mtime == now && self.content.ctime == now {
            return Ok(());
        }
        // The bytes are written already. On a full disk their time is lost.
        if !self.store.log.lock().tail.has_half() {
            return Ok(());
        }
        self.store
            .append(&self.record(0, 0, From::Data, 0), Reserve::Half)
            .map(drop)
    }
}

fn is_long(range: &Range<u64>) -> bool {
    range.end.saturating_sub(range.start) > MAX_PUNCH
}
