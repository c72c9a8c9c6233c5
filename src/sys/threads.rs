//! Starting threads, with an error if that fails.
//!
//! A thread started by std first maps memory for a signal stack. If that fails, for example at the limit of maps
//! (`vm.max_map_count`), std aborts the process.
#![allow(unsafe_code)]

use rustix::io::Errno;
use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

/// The function that a thread runs.
type Work = Box<dyn FnOnce() + Send>;

/// Starts a detached thread that runs `work`, with a stack of `stack_size` bytes.
///
/// # Errors
/// Those of pthread_create(3): EAGAIN if there is no room for it.
pub fn start(stack_size: usize, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let work: Box<Work> = Box::new(Box::new(work));
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let attributes = attributes.as_mut_ptr();
    let checked = |error| match error {
        0 => Ok(()),
        error => Err(io::Error::from(Errno::from_raw_os_error(error))),
    };
    // SAFETY: pthread_attr_init initialises the attributes, which live until pthread_attr_destroy.
    checked(unsafe { libc::pthread_attr_init(attributes) })?;
    let work = Box::into_raw(work);
    let mut thread = MaybeUninit::uninit();
    // SAFETY: the attributes are initialised. `run` takes the work over, which nobody else has.
    let started = unsafe {
        checked(libc::pthread_attr_setstacksize(attributes, stack_size))
            .and_then(|()| {
                let detached = libc::PTHREAD_CREATE_DETACHED;
                checked(libc::pthread_attr_setdetachstate(attributes, detached))
            })
            .and_then(|()| {
                let work = work.cast::<c_void>();
                checked(libc::pthread_create(
                    thread.as_mut_ptr(),
                    attributes,
                    run,
                    work,
                ))
            })
    };
    // SAFETY: they were initialised above and are used no more.
    unsafe { libc::pthread_attr_destroy(attributes) };
    if started.is_err() {
        // SAFETY: there is no thread that has taken it over.
        drop(unsafe { Box::from_raw(work) });
    }
    started
}

extern "C" fn run(work: *mut c_void) -> *mut c_void {
    // SAFETY: `start` gives the work to this thread alone.
    let work = unsafe { Box::from_raw(work.cast::<Work>()) };
    // A panic must not unwind into C.
    let _ = catch_unwind(AssertUnwindSafe(work));
    null_mut()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_thread_does_its_work_and_may_panic() {
        let (done, heard) = channel();
        start(256 << 10, || panic!("of the test")).expect("a thread");
        start(256 << 10, move || done.send(7).expect("the test receives")).expect("a thread");
        assert_eq!(heard.recv(), Ok(7));
    }

    #[test]
    fn a_thread_that_cannot_be_started_is_an_error() {
        assert!(start(1 << 46, || ()).is_err());
    }
}
