//! A private view without a mount, for tests.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::node::Node;
use super::view::Private;
use crate::cache::{KernelCache, Timeouts};
use crate::chores::Chores;
use crate::config::{Config, StoreConfig};
use crate::inode::NodeTable;
use crate::store::{Base, Store};
use crate::view::Reporter;

/// A view of `source` with its changes in `directory`, which is made.
pub fn view_of(source: PathBuf, directory: PathBuf) -> (Private, Arc<NodeTable<Node>>) {
    std::fs::create_dir(&directory).unwrap();
    let base = Base {
        path: source.clone(),
        filesystem: String::new(),
        root: 1,
        born: None,
    };
    let store = Store::make_directory(&directory, &base).unwrap().0.store;
    let wanted = StoreConfig {
        directory: Some(directory.clone()),
        temporary: PathBuf::new(),
        limit: None,
        base_moved: false,
        on_source_change: Default::default(),
    };
    let (attr, entry) = (Duration::ZERO, Duration::ZERO);
    let (sender, _receiver) = channel();
    let reporter = Reporter {
        cache: KernelCache::new(Timeouts { attr, entry }),
        chores: Chores::new(sender),
    };
    let config = Config::unmounted(source);
    Private::open(&config, &wanted, reporter, store, (directory, false)).unwrap()
}
