//! The bytes of files: writing, truncating, punching.
//!
//! The order of a write: bytes into the data file, then the record, then memory. A record stands for bytes that are there.

use std::cmp::Ordering;
use std::io;
use std::ops::Range;

use rustix::io::Errno;

use super::codec::damaged;
use super::content::{
    Content, From, MAX_SIZE, PAGE, Piece, ReadSource, SourceState, page_of, pages,
};
use super::node::{NodeId, Time};
use super::record::{Change, Record};
use super::tail::Reserve;
use super::writer::Writer;
use super::{Store, check_change};

impl Store {
    /// Writes bytes, and lengthens the file if they go beyond its end. `now`: the source's file as it is, None for a file that was
    /// made in the view; it counts at the first change of the file's bytes.
    ///
    /// # Errors
    /// ENOSPC, EDQUOT: there is no room, or the limit is reached. EFBIG: beyond the largest file. ENOENT, EINVAL: no such file.
    /// EINVAL too for a time or a state of the source that no filesystem has.
    /// Else that of a read or write. No page of the file changes then, but pages that the store had may be written in part.
    pub fn write(
        &self,
        id: NodeId,
        at: u64,
        bytes: &[u8],
        now: Option<SourceState>,
        time: Time,
        source: &mut ReadSource<'_>,
    ) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        check(now, time)?;
        let end = at
            .checked_add(bytes.len() as u64)
            .filter(|end| *end <= MAX_SIZE)
            .ok_or(Errno::FBIG)?;
        self.with_room(|| {
            let _stripe = self.stripe(id).lock();
            let writer = self.writer(id, now, time)?;
            writer.grow_to(end.max(writer.content.size))?;
            writer.write(at, end, bytes, source)
        })
    }

    /// Sets the length. To 0, the bytes go into a new data file from now on.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn truncate(
        &self,
        id: NodeId,
        size: u64,
        now: Option<SourceState>,
        time: Time,
    ) -> io::Result<()> {
        self.truncate_with(id, size, (now, time), Vec::new())
    }

    /// As [`Store::truncate`]. `more` are changes of the file's attributes, in the same record.
    ///
    /// # Errors
    /// As [`Store::truncate`], and those of [`Store::change`].
    pub fn truncate_with(
        &self,
        id: NodeId,
        size: u64,
        (now, time): (Option<SourceState>, Time),
        more: Vec<Change>,
    ) -> io::Result<()> {
        if size > MAX_SIZE {
            return Err(Errno::FBIG.into());
        }
        check(now, time)?;
        more.iter().try_for_each(check_change)?;
        self.with_room(|| {
            let _stripe = self.stripe(id).lock();
            let writer = self.writer(id, now, time)?;
            let content = writer.content;
            if self.is_lent(id) {
                return self.truncate_lent(&writer, size, &more);
            }
            let data = if size == 0 {
                self.new_number().0
            } else {
                content.data
            };
            if size > content.size {
                writer.grow_to(size)?;
            }
            let truncate = Change::Truncate {
                node: id,
                data,
                size,
                source: writer.now,
                time,
                lent: false,
            };
            self.append(
                &Record::Meta([vec![truncate], more.clone()].concat()),
                match size.cmp(&content.size) {
                    Ordering::Less => Reserve::Most,
                    Ordering::Equal => Reserve::Half,
                    Ordering::Greater => Reserve::None,
                },
            )
            .map(drop)
        })
    }

    /// Makes bytes zero. The length stays. Pages that the store had give their room back. Where no byte of the file is, nothing
    /// changes.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn punch(
        &self,
        id: NodeId,
        range: Range<u64>,
        now: Option<SourceState>,
        time: Time,
        source: &mut ReadSource<'_>,
    ) -> io::Result<()> {
        check(now, time)?;
        self.with_room(|| {
            let _stripe = self.stripe(id).lock();
            let mut writer = self.writer(id, now, time)?;
            let size = writer.content.size;
            let range = range.start..range.end.min(size);
            if range.is_empty() {
                return Ok(());
            }
            // The last page of the file is a whole page here: behind its end it is zero anyway. Not if the kernel may write there.
            let inner_end = if range.end == size && !self.is_lent(id) {
                pages(range.end)
            } else {
                page_of(range.end)
            };
            let inner = pages(range.start)..inner_end;
            writer.check_zero_pages(&inner)?;
            let zeros = [0; PAGE as usize];
            for edge in [
                range.start..range.end.min(inner.start * PAGE),
                range.start.max(inner.end * PAGE)..range.end,
            ] {
                if inner.start <= inner.end && edge.start < edge.end {
                    let len = (edge.end - edge.start) as usize;
                    writer.write(edge.start, edge.end, &zeros[..len], source)?;
                    writer.content = self.content(id)?.ok_or_else(damaged)?;
                }
            }
            if inner.start > inner.end {
                let len = (range.end - range.start) as usize;
                return writer.write(range.start, range.end, &zeros[..len], source);
            }
            writer.zero_pages(inner)
        })
    }

    /// Copies what still comes from the source, so that nothing does any more.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn make_whole(
        &self,
        id: NodeId,
        now: Option<SourceState>,
        time: Time,
        source: &mut ReadSource<'_>,
    ) -> io::Result<()> {
        check(now, time)?;
        self.with_room(|| {
            let _stripe = self.stripe(id).lock();
            let writer = self.writer(id, now, time)?;
            if writer.content.is_whole() {
                Ok(())
            } else {
                self.fill(&writer, source)
            }
        })
    }

    fn fill(&self, writer: &Writer<'_>, source: &mut ReadSource<'_>) -> io::Result<()> {
        let (id, content) = (writer.id, writer.content);
        let whole = Content {
            dense: Content::WHOLE,
            stored: 0,
            ..content
        };
        // The map tells what is to be copied. The numbers alone may say of another's store that all is there.
        let pieces = || self.pieces(id, &content, 0..content.size);
        let mut copied = 0;
        for piece in pieces() {
            let Piece { range, from } = piece?;
            if from == From::Source {
                copied += (range.end - range.start) as i64;
            }
        }
        let growth = whole.bytes() as i64 - content.bytes() as i64;
        self.room.check(growth.max(copied), false)?;
        writer.secure_cut()?;
        let data = writer.data()?;
        let mut buffer = vec![0; 1 << 20];
        for piece in pieces() {
            let Piece { range, from } = piece?;
            if from == From::Zero {
                writer.zero_bytes(&data, range.start, range.end)?;
            }
            if from != From::Source {
                continue;
            }
            for begin in range.clone().step_by(buffer.len()) {
                let part = &mut buffer[..(range.end - begin).min(1 << 20) as usize];
                source(begin, part)?;
                data.file.write_all_at(part, begin)?;
                writer.landed();
            }
        }
        data.file.set_len(content.size)?;
        writer.landed();
        if self.content(id)?.is_none() {
            // The record below is about a file whose bytes the store has.
            self.append(
                &writer.record(0, 0, From::Data, content.size),
                Reserve::None,
            )?;
        }
        let data = content.data;
        self.append(&Record::Whole { node: id, data }, Reserve::None)
            .map(drop)
    }

    /// Begins a change of a file's bytes. The file's stripe is held.
    fn writer(&self, id: NodeId, now: Option<SourceState>, time: Time) -> io::Result<Writer<'_>> {
        self.refresh_held(id)?;
        let content = self
            .content(id)?
            .map_or_else(|| self.first_content(id, now), Ok)?;
        Ok(Writer::new(self, id, content, content.source.or(now), time))
    }

    /// What a file is before its first change. It counts from its first record on.
    fn first_content(&self, id: NodeId, now: Option<SourceState>) -> io::Result<Content> {
        match self.node(id)? {
            None => Err(Errno::NOENT.into()),
            Some(node) if node.kind != super::Kind::File => Err(Errno::INVAL.into()),
            Some(_) => Ok(Content::new(self.new_number().0, now)),
        }
    }
}

/// Whether a store takes these values.
pub fn are_sound(now: Option<SourceState>, time: Time) -> bool {
    now.is_none_or(SourceState::is_sound) && time.is_sound()
}

fn check(now: Option<SourceState>, time: Time) -> io::Result<()> {
    if are_sound(now, time) {
        Ok(())
    } else {
        Err(Errno::INVAL.into())
    }
}
