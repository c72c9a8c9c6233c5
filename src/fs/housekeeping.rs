//! The housekeeping thread does work that no request asks for: it applies recorded times, checks open files for changes behind
//! the mount, and frees memory. It sleeps while there is no chore.

use super::Fs;
use crate::chores::{Chore, PendingTimes};
use crate::pool::Pool;
use crate::view::Tree;
use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// After this time a recorded modification time is applied, if no request has needed it before.
const APPLY_TIMES_AFTER: Duration = Duration::from_millis(100);

/// Maximum number of files whose times are applied at once.
const MAX_APPLYING: usize = 16;

/// How often open files are checked for changes behind the mount.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How long an inode is held for a caller whose next request needs it. On a busy machine with 2 CPUs, a caller may take
/// that long.
const HOLD_TIME: Duration = Duration::from_secs(1);

/// Delay before memory is freed, so that the kernel can forget more inodes first.
const TRIM_AFTER: Duration = Duration::from_millis(200);

impl<T: Tree> Fs<T> {
    /// Starts the thread.
    ///
    /// # Errors
    /// Those of pthread_create(3).
    pub(super) fn start_housekeeping(self: &Arc<Self>) -> io::Result<()> {
        let Some(receiver) = self.chore_receiver.lock().take() else {
            return Ok(());
        };
        let fs = Arc::downgrade(self);
        Builder::new()
            .name("housekeeping".into())
            .spawn(move || Housekeeping::new(fs, receiver).run())?;
        Ok(())
    }
}

struct Housekeeping<T: Tree> {
    fs: Weak<Fs<T>>,
    chores: Receiver<Chore>,
    applying: Arc<Pool>,
    waiting: Vec<Weak<dyn PendingTimes>>,
    apply_at: Option<Instant>,
    watch_at: Option<Instant>,
    trim_at: Option<Instant>,
    release_at: Option<Instant>,
}

impl<T: Tree> Housekeeping<T> {
    fn new(fs: Weak<Fs<T>>, chores: Receiver<Chore>) -> Self {
        Housekeeping {
            fs,
            chores,
            applying: Pool::new("settling", MAX_APPLYING),
            waiting: Vec::new(),
            apply_at: None,
            watch_at: None,
            trim_at: None,
            release_at: None,
        }
    }

    fn run(mut self) {
        loop {
            match self.next() {
                Ok(Chore::ApplyTimes(file)) => {
                    self.waiting.push(file);
                    due_in(&mut self.apply_at, APPLY_TIMES_AFTER);
                }
                Ok(Chore::Watch) => due_in(&mut self.watch_at, WATCH_INTERVAL),
                Ok(Chore::Trim) => due_in(&mut self.trim_at, TRIM_AFTER),
                Ok(Chore::ReleaseHeld) => due_in(&mut self.release_at, HOLD_TIME),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = Instant::now();
            if self.apply_at.is_some_and(|at| at <= now) {
                self.apply_times();
            }
            if self.watch_at.is_some_and(|at| at <= now) {
                self.watch();
            }
            if self.trim_at.is_some_and(|at| at <= now) {
                self.trim();
            }
            if self.release_at.is_some_and(|at| at <= now) {
                self.release_held();
            }
        }
    }

    fn next(&self) -> Result<Chore, RecvTimeoutError> {
        let due = [self.apply_at, self.watch_at, self.trim_at, self.release_at];
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

    fn apply_times(&mut self) {
        self.apply_at = None;
        for file in self.waiting.drain(..).filter_map(|file| file.upgrade()) {
            // Each file has its own job: a source that is frozen or never answers delays its own times only.
            self.applying.run(Box::new(move || {
                file.apply_times();
            }));
        }
    }

    fn trim(&mut self) {
        self.trim_at = None;
        if let Some(fs) = self.fs.upgrade() {
            fs.tree.trim();
            fs.nodes.trim();
        }
    }

    fn release_held(&mut self) {
        self.release_at = None;
        let Some(fs) = self.fs.upgrade() else { return };
        if fs.tree.release_held() | fs.retries.expire() {
            due_in(&mut self.release_at, HOLD_TIME);
        }
    }

    fn watch(&mut self) {
        self.watch_at = None;
        let Some(fs) = self.fs.upgrade() else { return };
        fs.tree.check_open_files();
        // Cleared before the open files are counted: an open after this adds a chore.
        fs.watched.store(false, SeqCst);
        if !fs.files.is_empty() {
            fs.watched.store(true, SeqCst);
            self.watch_at = Some(Instant::now() + WATCH_INTERVAL);
        }
    }
}

/// Sets `at` to now plus `delay`, unless it is set already.
fn due_in(at: &mut Option<Instant>, delay: Duration) {
    at.get_or_insert_with(|| Instant::now() + delay);
}
