//! Files that clients may have mapped for writing. Their stores stay in the kernel's pages for a while, and no request tells
//! mmfs.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Nodes open for reading and writing, which a shared writable mapping requires, with the number of such opens.
#[derive(Debug, Default)]
pub struct Stores(Mutex<HashMap<u64, usize>>);

/// One open by which a client may map a file and store into it. The kernel sends RELEASE after the last munmap(2).
#[derive(Debug)]
pub struct Storing {
    all: Arc<Stores>,
    node: u64,
}

impl Stores {
    pub fn add(this: &Arc<Self>, node: u64) -> Storing {
        *this.0.lock().entry(node).or_default() += 1;
        let all = this.clone();
        Storing { all, node }
    }

    pub fn contain(&self, node: u64) -> bool {
        self.0.lock().contains_key(&node)
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(opens) = all.get_mut(&self.node) {
            *opens -= 1;
            if *opens == 0 {
                all.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_counts_until_its_last_such_open_ends() {
        let all = Arc::<Stores>::default();
        let (first, second) = (Stores::add(&all, 7), Stores::add(&all, 7));
        drop(first);
        assert!(all.contain(7) && !all.contain(8));
        drop(second);
        assert!(!all.contain(7));
    }
}
