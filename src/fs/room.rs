//! Requests for which there is no room on the source, although some is about to be freed.
//!
//! A removed inode stays open until the kernel says that it has forgotten it, and that it has closed its files. It says so after
//! the client has gone on. Whoever needs the space at once would hear of a full disk that is not. So such a request is done
//! again, on a thread that no other request needs, once the view has given back what can be had. So is an open for which
//! there is no descriptor: those of files that its client has just closed are about to come back.

use super::{Fs, Writing};
use crate::view::{Tree, Wanted};
use parking_lot::Mutex;
use rustix::io::{Errno, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// How long a request is done again and again, while there is room for the others that are.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How long an open waits for a descriptor while clients close files, and while none has closed any since an open waited in
/// vain: a client that keeps all there are must not slow down the others, and CREATE holds the kernel's lock of its
/// directory.
const CLOSING: Duration = Duration::from_millis(200);
const NOTHING_CLOSING: Duration = Duration::from_millis(5);
const CLOSING_INTERVAL: Duration = Duration::from_millis(1);

impl<T: Tree> Fs<T> {
    /// Does `op`, again where there was no room for it, and then `answer`: here, or later on another thread.
    pub fn with_room<O>(
        self: &Arc<Self>,
        op: impl Fn(&Self) -> Result<O> + Send + 'static,
        answer: impl FnOnce(Result<O>) + Send + 'static,
    ) {
        let first = op(self);
        self.again_with_room(first, op, answer);
    }

    /// `op` was done `first`; as `with_room` from there on.
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

    /// As `with_room`, for `op` that opens a file and changes nothing where there is no descriptor for that: then it waits a
    /// moment, as long as there is a thread to wait on.
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

    /// Does `op` until it has a descriptor, or none has come for too long.
    fn until_descriptor<O>(&self, since: Instant, op: impl Fn(&Self) -> Result<O>) -> Result<O> {
        let closes = self.closes.load(SeqCst);
        let patience = match closes == self.closes_in_vain.load(SeqCst) {
            true => NOTHING_CLOSING,
            false => CLOSING,
        };
        loop {
            std::thread::sleep(CLOSING_INTERVAL);
            match op(self) {
                Err(errno) if is_without_descriptor(errno) => {
                    if since.elapsed() >= patience {
                        self.closes_in_vain.store(closes, SeqCst);
                        return Err(errno);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// As `with_room`, for a write. What was written before the disk was full is not written again.
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
            // Fewer are written where an error comes after them.
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
                match fs.write(fh, at, &rest[written..], how) {
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
