//! Copying a file of the source as a whole into the store.

use rustix::io::{Errno, Result};

use super::content::OpenFile;
use super::layers::{errno, to_store};
use crate::attr::Time;
use crate::config::OnSourceChange;
use crate::store::{NodeId, SourceState};

/// How often a copy begins anew because the source's file was changed meanwhile.
const MAX_TRIES: usize = 10;

impl OpenFile {
    /// Copies the source's file, which was so just now. A copy of a file that changes meanwhile would be of no one moment: it begins
    /// anew.
    ///
    /// # Errors
    /// EIO if the file changes during each copy.
    pub(super) fn copy_whole(&self, id: NodeId, mut state: Option<SourceState>) -> Result<()> {
        let layers = &self.layers;
        let may_mix = layers.on_source_change == OnSourceChange::Follow;
        for _ in 0..MAX_TRIES {
            let mtime = state.map_or_else(|| to_store(Time::now()), |state| state.mtime);
            let mut now = state;
            let mut source = |at, to: &mut [u8]| {
                self.read_source(at, to)?;
                now = layers.source_state(&self.node)?;
                match now == state || may_mix {
                    true => Ok(()),
                    false => Err(Errno::IO.into()),
                }
            };
            let copied = layers.store.make_whole(id, state, mtime, &mut source);
            if copied.is_ok() || now == state {
                return copied.map_err(errno);
            }
            state = now;
        }
        Err(Errno::IO)
    }
}
