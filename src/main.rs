//! `mmfs SRC MNT` and `mmfs VERB`.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use mmfs::config::Config;
use mmfs::daemon::Ready;
use mmfs::fs::Fs;
use mmfs::fuse::Adapter;
use mmfs::refusal::{ExitCode as Code, StartError};
use mmfs::sys::memory;
use mmfs::sys::process::{self, Inherited};
use mmfs::view::Tree;
use mmfs::view::private::Private;
use mmfs::view::shared::Shared;
use mmfs::{ask, cli, daemon, generate, log_report, logging, pid_file, session};

fn main() -> ExitCode {
    if let Some(code) = pid_file::remove_for_another() {
        return code.into();
    }
    memory::keep_one_arena();
    let args: Vec<OsString> = std::env::args_os().collect();
    match run(&args) {
        Ok(code) => code.into(),
        Err(error) => {
            let printed = error.print();
            cli::exit_code(&args, &error, printed).into()
        }
    }
}

fn run(args: &[OsString]) -> Result<Code, StartError> {
    // Only a background start needs the list. So without /proc, help is still printed.
    let inherited = Inherited::list();
    process::reset_sigchld();
    let options = match cli::Request::read(args.iter().cloned())? {
        cli::Request::Mount(options) => options,
        cli::Request::Check(mount_point) => return check(&mount_point).map(|()| Code::Success),
        cli::Request::Generate(directory) => {
            return generate::write(&directory).map(|()| Code::Success);
        }
        cli::Request::Verb(verb) => return verb.run(cli::command),
        cli::Request::Nothing => return Ok(Code::Success),
    };
    logging::start(&options.log()?)?;
    let config = options.resolve()?;
    daemon::start(&config, inherited, |ready| {
        let unreadable = |error| StartError::Filesystem(config.source.clone(), error);
        let Some(wanted) = &config.store else {
            let open = |reporter| Shared::open(&config, reporter);
            return serve(&config, ready, Fs::new(&config, open).map_err(unreadable)?);
        };
        let mut kept = session::open_store(wanted, &config)?;
        // Dropped last.
        let _removal = kept.removal();
        let place = (kept.directory, kept.sweeps);
        let open = |reporter| Private::open(&config, wanted, reporter, kept.store, place);
        let fs = Fs::new(&config, open).map_err(unreadable)?;
        let outcome = serve(&config, ready, fs.clone());
        if let Err(error) = fs.tree().end() {
            log::error!("the store was not closed: {error}");
        }
        outcome
    })
    .map(|()| Code::Success)
}

fn serve<T: Tree>(config: &Config, ready: &mut Ready, fs: Arc<Fs<T>>) -> Result<(), StartError> {
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

fn check(mount_point: &Path) -> Result<(), StartError> {
    let source = |path: &Path| ask::status(path).ok()?.source.path.path();
    session::preflight::check(mount_point, source)
}
