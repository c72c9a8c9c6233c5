//! What all opens of one file share: what the kernel has of it, and whether the kernel serves it by itself (`--passthrough`).

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::cache::FileCache;
use crate::store::{Access, NodeId, Store};

/// A file that is open.
pub(super) struct InUse {
    pub cache: Arc<FileCache>,
    /// Decided at the first open, for all until the last one is closed: the kernel takes no mixture.
    passed: OnceLock<Option<Passed>>,
    /// The most that any open may do. Who decides `passed` holds it.
    wanted: Mutex<Access>,
    /// Opens by execve(2).
    programs: AtomicUsize,
}

/// A program that runs keeps its file open.
pub(super) struct Program(Arc<InUse>);

/// A data file that the kernel has. It goes back to the store with this value.
struct Passed {
    /// What keeps it with the kernel. Gone before the store takes it back.
    hold: Option<Box<dyn Any + Send + Sync>>,
    store: Arc<Store>,
    id: NodeId,
}

impl InUse {
    pub fn new(cache: Arc<FileCache>) -> Self {
        Self {
            cache,
            passed: OnceLock::new(),
            wanted: Mutex::new(Access::Reads),
            programs: AtomicUsize::new(0),
        }
    }

    /// The file is executed until the answer is dropped.
    pub fn execute(self: &Arc<Self>) -> Program {
        self.programs.fetch_add(1, SeqCst);
        Program(Arc::clone(self))
    }

    /// Whether the file is a program that runs.
    pub fn is_executed(&self) -> bool {
        self.programs.load(SeqCst) > 0
    }

    /// One more open may do this. Whose data file the kernel has already: it has to be lent for this, too. Otherwise `pass_through`
    /// lends it for all.
    pub fn want(&self, access: Access) -> Option<NodeId> {
        let mut wanted = self.wanted.lock();
        *wanted = access.max(*wanted);
        Some(self.passed.get()?.as_ref()?.id)
    }

    /// What keeps the file's data file with the kernel. `lend` takes it from the store and gives it to the kernel, at the first
    /// call. If it does not, so it is for all later opens.
    pub fn pass_through<H: Any + Send + Sync>(
        &self,
        store: &Arc<Store>,
        lend: impl FnOnce(Access) -> Option<(NodeId, H)>,
    ) -> Option<&H> {
        let wanted = self.wanted.lock();
        let decide = || {
            let (id, hold) = lend(*wanted)?;
            let hold: Option<Box<dyn Any + Send + Sync>> = Some(Box::new(hold));
            self.cache.passed_through();
            let store = Arc::clone(store);
            Some(Passed { hold, store, id })
        };
        let passed = self.passed.get_or_init(decide).as_ref()?;
        passed.hold.as_ref()?.downcast_ref()
    }

    /// Whether the kernel serves the file by itself.
    pub fn is_passed_through(&self) -> bool {
        matches!(self.passed.get(), Some(Some(_)))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.programs.fetch_sub(1, SeqCst);
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        drop(self.hold.take());
        self.store.take_back(self.id);
    }
}
