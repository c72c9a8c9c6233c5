//! What all opens of one file share: what the kernel has of it, and whether the kernel serves it by itself (`--passthrough`).

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use crate::cache::FileCache;
use crate::store::{NodeId, Store};

/// A file that is open.
pub(super) struct InUse {
    pub cache: Arc<FileCache>,
    /// Decided at the first open, for all until the last one is closed: the kernel takes no mixture.
    passed: OnceLock<Option<Passed>>,
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

    /// Whose data file the kernel has, and what keeps it there. `lend` takes it from the store and gives it to the kernel, at the
    /// first call. If it does not, so it is for all later opens.
    pub fn pass_through<H: Any + Send + Sync>(
        &self,
        store: &Arc<Store>,
        lend: impl FnOnce() -> Option<(NodeId, H)>,
    ) -> Option<(NodeId, &H)> {
        let decide = || {
            let (id, hold) = lend()?;
            let hold: Option<Box<dyn Any + Send + Sync>> = Some(Box::new(hold));
            self.cache.passed_through();
            let store = Arc::clone(store);
            Some(Passed { hold, store, id })
        };
        let passed = self.passed.get_or_init(decide).as_ref()?;
        Some((passed.id, passed.hold.as_ref()?.downcast_ref()?))
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
