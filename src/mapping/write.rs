//! Writing: through the region if the bytes lie within the file, otherwise by pwrite(2).

use super::file::Mapping;
use super::writer::Writer;
use super::{guard, times};
use crate::actor::Actor;
use crate::attr::Attr;
use crate::config::WritePath;
use crate::request::{Durability, Write};
use rustix::fs::{IFlags, StatVfsMountFlags, fstatvfs, ioctl_getflags};
use rustix::io::{Errno, ReadWriteFlags, Result};
use std::ffi::CStr;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Longer in-place writes use pwrite(2), unless an option asks for the region. In bytes.
const MAX_REGION_WRITE: usize = 64 << 10;

/// A write that begins farther than this from the last one is a jump. In bytes.
const MIN_JUMP: u64 = 1 << 20;

/// Above this score a writer counts as jumping. A jump adds `JUMP_WEIGHT` to the score, any other write takes off 1.
const MAX_JUMPS: u32 = 8;
const JUMP_WEIGHT: u32 = 2;

/// The mode bits and the attribute that a write removes.
const SETID: u32 = 0o6000;
const CAPABILITY: &CStr = c"security.capability";

/// The pattern of writes through one handle.
#[derive(Debug, Default)]
pub struct WritePattern {
    last: AtomicU64,
    jumps: AtomicU32,
}

impl WritePattern {
    /// Notes a write at `offset`. Returns whether the writer jumps.
    ///
    /// The page cache may hold a file in large folios, and the first store into a folio makes all of it dirty. 32 stores of 4
    /// KiB into 64 MiB wrote 21 MB to the device, where pwrite(2) wrote 0.25 MB (ext4, Linux 6.18). It costs nothing if the
    /// neighbours are written, too.
    fn jumps(&self, offset: u64) -> bool {
        let far = self.last.swap(offset, Relaxed).abs_diff(offset) > MIN_JUMP;
        let before = self.jumps.load(Relaxed);
        let now = match far {
            true => (before + JUMP_WEIGHT).min(2 * MAX_JUMPS),
            false => before.saturating_sub(1),
        };
        self.jumps.store(now, Relaxed);
        now > MAX_JUMPS
    }
}

impl Mapping {
    /// Writes as `by`. Returns the number of bytes written: fewer than asked for if an error followed them. `pattern` is that
    /// of the open.
    ///
    /// # Errors
    /// Those of pwrite(2) on the source, if nothing was written.
    pub fn write_at(
        &self,
        writer: &Writer,
        by: &Actor,
        pattern: &WritePattern,
        request: &Write<'_>,
    ) -> Result<usize> {
        let fd = match request.from_mapping {
            true => self.description_for_writeback(writer, by)?,
            false => self.reopen_writer(writer, by)?,
        };
        let fd = &*fd;
        let _open = self.gate.read();
        by.write(request.keeps_setid)?;
        let written = self.write_within(fd, pattern, request)?;
        match request.durability {
            Durability::Cached => {}
            Durability::Data => self.sync(fd, true)?,
            Durability::Full => self.sync(fd, false)?,
        }
        Ok(written)
    }

    /// Writes, and reports the write to the kernel's cache.
    fn write_within(
        &self,
        fd: &OwnedFd,
        pattern: &WritePattern,
        request: &Write<'_>,
    ) -> Result<usize> {
        let _in_turn = request.append.then(|| self.appending.lock());
        let writing = self.cache.change();
        let before = self.source.stat(fd.as_fd())?;
        writing.began_at(before.stamp());
        let append = request.append && self.cache.is_append(request.offset, before.size);
        let request = &Write { append, ..*request };
        let written = self.put(fd, pattern, request, &before);
        if let Ok(after) = self.source.stat(fd.as_fd()) {
            writing.led_to(after.stamp());
            self.compare_mode(&before, &after);
            self.cache.resized(before.size, after.size);
            // A failed write keeps security.capability. So does a store through a client's mapping.
            let dropped = !request.from_mapping && written.as_ref().is_ok_and(|&n| n > 0);
            if dropped || self.unprivileged.load(Relaxed) == before.stamp() {
                self.unprivileged.store(after.stamp(), Relaxed);
            }
            if self.asynchronous.load(Relaxed) == before.stamp() {
                self.asynchronous.store(after.stamp(), Relaxed);
            }
            let end = written
                .as_ref()
                .map_or(before.size, |&n| request.offset + n as u64);
            if append && after.size != end {
                // The kernel has cached these bytes at the end as it knew it.
                self.cache.mark_stale();
            }
            if !request.from_mapping && written.is_ok() {
                self.cache.wrote(append, end, (before.size, after.size));
            }
        }
        let written = written?;
        if written > 0 && !request.append && request.offset > before.size {
            self.cache.show_zeros(before.size..request.offset);
        }
        Ok(written)
    }

    fn put(
        &self,
        fd: &OwnedFd,
        pattern: &WritePattern,
        request: &Write<'_>,
        before: &Attr,
    ) -> Result<usize> {
        if request.append {
            return rustix::io::pwritev2(
                fd,
                &[IoSlice::new(request.data)],
                0,
                ReadWriteFlags::APPEND,
            );
        }
        let mut request = *request;
        let asked = request.data.len();
        if request.from_mapping {
            request.data = cut_at_end(request.data, request.offset, before.size);
        }
        let done = if self.takes_region(fd, pattern, &request, before) {
            self.store(fd, &request, before)?
        } else {
            pwrite_all(fd.as_fd(), request.data, request.offset)?
        };
        // Bytes behind the end are lost. The kernel need not write them back again.
        Ok(if done == request.data.len() {
            asked
        } else {
            done
        })
    }

    /// Whether a write goes through the region: the bytes lie within the file, the file can be mapped, and the write has no
    /// side effect that a store lacks.
    fn takes_region(
        &self,
        fd: &OwnedFd,
        pattern: &WritePattern,
        request: &Write<'_>,
        before: &Attr,
    ) -> bool {
        let end = request.offset.saturating_add(request.data.len() as u64);
        let in_place = !request.data.is_empty() && end <= before.size;
        let possible = guard::AVAILABLE
            && in_place
            && !self.unmappable.load(Relaxed)
            && self.backing.lock().writer().is_some()
            && times::may_set(before);
        if !possible {
            return false;
        }
        let wanted = match self.context.write_path {
            WritePath::Region => true,
            // Stores into holes fault once per page, and allocate. pwrite(2) is several times faster.
            WritePath::Auto => {
                !pattern.jumps(request.offset)
                    && request.data.len() <= MAX_REGION_WRITE
                    && !before.is_sparse()
            }
        };
        // A store removes no privilege, and is not durable when it returns. Neither is, without mmfs, a client's store through
        // its mapping.
        request.from_mapping
            || (wanted
                && !self.is_synchronous(fd, before)
                && !self.drops_privilege(fd, request, before))
    }

    /// Whether the file or its filesystem requires each write to be durable before it returns (`chattr +S`, mount option
    /// `sync`).
    fn is_synchronous(&self, fd: &OwnedFd, before: &Attr) -> bool {
        if self.asynchronous.load(Relaxed) == before.stamp() {
            return false;
        }
        let by_flag = ioctl_getflags(fd).is_ok_and(|flags| flags.contains(IFlags::SYNC));
        let by_mount = || {
            let filesystem = fstatvfs(fd);
            filesystem.is_ok_and(|it| it.f_flag.contains(StatVfsMountFlags::SYNCHRONOUS))
        };
        let is_synchronous = by_flag || by_mount();
        if !is_synchronous {
            self.asynchronous.store(before.stamp(), Relaxed);
        }
        is_synchronous
    }

    /// Whether the file has mode bits or capabilities that a write removes.
    pub(super) fn is_privileged(&self, fd: &OwnedFd) -> bool {
        let mut none = [0u8; 0];
        self.source
            .stat(fd.as_fd())
            .is_ok_and(|attr| attr.mode & SETID != 0)
            || rustix::fs::fgetxattr(fd, CAPABILITY, &mut none).is_ok()
    }

    fn drops_privilege(&self, fd: &OwnedFd, request: &Write<'_>, before: &Attr) -> bool {
        if before.mode & SETID != 0 && !request.keeps_setid {
            return true;
        }
        let stamp = before.stamp();
        if self.unprivileged.load(Relaxed) == stamp {
            return false;
        }
        let mut none = [0u8; 0];
        rustix::fs::fgetxattr(fd, CAPABILITY, &mut none).is_ok()
    }

    /// Stores through the region. Bytes that the region does not take are written by pwrite(2), whose errno is the answer.
    fn store(&self, fd: &OwnedFd, request: &Write<'_>, before: &Attr) -> Result<usize> {
        let Write { offset, data, .. } = *request;
        let Some(writer) = self.backing.lock().writer() else {
            return pwrite_all(fd.as_fd(), data, offset);
        };
        let loan = self.borrow(writer.as_fd(), offset, data.len(), before.size);
        let (stored, faulted) = match loan.map(|loan| loan.write(data)) {
            Some(Ok(())) => (data.len(), false),
            Some(Err(failed)) => (failed.copied(), true),
            None => (0, false),
        };
        if faulted {
            self.context.error_counts.faults.fetch_add(1, Relaxed);
        }
        if stored < data.len() {
            let (mut rest, offset) = (&data[stored..], offset + stored as u64);
            if request.from_mapping {
                // The file may have been truncated: that causes a fault.
                rest = cut_at_end(rest, offset, self.source.stat(fd.as_fd())?.size);
                if rest.is_empty() {
                    return Ok(data.len());
                }
            }
            let written = pwrite_all(fd.as_fd(), rest, offset);
            if faulted && written == Err(Errno::IO) {
                self.context.error_counts.faults_eio.fetch_add(1, Relaxed);
            }
            return match written {
                Err(errno) if stored == 0 => Err(errno),
                rest => Ok(stored + rest.unwrap_or(0)),
            };
        }
        if self.times.written(fd.as_fd()) {
            self.times_wait();
        }
        Ok(stored)
    }
}

/// The part of a late writeback that lies within the file. The rest would bring truncated bytes back.
fn cut_at_end(data: &[u8], offset: u64, end: u64) -> &[u8] {
    let room = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
    &data[..data.len().min(room)]
}

/// Writes until all bytes are written or an error comes. After some bytes an error is left to the next write.
fn pwrite_all(fd: BorrowedFd<'_>, data: &[u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < data.len() {
        match rustix::io::pwrite(fd, &data[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_some_jumps_a_writer_takes_pwrite_until_it_writes_in_order_again() {
        let pattern = WritePattern::default();
        let far = |n: u64| n * 16 * MIN_JUMP;
        assert!(
            (0..4).all(|n| !pattern.jumps(far(n))),
            "some jumps are fine"
        );
        assert!((4..40).filter(|&n| pattern.jumps(far(n))).count() > 30);
        assert!((0..16).any(|n| !pattern.jumps(n * 4096)), "in order again");
        assert!((16..1000).all(|n| !pattern.jumps(n * 4096)));
    }
}
