//! Modification times of region writes.
//!
//! A store into a page that is dirty already moves neither mtime nor ctime. A region write therefore sets
//! them: at once, as often as the kernel's own clock for file times ticks; in between, the time is recorded
//! and applied before attributes are shown, at flush, fsync and release, and soon in any case.

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
    /// Whether `record` holds a time: looked at before every reply with attributes.
    waiting: AtomicBool,
}

#[derive(Debug, Default)]
struct Record {
    written: Option<Time>,
    applied: Option<Instant>,
}

impl Times {
    /// Moves the times for a write just made, or records it; true when the record is new and somebody must
    /// see to it.
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

    /// Applies a recorded time, unless the file's is as late already.
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

/// Whether the daemon may set a file's times: its owner may, and who acts for others; see utimensat(2).
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
