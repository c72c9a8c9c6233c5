//! Modification times of region writes.
//!
//! A store into a page that is already dirty moves neither mtime nor ctime. So a region write sets them, at most once per tick
//! of the kernel's clock for file times. In between, the time is recorded. It is applied before attributes are shown, at flush,
//! fsync and release, and after 100 ms in any case.

use crate::attr::{Attr, Time};
use crate::source::SourceDir;
use crate::sys::identity;
use parking_lot::Mutex;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};
use rustix::io::Result;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// The tick of the kernel's coarse clock at HZ=250.
const CLOCK_TICK: Duration = Duration::from_millis(4);

#[derive(Debug, Default)]
pub struct Times {
    record: Mutex<Record>,
    /// Whether `record` holds a time. Checked before each reply with attributes.
    waiting: AtomicBool,
}

#[derive(Debug, Default)]
struct Record {
    written: Option<Time>,
    applied: Option<Instant>,
}

impl Times {
    /// Sets the times for a write just made, or records it. True if the record is new, so that the caller has to see that it is
    /// applied.
    pub fn written(&self, fd: BorrowedFd<'_>) -> bool {
        let mut record = self.record.lock();
        if record
            .applied
            .is_none_or(|then| then.elapsed() >= CLOCK_TICK)
        {
            record.applied = Some(Instant::now());
            if futimens(
                fd,
                &modified(Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_NOW,
                }),
            )
            .is_ok()
            {
                record.written = None;
                self.waiting.store(false, SeqCst);
                return false;
            }
        }
        record.written = Some(Time::now());
        !self.waiting.swap(true, SeqCst)
    }

    pub fn wait_to_be_applied(&self) -> bool {
        self.waiting.load(SeqCst)
    }

    pub fn cancel(&self) {
        self.record.lock().written = None;
        self.waiting.store(false, SeqCst);
    }

    /// Applies a recorded time, unless the file's is not earlier.
    pub fn apply(&self, fd: BorrowedFd<'_>, source: &SourceDir) -> Result<()> {
        let mut record = self.record.lock();
        self.waiting.store(false, SeqCst);
        let Some(written) = record.written.take() else {
            return Ok(());
        };
        record.applied = Some(Instant::now());
        if source.stat(fd)?.mtime >= written {
            return Ok(());
        }
        futimens(
            fd,
            &modified(Timespec {
                tv_sec: written.sec,
                tv_nsec: i64::from(written.nsec),
            }),
        )
    }
}

/// Whether the daemon may set a file's times: it owns the file, or is privileged; see utimensat(2).
pub fn may_set(attr: &Attr) -> bool {
    identity::privileged() || attr.uid == rustix::process::geteuid().as_raw()
}

fn modified(mtime: Timespec) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: mtime,
    }
}
