//! Noticing that the mount has gone while event loops still wait for a source that does not answer: nobody can be answered
//! any more, and whoever unmounts the source next must not wait for it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::thread::{self, Builder};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

/// An unmounted filesystem leaves the mount table first. Its connection ends within moments, if it ends: so it is looked
/// at this often after each change of the table, at twice the distance each time, for 1.3 s together.
const LOOKS: u32 = 8;
const FIRST_LOOK_AFTER: Duration = Duration::from_millis(5);

/// Of the thread, in bytes.
const STACK_SIZE: usize = 128 << 10;

/// Calls `gone` once the connection that `session`, an open /dev/fuse, belongs to has ended by an unmount. A thread waits
/// for changes of the mount table: to wait for the connection would be to be woken by each request.
///
/// # Errors
/// Those of opening the mount table and of starting a thread.
pub fn watch(session: OwnedFd, gone: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let table = File::open("/proc/self/mountinfo")?;
    let wait = move || {
        loop {
            let change = &mut [PollFd::new(&table, PollFlags::PRI)];
            if retry_on_intr(|| poll(change, None)).is_err() {
                return; // It is known then when all event loops have ended.
            }
            for look in 0..LOOKS {
                thread::sleep(FIRST_LOOK_AFTER * 2u32.pow(look));
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
    let mut asked = [PollFd::new(session, PollFlags::empty())];
    let answered = retry_on_intr(|| poll(&mut asked, Some(&Timespec::default())));
    answered.is_ok() && asked[0].revents().contains(PollFlags::ERR)
}
