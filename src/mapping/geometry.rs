//! Where the windows of a file begin and end.

/// No window covers less than this, whatever the budget.
const SMALLEST_WINDOW: u64 = 64 << 10;

/// Rounds up to a whole page.
fn page_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(rustix::param::page_size() as u64)
}

/// Where windows begin and end.
///
/// ```text
/// file      0         W         2W        3W    end   page_up(end)
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
    /// W: the distance from one window's beginning to the next one's, a multiple of the page.
    pub window: u64,
    /// The largest request, rounded up to the page.
    pub overlap: u64,
}

impl Geometry {
    /// Windows of `window_size` bytes, or an eighth of the budget where that is less.
    pub fn new(window_size: u64, overlap: u64, budget: u64) -> Geometry {
        let eighth = (budget / 8).max(SMALLEST_WINDOW);
        let eighth = 1 << eighth.ilog2();
        Geometry {
            window: page_up(window_size.min(eighth).max(SMALLEST_WINDOW)),
            overlap: page_up(overlap),
        }
    }

    /// The window for requests beginning at `offset`.
    pub fn index(&self, offset: u64) -> u64 {
        offset / self.window
    }

    /// The file offset at which window `index` begins.
    pub fn start(&self, index: u64) -> u64 {
        index * self.window
    }

    /// The length of a window that the end of file does not cut.
    pub fn full(&self) -> u64 {
        self.window + self.overlap
    }

    /// The length of window `index` in a file of `file_len` bytes.
    pub fn extent(&self, index: u64, file_len: u64) -> u64 {
        page_up(file_len)
            .saturating_sub(self.start(index))
            .min(self.full())
    }

    /// The length to which a window of `len` bytes grows: doubling, so that a file growing by small
    /// appends has its last window remapped a logarithmic number of times. What lies beyond the end of
    /// file is never touched (pins are bounded by the file's length) and is cut off by `resize`.
    pub fn grown(&self, index: u64, len: u64, file_len: u64) -> u64 {
        self.extent(index, file_len).max(2 * len).min(self.full())
    }
}

#[cfg(test)]
mod tests;
