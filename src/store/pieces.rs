//! Reading: which bytes of a file come from where.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use rustix::io::Errno;

use super::codec::damaged;
use super::content::{Chunk, Content, From, PAGE, Piece, ReadSource, page_of};
use super::data::Data;
use super::key;
use super::node::NodeId;
use super::{DiskFile, Store};

impl Store {
    /// Which bytes of the range come from where, up to the end of the file. Neighbours come from different sides. They count if
    /// the file's content has not moved since `content` was looked up: see [`Content::has_moved`].
    ///
    /// # Errors
    /// EUCLEAN for a damaged store, or that of a read.
    pub fn pieces(
        &self,
        id: NodeId,
        content: &Content,
        range: Range<u64>,
    ) -> io::Result<Vec<Piece>> {
        let end = range.end.min(content.size);
        let (mut at, mut pieces) = (range.start, Vec::<Piece>::new());
        let mut chunk = (u64::MAX, Chunk::default());
        while at < end {
            let page = page_of(at);
            let (from, mut next) = if page < content.dense {
                (From::Data, content.dense.saturating_mul(PAGE))
            } else {
                let number = page / Chunk::PAGES;
                if chunk.0 != number {
                    chunk = (number, self.chunk(id, number)?);
                }
                let from = chunk.1.get(page % Chunk::PAGES);
                let beyond = if at < content.source_limit {
                    From::Source
                } else {
                    From::Zero
                };
                let run = match chunk.1.is_empty() {
                    true => self.next_chunk(id, number)?.saturating_mul(Chunk::PAGES),
                    false => number * Chunk::PAGES + chunk.1.run(page % Chunk::PAGES),
                };
                (from.unwrap_or(beyond), run.saturating_mul(PAGE))
            };
            if from == From::Source {
                next = next.min(content.source_limit);
            }
            next = next.min(end);
            match pieces.last_mut() {
                Some(last) if last.from == from => last.range.end = next,
                _ => pieces.push(Piece {
                    range: at..next,
                    from,
                }),
            }
            at = next;
        }
        Ok(pieces)
    }

    pub(super) fn chunk(&self, id: NodeId, number: u64) -> io::Result<Chunk> {
        self.state
            .get(&key::chunk(id, number))?
            .map_or(Ok(Chunk::default()), |bytes| Chunk::decode(&bytes))
    }

    /// The next part of the page map that says anything, as a number.
    fn next_chunk(&self, id: NodeId, number: u64) -> io::Result<u64> {
        let found = self
            .state
            .scan(&key::chunks(id), Some(&key::chunk(id, number)), 1)?;
        match found
            .first()
            .map(|(key, _)| key::Key::decode(key))
            .transpose()?
        {
            Some(key::Key::Chunk(_, number)) => Ok(number),
            _ => Ok(u64::MAX),
        }
    }

    /// The data file, for reads of its pieces. None: there is none, and its pages are zero.
    ///
    /// # Errors
    /// EUCLEAN if it should be there and is not, or that of the open.
    pub fn data_file(
        &self,
        id: NodeId,
        content: &Content,
    ) -> io::Result<Option<Arc<dyn DiskFile>>> {
        Ok(self
            .data_of(id, content)?
            .map(|data| Arc::clone(&data.file)))
    }

    pub(super) fn data_of(&self, id: NodeId, content: &Content) -> io::Result<Option<Arc<Data>>> {
        let found = self.data.get(&*self.disk, id, content.data)?;
        if found.is_none() && content.filed {
            Err(damaged())
        } else {
            Ok(found)
        }
    }

    /// Fills the buffer from the file, and returns how far the file reaches.
    ///
    /// # Errors
    /// ENOENT if the store has no bytes of this node, EUCLEAN for a damaged store, or that of a read.
    pub fn read(
        &self,
        id: NodeId,
        at: u64,
        buffer: &mut [u8],
        source: &mut ReadSource<'_>,
    ) -> io::Result<usize> {
        loop {
            let content = self.content(id)?.ok_or(Errno::NOENT)?;
            let done = self.read_content(id, &content, at, buffer, source);
            // A truncation beside this takes the data file away, and makes pages zero that this has still to read.
            let now = self.content(id)?.ok_or(Errno::NOENT)?;
            if !content.has_moved(&now) {
                return done;
            }
        }
    }

    fn read_content(
        &self,
        id: NodeId,
        content: &Content,
        at: u64,
        buffer: &mut [u8],
        source: &mut ReadSource<'_>,
    ) -> io::Result<usize> {
        let end = at.saturating_add(buffer.len() as u64).min(content.size);
        for piece in self.pieces(id, content, at..end)? {
            let to =
                &mut buffer[(piece.range.start - at) as usize..(piece.range.end - at) as usize];
            match piece.from {
                From::Source => source(piece.range.start, to)?,
                From::Zero => to.fill(0),
                From::Data => {
                    let data = self.data_of(id, content)?;
                    let len =
                        data.map_or(Ok(0), |data| data.file.read_full_at(to, piece.range.start))?;
                    to[len..].fill(0);
                }
            }
        }
        Ok(end.saturating_sub(at) as usize)
    }

    /// Where each page comes from: also pages behind the end of the file, which a write makes part of it.
    pub(super) fn pieces_of_pages(
        &self,
        id: NodeId,
        content: &Content,
        range: Range<u64>,
    ) -> io::Result<Vec<From>> {
        let mut chunk = (u64::MAX, Chunk::default());
        range
            .map(|page| {
                if page < content.dense {
                    return Ok(From::Data);
                }
                let number = page / Chunk::PAGES;
                if chunk.0 != number {
                    chunk = (number, self.chunk(id, number)?);
                }
                let beyond = if page * PAGE < content.source_limit {
                    From::Source
                } else {
                    From::Zero
                };
                Ok(chunk.1.get(page % Chunk::PAGES).unwrap_or(beyond))
            })
            .collect()
    }
}
