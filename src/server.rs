//! The daemon's work: opens the view, and serves it until the mount is gone.

use std::sync::Arc;

use crate::config::{Config, StoreConfig};
use crate::daemon::Ready;
use crate::fs::Fs;
use crate::fuse::Adapter;
use crate::log_report;
use crate::refusal::StartError;
use crate::session::{self, Kept};
use crate::view::Tree;
use crate::view::private::Private;
use crate::view::shared::Shared;

/// Serves the mount of `config`.
///
/// # Errors
/// The sentence that says why the mount failed, or why it ended early.
pub fn serve(config: &Config, ready: &mut Ready) -> Result<(), StartError> {
    let Some(wanted) = &config.store else {
        let open = |reporter| Shared::open(config, reporter);
        let fs = Fs::new(config, open);
        let fs = fs.map_err(|error| StartError::Filesystem(config.source.clone(), error))?;
        return serve_view(config, ready, fs);
    };
    let kept = session::open_store(wanted, config)?;
    serve_private(config, (wanted, kept), ready)
}

/// Serves the mount of `config` as a private view with an open store.
///
/// # Errors
/// The sentence that says why the mount failed, or why it ended early.
pub fn serve_private(
    config: &Config,
    (wanted, mut kept): (&StoreConfig, Kept),
    ready: &mut Ready,
) -> Result<(), StartError> {
    // Dropped last.
    let _removal = kept.removal();
    let place = (kept.directory, kept.sweeps);
    let open = |reporter| Private::open(config, wanted, reporter, kept.store, place);
    let fs = Fs::new(config, open);
    let fs = fs.map_err(|error| StartError::Filesystem(config.source.clone(), error))?;
    let outcome = serve_view(config, ready, fs.clone());
    if let Err(error) = fs.tree().end() {
        log::error!("the store was not closed: {error}");
    }
    outcome
}

fn serve_view<T: Tree>(
    config: &Config,
    ready: &mut Ready,
    fs: Arc<Fs<T>>,
) -> Result<(), StartError> {
    let adapter = Adapter::new(fs.clone(), config);
    let facts = adapter.facts();
    let (channel, watched) = (adapter.channel(), adapter.channel());
    let answers = |answering: session::Answering| {
        facts.begin(answering.features);
        if let Some(device) = answering.device {
            fs.set_own_device(device);
        }
        fs.begin(answering.kernel)
            .map_err(|error| StartError::System("start a thread", error))?;
        log_report::watch(watched).map_err(|error| StartError::System("start a thread", error))?;
        ready.announce(config)
    };
    let outcome = session::serve(config, adapter, answers, move || log_report::all(&channel));
    // `destroy` of the adapter has not run if event loops still wait for a source that does not answer.
    fs.settle();
    outcome
}
