//! Where all notifications to the kernel leave from.
//!
//! Dropping the pages of a file may wait for a read that never ends. So it is never done by a thread that answers
//! requests, and every file waits by itself. Replacing bytes of a page may wait for such a read, too. A request does wait
//! for that, but not for long.

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

/// Files at most whose pages the kernel is dropping at a time.
const MAX_DROPPING: usize = 16;

/// Files at most of whose pages bytes are being replaced at a time.
const MAX_REPLACING: usize = 16;

/// How long a page may be locked before whoever holds it is taken to wait for the page's bytes.
const MAX_LOCKED: Duration = Duration::from_millis(200);

/// The kernel, as far as it can be told what to forget.
pub trait Kernel: Send + Sync + 'static {
    /// Drops the pages and the attributes it has cached of `node`, and writes back first what clients have stored into
    /// the pages. Returns when that is done.
    fn drop_pages(&self, node: u64);
    /// Replaces bytes of `node` in the page they lie in, and takes the file to be at least as long.
    fn replace(&self, node: u64, offset: u64, bytes: &[u8]);
    /// Asks for the attributes of `node` anew. Waits for no request.
    fn expire_attributes(&self, node: u64);
}

/// A file that waits to hear that its pages have gone.
pub trait Waiting: Send + Sync {
    /// The kernel has dropped its pages, of which was asked with this number of doubts.
    fn dropped(&self, doubts: u64);
    /// Whether that many doubts have not been settled otherwise since: by an open.
    fn is_waiting(&self, doubts: u64) -> bool;
}

/// A file that waits, with the number of its doubts.
type Waiter = (Weak<dyn Waiting>, u64);

/// A node whose pages must go, and the file that waits to hear it.
type Stale = (u64, Waiter);

/// The way to the kernel, open once the session has begun.
pub struct Notifier {
    kernel: OnceLock<Arc<dyn Kernel>>,
    stale: Sender<Stale>,
    /// Taken by the thread that passes them on.
    queue: Mutex<Option<Receiver<Stale>>>,
    replacing: Arc<Pool>,
    /// How often the kernel was told something.
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

    /// Starts the thread that tells `kernel`. Only the first call counts.
    pub fn connect(&self, kernel: impl Kernel) -> io::Result<()> {
        let Some(queue) = self.queue.lock().take() else {
            return Ok(());
        };
        let kernel: Arc<dyn Kernel> = Arc::new(kernel);
        let _ = self.kernel.set(kernel.clone()); // `queue` was there, so this is the first call.
        let dropping = Dropping::new(kernel);
        Builder::new().name("notifier".into()).spawn(move || {
            queue
                .iter()
                .for_each(|(node, file)| dropping.add(node, file));
        })?;
        Ok(())
    }

    /// How often the kernel was told something.
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
        // The session is ending when nobody listens any more.
        let _ = self.stale.send((node, file));
    }

    /// Has pages of `node` dropped, once what clients have stored into them is written back. The caller must not be needed
    /// to serve the writes that this takes.
    pub fn write_back(&self, node: u64) {
        self.told.fetch_add(1, Relaxed);
        if let Some(kernel) = self.kernel.get() {
            kernel.drop_pages(node);
        }
    }

    /// Has bytes replaced in a page of `node`. False when that page is locked for longer than is waited for: the kernel
    /// takes them later.
    pub fn replace(&self, node: u64, offset: u64, bytes: Vec<u8>) -> bool {
        let Some(kernel) = self.kernel.get().cloned() else {
            return true; // The session has not begun, so there are no pages.
        };
        self.told.fetch_add(1, Relaxed);
        let (tell, heard) = sync_channel(2);
        let replace = move || {
            let _ = tell.send("it begins");
            kernel.replace(node, offset, &bytes);
            let _ = tell.send("it is done"); // Nobody may be waiting any more.
        };
        // On a busy machine the thread begins late: that says nothing of the page.
        self.replacing.try_run(Box::new(replace)).is_ok()
            && heard.recv().is_ok()
            && heard.recv_timeout(MAX_LOCKED).is_ok()
    }
}

/// Nodes whose pages the kernel is dropping.
struct Dropping {
    kernel: Arc<dyn Kernel>,
    /// By node, the files that wait to hear that it is done; a node is worked on while it is here.
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

    /// Has the pages of `node` dropped, from now on, and tells the file.
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
            let is_waiting = |(file, doubts): &Waiter| {
                let file = file.upgrade();
                file.is_none_or(|file| file.is_waiting(*doubts))
            };
            // Of attributes that the kernel asks for meanwhile it would take nothing: whoever has opened the file since may
            // be about to look at its length.
            if due.iter().any(is_waiting) {
                self.kernel.drop_pages(node);
            }
            for (file, doubts) in due {
                if let Some(file) = file.upgrade() {
                    file.dropped(doubts);
                }
            }
        }
    }

    /// Those who asked before the kernel is told once more.
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

    /// Waits at node 1 until the gate is dropped.
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
    fn a_node_that_hangs_holds_up_no_other() {
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
        // Those who asked meanwhile are served by one more time.
        assert_eq!(next(), Ok(1));
        while !dropping.waiting.lock().is_empty() {
            std::thread::yield_now();
        }
        assert!(heard.try_recv().is_err());
    }
}
