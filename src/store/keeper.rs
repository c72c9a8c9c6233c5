//! The thread that makes barriers: every five seconds, and when much has gathered.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use super::Store;

/// What an answered change waits at most until it is durable.
const INTERVAL: Duration = Duration::from_secs(5);

/// The thread of one store. It ends when this value goes.
#[derive(Debug)]
pub struct Keeper {
    store: Arc<Store>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread. `sweep`: data files that belong to no file are removed first.
    ///
    /// # Errors
    /// EAGAIN: there can be no more threads.
    pub fn start(store: &Arc<Store>, sweep: bool) -> io::Result<Self> {
        let kept = Arc::clone(store);
        let first = store.next.load(Ordering::Relaxed);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                if sweep {
                    kept.sweep(first)
                        .unwrap_or_else(|error| log::warn!("the store is not swept: {error}"));
                }
                let mut told = None;
                while kept.bell.wait(INTERVAL) {
                    let failed = kept.barrier().err();
                    let errno = failed.as_ref().map(|error| error.raw_os_error());
                    // It is said once, not every five seconds.
                    if let Some(error) = failed.filter(|_| told != errno) {
                        log::error!(
                            "the store could not write its state ({error}): it tries again"
                        );
                    }
                    told = errno;
                }
            })?;
        Ok(Self {
            store: Arc::clone(store),
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.store.bell.end();
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked; if it did, there is nothing left to end.
            let _ = thread.join();
        }
    }
}
