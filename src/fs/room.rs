//! Requests for which there is no room on the source, although some is about to be freed.
//!
//! A removed inode stays open until the kernel says that it has forgotten it, and that it has closed its files. It says so after
//! the client has gone on. Whoever needs the space at once would hear of a full disk that is not. So such a request is done
//! again, on a thread that no other request needs, once the view has given back what can be had. So is an open for which
//! there is no descriptor: those of files that its client has just closed are about to come back.

use super::{Fs, Writing};
use crate::view::{Tree, Wanted};
use rustix::io::{Errno, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a request is done again and again, while there is room for the others that are.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How long an open is done again and again that found no descriptor, counted from its first time.
const CLOSING: Duration = Duration::from_millis(200);

/// How often.
const CLOSING_INTERVAL: Duration = Duration::from_millis(1);

impl<T: Tree> Fs<T> {
    /// Does `op`, again where there was no room for it, and then `answer`: here, or later on another thread.
    pub fn with_room<O>(
        self: &Arc<Self>,
        op: impl Fn(&Self) -> Result<O> + Send + 'static,
        answer: impl FnOnce(Result<O>) + Send + 'static,
    ) {
        let first = op(self);
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
            Err(Errno::MFILE | Errno::NFILE) => {
                let since = Instant::now();
                self.run_elsewhere(move |fs| {
                    loop {
                        match op(fs) {
                            Err(Errno::MFILE | Errno::NFILE) if since.elapsed() < CLOSING => {
                                std::thread::sleep(CLOSING_INTERVAL);
                            }
                            outcome => return answer(outcome),
                        }
                    }
                });
            }
            outcome => answer(outcome),
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

fn is_full(errno: Errno) -> bool {
    matches!(errno, Errno::NOSPC | Errno::DQUOT)
}
