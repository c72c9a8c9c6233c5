//! `mmfs SRC MNT` and `mmfs VERB`.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use mmfs::refusal::{ExitCode as Code, StartError};
use mmfs::sys::memory;
use mmfs::sys::process::{self, Inherited};
use mmfs::{ask, cli, daemon, generate, logging, pid_file, server, session};

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

fn run(args: &[OsString]) -> Result<u8, StartError> {
    // Only a background start needs the list. So without /proc, help is still printed.
    let inherited = Inherited::list();
    process::reset_sigchld();
    let options = match cli::Request::read(args.iter().cloned())? {
        cli::Request::Mount(options) => options,
        cli::Request::Check(mount_point) => {
            return check(&mount_point).map(|()| Code::Success as u8);
        }
        cli::Request::Generate(directory) => {
            return generate::write(&directory).map(|()| Code::Success as u8);
        }
        cli::Request::Verb(verb) => return verb.run(cli::command),
        cli::Request::Nothing => return Ok(Code::Success as u8),
    };
    logging::start(&options.log()?)?;
    let config = options.resolve()?;
    daemon::start(&config, inherited, |ready| server::serve(&config, ready))
        .map(|()| Code::Success as u8)
}

fn check(mount_point: &Path) -> Result<(), StartError> {
    let source = |path: &Path| ask::status(path).ok()?.source.path.path();
    session::preflight::check(mount_point, source)
}
