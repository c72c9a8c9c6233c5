//! Tries a request again that found no room on the source's disk, or no free descriptor.
//!
//! The kernel sends FORGET and RELEASE after unlink(2) and close(2) have returned to the client. Until then mmfs holds a
//! removed inode open, and its space is not free. A client that writes immediately would get ENOSPC although the space
//! is about to be freed. So the request is tried again after the view has closed removed inodes. This runs on a thread that no
//! other request needs. An open that finds no descriptor is tried again for the same reason: files that a client has just closed
//! free theirs at RELEASE.

use super::{Fs, Writing};
use crate::view::{Tree, Wanted};
use parking_lot::Mutex;
use rustix::io::{Errno, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// How long a request is tried again that found no room.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How long an open waits for a descriptor.
const DESCRIPTOR_TIMEOUT: Duration = Duration::from_millis(200);

/// As `DESCRIPTOR_TIMEOUT`, if no client has closed a file since an open last timed out. It is short because a client that keeps
/// all descriptors must not delay the others, and because CREATE holds the kernel's lock of its directory.
const DESCRIPTOR_TIMEOUT_WITHOUT_CLOSES: Duration = Duration::from_millis(5);
const DESCRIPTOR_RETRY_INTERVAL: Duration = Duration::from_millis(1);

impl<T: Tree> Fs<T> {
    /// Runs `op` and then `answer`. If there is no room, runs `op` again on another thread, and `answer` there.
    pub fn with_room<O>(
        self: &Arc<Self>,
        op: impl Fn(&Self) -> Result<O> + Send + 'static,
        answer: impl FnOnce(Result<O>) + Send + 'static,
    ) {
        let first = op(self);
        self.again_with_room(first, op, answer);
    }

    /// As `with_room`, if `op` has run once already with the outcome `first`.
    fn again_with_room<O>(
        self: &Arc<Self>,
        first: Result<O>,
        op: impl Fn(&Self) -> Result<O> + Send + 'static,
        answer: impl FnOnce(Result<O>) + Send + 'static,
    ) {
        match first {
            Err(errno) if self.may_make_room(errno, Wanted::Anything) => {
                self.run_elsewhere(move |fs| {
                    let since = Instant::now();
                    loop {
                        let more = fs.tree.make_room(Wanted::Anything) && since.elapsed() < TIMEOUT;
                        let _serving = fs.serving();
                        match op(fs) {
                            Err(errno) if more && is_full(errno) => {}
                            outcome => return answer(outcome),
                        }
                    }
                })
            }
            outcome => answer(outcome),
        }
    }

    /// As `with_room`, for an `op` that opens a file. If there is no descriptor, `op` must have changed nothing. It is then tried
    /// again for a moment, if a thread is free to wait.
    pub fn with_descriptor<O>(
        self: &Arc<Self>,
        op: impl Fn(&Self) -> Result<O> + Send + 'static,
        answer: impl FnOnce(Result<O>) + Send + 'static,
    ) {
        let errno = match op(self) {
            Err(errno) if is_without_descriptor(errno) => errno,
            first => return self.again_with_room(first, op, answer),
        };
        let (fs, since) = (self.clone(), Instant::now());
        let answer = Arc::new(Mutex::new(Some(answer)));
        let later = answer.clone();
        let wait = move || {
            let outcome = fs.until_descriptor(since, &op);
            let _serving = fs.serving();
            if let Some(answer) = later.lock().take() {
                fs.again_with_room(outcome, op, answer);
            }
        };
        if self.opening.try_run(Box::new(wait)).is_err() {
            if let Some(answer) = answer.lock().take() {
                answer(Err(errno));
            }
        }
    }

    /// Runs `op` until it gets a descriptor or the time is over.
    fn until_descriptor<O>(&self, since: Instant, op: impl Fn(&Self) -> Result<O>) -> Result<O> {
        let closes = self.closes.load(SeqCst);
        let timeout = match closes == self.closes_at_timeout.load(SeqCst) {
            true => DESCRIPTOR_TIMEOUT_WITHOUT_CLOSES,
            false => DESCRIPTOR_TIMEOUT,
        };
        loop {
            std::thread::sleep(DESCRIPTOR_RETRY_INTERVAL);
            let serving = self.serving();
            let outcome = op(self);
            drop(serving);
            match outcome {
                Err(errno) if is_without_descriptor(errno) => {
                    if since.elapsed() >= timeout {
                        self.closes_at_timeout.store(closes, SeqCst);
                        return Err(errno);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// As `with_room`, for a write. Bytes that were written before the disk was full are not written again.
    pub fn write_with_room(
        self: &Arc<Self>,
        fh: u64,
        (offset, data): (u64, &[u8]),
        how: Writing,
        answer: impl FnOnce(Result<usize>) + Send + 'static,
    ) {
        let first = self.write(fh, offset, data, how);
        let may_make_room = |errno| self.may_make_room(errno, Wanted::Bytes);
        let done = match first {
            // A short write means that the disk became full during the write.
            Ok(count) if count < data.len() && may_make_room(Errno::NOSPC) => count,
            Err(errno) if may_make_room(errno) => 0,
            outcome => return answer(outcome),
        };
        let rest = data[done..].to_vec();
        self.run_elsewhere(move |fs| {
            let (since, mut written, mut failed) = (Instant::now(), 0, None);
            while written < rest.len() {
                let more = fs.tree.make_room(Wanted::Bytes) && since.elapsed() < TIMEOUT;
                let at = offset + (done + written) as u64;
                let serving = fs.serving();
                let done = fs.write(fh, at, &rest[written..], how);
                drop(serving);
                match done {
                    Ok(count) => written += count,
                    Err(errno) if more && is_full(errno) => {}
                    Err(errno) => {
                        failed = Some(errno);
                        break;
                    }
                }
            }
            answer(match (done + written, failed) {
                (0, Some(errno)) => Err(errno),
                (count, _) => Ok(count),
            });
        });
    }

    fn may_make_room(&self, errno: Errno, wanted: Wanted) -> bool {
        is_full(errno) && self.tree.may_make_room(wanted)
    }

    fn run_elsewhere(self: &Arc<Self>, job: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let fs = self.clone();
        self.waiting.run(Box::new(move || job(&fs)));
    }
}

fn is_without_descriptor(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE)
}

fn is_full(errno: Errno) -> bool {
    matches!(errno, Errno::NOSPC | Errno::DQUOT)
}
