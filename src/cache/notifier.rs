//! Sends all notifications to the kernel.
//!
//! Dropping the pages of a file may wait for a read that is never answered. So threads that answer requests never do it, and
//! each file has a thread of its own for it. Replacing bytes of a page may wait for such a read, too. A request waits for that,
//! for `MAX_LOCKED` at most.

use crate::pool::Pool;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::Builder;
use std::time::Duration;

/// For how many files the kernel drops pages at the same time.
const MAX_DROPPING: usize = 16;

/// For how many files bytes are replaced at the same time.
const MAX_REPLACING: usize = 16;

/// A page that is locked for longer than this waits for its bytes.
const MAX_LOCKED: Duration = Duration::from_millis(200);

/// Notifications to the kernel.
pub trait Kernel: Send + Sync + 'static {
    /// Drops the cached pages and attributes of `node`. Clients' stores in the pages are written back first. Returns when that
    /// is done.
    fn drop_pages(&self, node: u64);
    /// Replaces bytes of `node` within one page. Makes the file at least that long.
    fn replace(&self, node: u64, offset: u64, bytes: &[u8]);
    /// Drops the cached attributes of `node`. Waits for no request.
    fn expire_attributes(&self, node: u64);
    /// Drops a name in a directory, also one that is cached as missing. Waits for requests that change or look up names there.
    fn drop_name(&self, directory: u64, name: &[u8]);
}

/// A file that waits until its pages are dropped.
pub trait Waiting: Send + Sync {
    /// The kernel has dropped its pages. `stale_marks` was the file's count at the request.
    fn dropped(&self, stale_marks: u64);
    /// Whether a request with this count is still needed. An open may have dropped the cache since.
    fn is_waiting(&self, stale_marks: u64) -> bool;
}

/// A waiting file, with its count of stale marks.
type Waiter = (Weak<dyn Waiting>, u64);

/// A node whose pages are stale, and the file that waits.
type Stale = (u64, Waiter);

/// The notifications of one mount. It is connected when the session begins.
pub struct Notifier {
    kernel: OnceLock<Arc<dyn Kernel>>,
    stale: Sender<Stale>,
    /// Taken by the notifier's thread.
    queue: Mutex<Option<Receiver<Stale>>>,
    replacing: Arc<Pool>,
    /// How many notifications were sent.
    told: AtomicU64,
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notifier")
    }
}

impl Notifier {
    pub fn new() -> Self {
        let (stale, queue) = channel();
        Notifier {
            kernel: OnceLock::new(),
            stale,
            queue: Mutex::new(Some(queue)),
            replacing: Pool::new("replacing", MAX_REPLACING),
            told: AtomicU64::new(0),
        }
    }

    /// Starts the thread that notifies `kernel`. Only the first call has an effect.
    pub fn connect(&self, kernel: impl Kernel) -> io::Result<()> {
        let Some(queue) = self.queue.lock().take() else {
            return Ok(());
        };
        let kernel: Arc<dyn Kernel> = Arc::new(kernel);
        // This is the first call, because `queue` was there.
        let _ = self.kernel.set(kernel.clone());
        let dropping = Dropping::new(kernel);
        Builder::new().name("notifier".into()).spawn(move || {
            queue
                .iter()
                .for_each(|(node, file)| dropping.add(node, file));
        })?;
        Ok(())
    }

    /// How many notifications were sent.
    pub fn told(&self) -> u64 {
        self.told.load(Relaxed)
    }

    pub fn expire_attributes(&self, node: u64) {
        self.told.fetch_add(1, Relaxed);
        if let Some(kernel) = self.kernel.get() {
            kernel.expire_attributes(node);
        }
    }

    pub fn drop_pages(&self, node: u64, file: Waiter) {
        self.told.fetch_add(1, Relaxed);
        // An error means that the session is ending.
        let _ = self.stale.send((node, file));
    }

    /// Has the pages of `node` dropped, after clients' stores in them were written back. The caller's thread must not be needed
    /// to answer these writes.
    pub fn write_back(&self, node: u64) {
        self.told.fetch_add(1, Relaxed);
        if let Some(kernel) = self.kernel.get() {
            kernel.drop_pages(node);
        }
    }

    /// Has a name dropped. The caller's thread must not be needed to answer requests.
    pub fn drop_name(&self, directory: u64, name: &[u8]) {
        self.told.fetch_add(1, Relaxed);
        if let Some(kernel) = self.kernel.get() {
            kernel.drop_name(directory, name);
        }
    }

    /// Replaces bytes in a page of `node`. False if the page is locked for longer than `MAX_LOCKED`: the kernel then replaces
    /// them later.
    pub fn replace(&self, node: u64, offset: u64, bytes: Vec<u8>) -> bool {
        let Some(kernel) = self.kernel.get().cloned() else {
            // The session has not begun, so the kernel has no pages.
            return true;
        };
        self.told.fetch_add(1, Relaxed);
        let (tell, heard) = sync_channel(2);
        let replace = move || {
            let _ = tell.send("it begins");
            kernel.replace(node, offset, &bytes);
            // The receiver may have given up.
            let _ = tell.send("it is done");
        };
        // The time limit counts from the start of the job, because on a busy machine the thread starts late.
        self.replacing.try_run(Box::new(replace)).is_ok()
            && heard.recv().is_ok()
            && heard.recv_timeout(MAX_LOCKED).is_ok()
    }
}

/// Nodes whose pages the kernel is dropping.
struct Dropping {
    kernel: Arc<dyn Kernel>,
    /// By node, the files that wait. A node has an entry while a thread works on it.
    waiting: Mutex<HashMap<u64, Vec<Waiter>>>,
    pool: Arc<Pool>,
}

impl Dropping {
    fn new(kernel: Arc<dyn Kernel>) -> Arc<Self> {
        Arc::new(Dropping {
            kernel,
            waiting: Mutex::default(),
            pool: Pool::new("invalidation", MAX_DROPPING),
        })
    }

    /// Has the pages of `node` dropped, and reports that to the file.
    fn add(self: &Arc<Self>, node: u64, file: Waiter) {
        match self.waiting.lock().entry(node) {
            Entry::Occupied(mut others) => return others.get_mut().push(file),
            Entry::Vacant(free) => drop(free.insert(vec![file])),
        }
        let all = self.clone();
        self.pool.run(Box::new(move || all.work(node)));
    }

    fn work(&self, node: u64) {
        while let Some(due) = self.due(node) {
            let is_waiting = |(file, stale_marks): &Waiter| {
                let file = file.upgrade();
                file.is_none_or(|file| file.is_waiting(*stale_marks))
            };
            // If an open has dropped the cache since, its client may be about to read the length. The kernel would ignore
            // attributes that it asks for while pages are dropped.
            if due.iter().any(is_waiting) {
                self.kernel.drop_pages(node);
            }
            for (file, stale_marks) in due {
                if let Some(file) = file.upgrade() {
                    file.dropped(stale_marks);
                }
            }
        }
    }

    /// The files that asked before this call.
    fn due(&self, node: u64) -> Option<Vec<Waiter>> {
        let mut waiting = self.waiting.lock();
        let due = waiting.get_mut(&node).map(std::mem::take);
        if due.as_ref().is_none_or(Vec::is_empty) {
            waiting.remove(&node);
            return None;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At node 1, `drop_pages` and `replace` wait until the gate is dropped.
    struct Slow {
        gate: Mutex<Receiver<()>>,
        dropped: Sender<u64>,
    }

    struct Nobody;

    impl Waiting for Nobody {
        fn dropped(&self, _: u64) {}

        fn is_waiting(&self, _: u64) -> bool {
            true
        }
    }

    fn nobody() -> Waiter {
        (Weak::<Nobody>::new(), 1)
    }

    impl Kernel for Slow {
        fn drop_pages(&self, node: u64) {
            if node == 1 {
                let _ = self.gate.lock().recv();
            }
            self.dropped.send(node).expect("somebody listens");
        }

        fn replace(&self, node: u64, _: u64, _: &[u8]) {
            self.drop_pages(node);
        }

        fn expire_attributes(&self, _: u64) {}

        fn drop_name(&self, _: u64, _: &[u8]) {}
    }

    #[test]
    fn a_page_that_stays_locked_is_not_waited_for() {
        let (gate, closed) = channel::<()>();
        let (dropped, heard) = channel();
        let notifier = Notifier::new();
        let gate_of_one = Mutex::new(closed);
        notifier
            .connect(Slow {
                gate: gate_of_one,
                dropped,
            })
            .expect("a thread starts");
        assert!(!notifier.replace(1, 100, vec![0]));
        assert!(notifier.replace(2, 100, vec![0]));
        assert_eq!(heard.recv(), Ok(2));
        drop(gate);
        assert_eq!(heard.recv(), Ok(1), "it is replaced all the same");
    }

    #[test]
    fn a_node_that_does_not_answer_delays_no_other() {
        let (gate, closed) = channel::<()>();
        let (dropped, heard) = channel();
        let gate_of_one = Mutex::new(closed);
        let dropping = Dropping::new(Arc::new(Slow {
            gate: gate_of_one,
            dropped,
        }));
        let working = |node| {
            let waiting = dropping.waiting.lock();
            waiting.get(&node).is_some_and(Vec::is_empty)
        };
        dropping.add(1, nobody());
        while !working(1) {
            std::thread::yield_now();
        }
        for _ in 0..2 * MAX_DROPPING {
            dropping.add(1, nobody());
        }
        dropping.add(2, nobody());
        let next = || heard.recv_timeout(std::time::Duration::from_secs(10));
        assert_eq!(next(), Ok(2));
        drop(gate);
        assert_eq!(next(), Ok(1));
        // One more call serves all requests that came meanwhile.
        assert_eq!(next(), Ok(1));
        while !dropping.waiting.lock().is_empty() {
            std::thread::yield_now();
        }
        assert!(heard.try_recv().is_err());
    }
}
