//! Since when a name of the view hides what the source has there.

use rustix::time::{ClockId, clock_gettime};

use crate::store;

/// Now. Not by the clock that stamps files: that one stands still between two ticks.
pub(super) fn precise_now() -> store::Time {
    let now = clock_gettime(ClockId::Realtime);
    store::Time {
        seconds: now.tv_sec,
        nanoseconds: now.tv_nsec as u32,
    }
}
