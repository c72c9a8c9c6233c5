//! Work in a child process. The work may wait in the kernel where no signal ends it, such as for a FUSE server that has read a
//! request and does not answer. The caller need not wait for the child.
#![allow(unsafe_code)]

use super::process::{exit_at_once, fork};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// A child process that computes an answer. When dropped, it is killed, but not waited for.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    pipe: OwnedFd,
    heard: Vec<u8>,
    has_ended: bool,
}

impl Child {
    /// Starts `work`, which gets `about`. `work` must not use descriptors opened before: the child has closed them. So it does
    /// not hold the daemon's output open.
    ///
    /// # Errors
    /// Those of pipe2(2), fork(2) and pidfd_open(2); EINVAL if there is a second thread.
    pub fn start<T>(about: &T, work: fn(&T) -> Result<Vec<u8>, Errno>) -> io::Result<Self> {
        let parent = rustix::process::getpid();
        let (pipe, answer) = pipe_with(PipeFlags::CLOEXEC)?;
        let Some(pid) = fork()? else {
            close_all_but(answer.as_raw_fd());
            die_with_parent();
            if rustix::process::getppid() == Some(parent) {
                let (errno, bytes) = match work(about) {
                    Ok(bytes) => (0, bytes),
                    Err(errno) => (errno.raw_os_error(), Vec::new()),
                };
                let mut answer = std::fs::File::from(answer);
                // An error means that the parent has gone.
                let _ = answer
                    .write_all(&errno.to_ne_bytes())
                    .and_then(|()| answer.write_all(&bytes));
            }
            exit_at_once(0);
        };
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        })?;
        Ok(Child {
            pid,
            pidfd,
            pipe,
            heard: Vec::new(),
            has_ended: false,
        })
    }

    /// Its answer, once. `None` after `limit`; the caller may wait again.
    ///
    /// # Errors
    /// Those of poll(2) and read(2).
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<Result<Vec<u8>, Errno>>> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
            let mut pipe = [PollFd::new(&self.pipe, PollFlags::IN)];
            if retry_on_intr(|| poll(&mut pipe, Some(&left)))? == 0 {
                return Ok(None);
            }
            let mut bytes = [0; 4096];
            match retry_on_intr(|| rustix::io::read(&self.pipe, &mut bytes[..]))? {
                0 => break,
                count => self.heard.extend_from_slice(&bytes[..count]),
            }
        }
        // The pipe is closed, so the child is ending.
        retry_on_intr(|| rustix::process::waitpid(Some(self.pid), WaitOptions::empty()))?;
        self.has_ended = true;
        let heard = std::mem::take(&mut self.heard);
        Ok(Some(match heard.split_first_chunk() {
            Some((errno, bytes)) => match i32::from_ne_bytes(*errno) {
                0 => Ok(bytes.to_vec()),
                errno => Err(Errno::from_raw_os_error(errno)),
            },
            None => Err(Errno::IO), // It was killed.
        }))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.has_ended {
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
            let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG);
        }
    }
}

/// Has the kernel kill this process when its parent ends. A change of the process's user ends this.
pub fn die_with_parent() {
    // It cannot fail: the signal exists.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
}

fn close_all_but(kept: RawFd) {
    let (kept, last) = (kept as libc::c_uint, libc::c_uint::MAX);
    // SAFETY: close_range takes no pointer. A child of a single thread does this first, and ends without leaving the caller: nothing
    // but `work`, which uses none of them, comes after it.
    unsafe {
        if kept > 0 {
            libc::close_range(0, kept - 1, 0);
        }
        libc::close_range(kept + 1, last, 0);
    }
}
