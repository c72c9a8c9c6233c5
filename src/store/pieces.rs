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

/// The pieces of a range, one after the other: see [`Store::pieces`].
pub struct Pieces<'a> {
    store: &'a Store,
    id: NodeId,
    content: Content,
    /// What comes behind `ahead`.
    at: u64,
    end: u64,
    /// The part of the page map that was read last, and its number.
    chunk: (u64, Chunk),
    /// It was read, and is not told yet.
    ahead: Option<Piece>,
}

impl Pieces<'_> {
    /// The next bytes from one side. Those behind them may come from the same.
    fn run(&mut self) -> io::Result<Option<Piece>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let (content, page) = (&self.content, page_of(self.at));
        let (from, mut next) = if page < content.dense {
            (From::Data, content.dense.saturating_mul(PAGE))
        } else {
            let number = page / Chunk::PAGES;
            if self.chunk.0 != number {
                self.chunk = (number, self.store.chunk(self.id, number)?);
            }
            let chunk = &self.chunk.1;
            let beyond = if self.at < content.source_limit {
                From::Source
            } else {
                From::Zero
            };
            let run = match chunk.is_empty() {
                true => self
                    .store
                    .next_chunk(self.id, number)?
                    .saturating_mul(Chunk::PAGES),
                false => number * Chunk::PAGES + chunk.run(page % Chunk::PAGES),
            };
            let from = chunk.get(page % Chunk::PAGES).unwrap_or(beyond);
            (from, run.saturating_mul(PAGE))
        };
        if from == From::Source {
            next = next.min(content.source_limit);
        }
        let range = self.at..next.min(self.end);
        self.at = range.end;
        Ok(Some(Piece { range, from }))
    }

    fn piece(&mut self) -> io::Result<Option<Piece>> {
        let Some(mut piece) = self
            .ahead
            .take()
            .map_or_else(|| self.run(), |piece| Ok(Some(piece)))?
        else {
            return Ok(None);
        };
        while let Some(next) = self.run()? {
            if next.from != piece.from {
                self.ahead = Some(next);
                break;
            }
            piece.range.end = next.range.end;
        }
        Ok(Some(piece))
    }
}

impl Iterator for Pieces<'_> {
    type Item = io::Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.piece().transpose();
        if matches!(piece, Some(Err(_))) {
            (self.at, self.ahead) = (self.end, None);
        }
        piece
    }
}

impl Store {
    /// Which bytes of the range come from where, up to the end of the file. Neighbours come from different sides. They count if
    /// the file's content has not moved since `content` was looked up: see [`Content::has_moved`].
    ///
    /// # Errors
    /// Of each piece: EUCLEAN for a damaged store, or that of a read. None comes after it.
    pub fn pieces(&self, id: NodeId, content: &Content, range: Range<u64>) -> Pieces<'_> {
        Pieces {
            store: self,
            id,
            content: *content,
            at: range.start,
            end: range.end.min(content.size),
            chunk: (u64::MAX, Chunk::default()),
            ahead: None,
        }
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
        self.refresh(id)?;
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
        for piece in self.pieces(id, content, at..end) {
            let piece = piece?;
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
