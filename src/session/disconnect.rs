//! Detects that the mount was unmounted while event loops still wait for a source that does not answer. Their replies can reach no
//! client any more. The daemon must end without waiting for them, so that the source can be unmounted, too.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::thread::{self, Builder};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

/// How often the connection is checked after a change of the mount table. An unmounted filesystem leaves the table first, and its
/// connection ends soon after. Each pause is twice the one before: 1.3 s in total.
const CHECKS: u32 = 8;
const FIRST_CHECK_AFTER: Duration = Duration::from_millis(5);

/// Stack of the thread, in bytes.
const STACK_SIZE: usize = 128 << 10;

/// Calls `gone` when the connection of `session`, an open /dev/fuse, has ended by an unmount. A thread waits for changes of the
/// mount table. It cannot wait for the connection itself, because each request would wake it.
///
/// # Errors
/// Those of opening the mount table and of pthread_create(3).
pub fn watch(session: OwnedFd, gone: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let table = File::open("/proc/self/mountinfo")?;
    let wait = move || {
        loop {
            let change = &mut [PollFd::new(&table, PollFlags::PRI)];
            if retry_on_intr(|| poll(change, None)).is_err() {
                return; // The session then ends when all event loops have ended.
            }
            for check in 0..CHECKS {
                thread::sleep(FIRST_CHECK_AFTER * 2u32.pow(check));
                if has_ended(&session) {
                    return gone();
                }
            }
        }
    };
    let thread = Builder::new().name("disconnect".into());
    thread.stack_size(STACK_SIZE).spawn(wait).map(drop)
}

fn has_ended(session: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(session, PollFlags::empty())];
    let outcome = retry_on_intr(|| poll(&mut polled, Some(&Timespec::default())));
    outcome.is_ok() && polled[0].revents().contains(PollFlags::ERR)
}
