//! Where the windows of a content begin and end, and where the content begins in its file.

use rustix::io::Errno;
use std::io;

/// The least size of a window in bytes, for any budget.
const MIN_WINDOW: u64 = 64 << 10;

/// Rounds up to a whole page.
fn page_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(rustix::param::page_size() as u64)
}

/// Where windows begin and end. Offsets count from the beginning of the content.
///
/// ```text
/// content   0         W         2W        3W    end   page_up(end)
///           |---------|---------|---------|------|--:
/// window 0  [=========~~~~)     :         :         :   = window
/// window 1  :         [=========~~~~)     :         :   ~ overlap
/// window 2  :         :         [=========~~~~)     :
/// window 3  :         :         :         [=========)   cut at the end, rounded up to the page
/// ```
///
/// A request that begins in `[k*W, (k+1)*W)` and is no longer than the overlap ends within window k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// W: the distance between the beginnings of two windows, a multiple of the page size. In bytes.
    pub window: u64,
    /// The length of the largest request, rounded up to whole pages. In bytes.
    pub overlap: u64,
}

impl Geometry {
    /// Windows of `window_size` bytes, or an eighth of the budget if that is less.
    pub fn new(window_size: u64, overlap: u64, budget: u64) -> Geometry {
        let eighth = (budget / 8).max(MIN_WINDOW);
        let eighth = 1 << eighth.ilog2();
        Geometry {
            window: page_up(window_size.min(eighth).max(MIN_WINDOW)),
            overlap: page_up(overlap),
        }
    }

    /// The window that serves requests beginning at `offset`.
    pub fn index(&self, offset: u64) -> u64 {
        offset / self.window
    }

    /// The offset at which window `index` begins.
    pub fn start(&self, index: u64) -> u64 {
        index * self.window
    }

    /// The length in bytes of a window that the content's end does not cut.
    pub fn full(&self) -> u64 {
        self.window + self.overlap
    }

    /// The length of window `index` in a content of `content_len` bytes.
    pub fn extent(&self, index: u64, content_len: u64) -> u64 {
        page_up(content_len)
            .saturating_sub(self.start(index))
            .min(self.full())
    }

    /// The length to which a window of `len` bytes grows. It doubles, so a file that grows by small appends has its last window
    /// remapped O(log n) times. The part beyond the end is never touched, because loans lie within the content. `resize` cuts
    /// it off.
    pub fn grown(&self, index: u64, len: u64, content_len: u64) -> u64 {
        self.extent(index, content_len)
            .max(2 * len)
            .min(self.full())
    }
}

/// Where a content begins in its file, in bytes. A multiple of the page size, as mmap(2) requires. Windows begin at multiples
/// of the page size from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseOffset(u64);

impl BaseOffset {
    /// The beginning of the file.
    pub const ZERO: BaseOffset = BaseOffset(0);

    /// `bytes` from the beginning of the file.
    ///
    /// # Errors
    /// EINVAL if that is not a multiple of the page size.
    pub fn new(bytes: u64) -> io::Result<BaseOffset> {
        match bytes % rustix::param::page_size() as u64 {
            0 => Ok(BaseOffset(bytes)),
            _ => Err(Errno::INVAL.into()),
        }
    }

    /// The offset in the file of the byte at `offset` in the content.
    ///
    /// # Errors
    /// EINVAL if there is no such offset.
    pub(super) fn in_file(self, offset: u64) -> io::Result<u64> {
        Ok(self.0.checked_add(offset).ok_or(Errno::INVAL)?)
    }
}

#[cfg(test)]
mod tests;
