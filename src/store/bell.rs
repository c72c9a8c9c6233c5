//! How a barrier is asked for.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Wakes the keeper.
#[derive(Debug, Default)]
pub struct Bell {
    state: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Rung {
    #[default]
    No,
    Barrier,
    End,
}

impl Bell {
    /// A barrier is due.
    pub fn ring(&self) {
        let mut state = self.state.lock();
        if *state == Rung::No {
            *state = Rung::Barrier;
            self.changed.notify_all();
        }
    }

    /// There are no more barriers.
    pub fn end(&self) {
        *self.state.lock() = Rung::End;
        self.changed.notify_all();
    }

    /// Waits, not longer than this, for a barrier to be due. False: the end has come.
    pub fn wait(&self, most: Duration) -> bool {
        let mut state = self.state.lock();
        if *state == Rung::No {
            self.changed.wait_for(&mut state, most);
        }
        let goes_on = *state != Rung::End;
        if goes_on {
            *state = Rung::No;
        }
        goes_on
    }
}
