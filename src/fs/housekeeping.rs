//! What has to be done without anybody asking: times that wait are applied, and open files are watched for
//! changes behind the mount, the kernel's caches of what changed are dropped. Asleep while nothing is open.

use super::Fs;
use super::invalidation::Invalidation;
use crate::mapping::{Chore, Mapping};
use crate::pool::Pool;
use std::collections::HashSet;
use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// How long a recorded time may wait when nobody looks.
const SETTLE: Duration = Duration::from_millis(100);

/// Files at most whose times are being applied.
const SETTLING: usize = 16;

/// How often open files are looked at.
const WATCH: Duration = Duration::from_secs(1);

/// How long to wait for the kernel to have forgotten more, before memory is given back.
const TRIM: Duration = Duration::from_millis(200);

impl Fs {
    /// Starts the thread; `invalidate` tells the kernel to drop its cache of a node. It must not be called
    /// from an event loop, for the kernel may wait for a read that the loop has to answer.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn keep_house(
        self: &Arc<Self>,
        invalidate: impl Fn(u64) + Send + Sync + 'static,
    ) -> io::Result<()> {
        let Some(chores) = self.chores.lock().take() else {
            return Ok(());
        };
        let (fs, stale) = (Arc::downgrade(self), Invalidation::new(invalidate));
        Builder::new()
            .name("housekeeping".into())
            .spawn(move || House::new(fs, chores, stale).keep())?;
        Ok(())
    }
}

struct House {
    fs: Weak<Fs>,
    chores: Receiver<Chore>,
    stale: Arc<Invalidation>,
    settling: Arc<Pool>,
    waiting: Vec<Weak<Mapping>>,
    settle_at: Option<Instant>,
    watch_at: Option<Instant>,
    trim_at: Option<Instant>,
}

impl House {
    fn new(fs: Weak<Fs>, chores: Receiver<Chore>, stale: Arc<Invalidation>) -> Self {
        House {
            fs,
            chores,
            stale,
            settling: Pool::new("settling", SETTLING),
            waiting: Vec::new(),
            settle_at: None,
            watch_at: None,
            trim_at: None,
        }
    }

    fn keep(mut self) {
        loop {
            match self.next() {
                Ok(Chore::Invalidate(node, mapping)) => {
                    self.stale.add(node, mapping);
                }
                Ok(Chore::Settle(mapping)) => {
                    self.waiting.push(mapping);
                    self.settle_at
                        .get_or_insert_with(|| Instant::now() + SETTLE);
                }
                Ok(Chore::Watch) => {
                    self.watch_at.get_or_insert_with(|| Instant::now() + WATCH);
                }
                Ok(Chore::Trim) => {
                    self.trim_at.get_or_insert_with(|| Instant::now() + TRIM);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = Instant::now();
            if self.settle_at.is_some_and(|at| at <= now) {
                self.settle();
            }
            if self.watch_at.is_some_and(|at| at <= now) {
                self.watch();
            }
            if self.trim_at.is_some_and(|at| at <= now) {
                self.trim();
            }
        }
    }

    fn next(&self) -> Result<Chore, RecvTimeoutError> {
        let due = [self.settle_at, self.watch_at, self.trim_at];
        match due.into_iter().flatten().min() {
            Some(at) => self
                .chores
                .recv_timeout(at.saturating_duration_since(Instant::now())),
            None => self
                .chores
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn settle(&mut self) {
        self.settle_at = None;
        for mapping in self.waiting.drain(..).filter_map(|m| m.upgrade()) {
            // A source that is frozen or never answers keeps its own times waiting only.
            self.settling.run(Box::new(move || {
                mapping.settle();
            }));
        }
    }

    fn trim(&mut self) {
        self.trim_at = None;
        if let Some(fs) = self.fs.upgrade() {
            fs.inodes.trim();
        }
    }

    fn watch(&mut self) {
        self.watch_at = None;
        let Some(fs) = self.fs.upgrade() else { return };
        let mut seen = HashSet::new();
        for handle in fs.files.all() {
            if seen.insert(Arc::as_ptr(&handle.mapping)) {
                handle.mapping.check();
            }
        }
        // Before looking what is open: whoever opens a file from here on says so.
        fs.watched.store(false, SeqCst);
        if !fs.files.is_empty() {
            fs.watched.store(true, SeqCst);
            self.watch_at = Some(Instant::now() + WATCH);
        }
    }
}
