//! Runs jobs while the view may serve requests (`Fs::serving`).

use crate::dispatch::{Dispatch, Gauge};
use crate::fs::Fs;
use crate::view::Tree;
use std::sync::Arc;

/// As [`Dispatch`]. A job that waits for giving up changes has not begun.
#[derive(Debug)]
pub struct Gated<T: Tree>(Dispatch<Fs<T>>);

fn gated<T: Tree>(
    job: impl FnOnce(&Arc<Fs<T>>) + Send + 'static,
) -> impl FnOnce(&Arc<Fs<T>>) + Send {
    move |fs| {
        let _serving = fs.serving();
        job(fs);
    }
}

impl<T: Tree> Gated<T> {
    /// See [`Dispatch::new`].
    pub fn new(fs: Arc<Fs<T>>, threads: usize) -> Self {
        Self(Dispatch::new(fs, threads))
    }

    /// See [`Dispatch::content`].
    pub fn content(&self, node: u64, job: impl FnOnce(&Arc<Fs<T>>) + Send + 'static) {
        self.0.content(node, gated(job));
    }

    /// See [`Dispatch::content_with`].
    pub fn content_with(
        &self,
        node: u64,
        bytes: &[u8],
        job: impl FnOnce(&Arc<Fs<T>>, &[u8]) + Send + 'static,
    ) {
        self.0.content_with(node, bytes, |fs, bytes| {
            let _serving = fs.serving();
            job(fs, bytes);
        });
    }

    /// See [`Dispatch::tree`].
    pub fn tree(&self, node: u64, job: impl FnOnce(&Arc<Fs<T>>) + Send + 'static) {
        self.0.tree(node, gated(job));
    }

    /// See [`Dispatch::tree_after`]. `wait` waits for requests, so it keeps nobody from giving up changes.
    pub fn tree_after(
        &self,
        node: u64,
        wait: impl FnOnce(&Arc<Fs<T>>) + Send + 'static,
        job: impl FnOnce(&Arc<Fs<T>>) + Send + 'static,
    ) {
        self.0.tree_after(node, wait, gated(job));
    }

    /// See [`Dispatch::any`].
    pub fn any(&self, job: impl FnOnce(&Arc<Fs<T>>) + Send + 'static) {
        self.0.any(gated(job));
    }

    /// See [`Dispatch::gauge`].
    pub fn gauge(&self) -> Gauge {
        self.0.gauge()
    }
}
