//! Noticing that the mount has gone while event loops still wait for a source that does not answer: nobody can be answered
//! any more, and whoever unmounts the source next must not wait for it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::thread::Builder;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use crate::mount_table;

/// How often a connection is looked at whose mount is in the table no more: detached, it ends with its last open file.
const DETACHED_INTERVAL: Duration = Duration::from_millis(200);

/// Calls `gone` once the connection that `session`, an open /dev/fuse, belongs to has ended. `device` is the mount's
/// `st_dev`, where it is known. A thread waits for changes of the mount table: a connection cannot be waited for without
/// being woken by each request.
///
/// # Errors
/// Those of opening the mount table and of starting a thread.
pub fn watch(
    session: OwnedFd,
    device: Option<u64>,
    gone: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let table = File::open("/proc/self/mountinfo")?;
    let wait = move || {
        while !has_ended(&session) {
            let mounted = device.is_none_or(is_mounted);
            let limit = (!mounted).then_some(DETACHED_INTERVAL);
            let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
            let changed = &mut [PollFd::new(&table, PollFlags::PRI)];
            if retry_on_intr(|| poll(changed, limit.as_ref())).is_err() {
                return; // It is known then when all event loops have ended.
            }
        }
        gone();
    };
    let thread = Builder::new().name("disconnect".into());
    thread.stack_size(STACK_SIZE).spawn(wait).map(drop)
}

/// Of the thread, in bytes.
const STACK_SIZE: usize = 128 << 10;

fn has_ended(session: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(session, PollFlags::empty())];
    let answered = retry_on_intr(|| poll(&mut asked, Some(&Timespec::default())));
    answered.is_ok() && asked[0].revents().contains(PollFlags::ERR)
}

fn is_mounted(device: u64) -> bool {
    // Without a table the connection alone tells.
    mount_table::find(|mount| mount.device == device).map_or(true, |found| found.is_some())
}
