//! The command line: argv → [`Options`] (as typed) → [`Config`] (as meant, checked), or a [`Verb`].

mod mount_options;
mod size;
#[cfg(test)]
mod tests;
mod verbs;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueHint;
use clap::error::ErrorKind;
use clap::{ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches, Parser, ValueEnum};

use crate::config::{Access, Config, LogConfig, MountFlags, WritePath};
use crate::descriptors::{most_threads, raise_limit};
use crate::init;
use crate::refusal::StartError;
use crate::session::preflight;
use crate::version::{self, VERSION};

pub use verbs::Verb;

const AFTER_HELP: &str = "\
SIGINT, SIGTERM and SIGQUIT unmount. Files still open are served for 30 s more, or until a second signal.
SIGHUP opens the log file anew. SIGUSR1 writes the state of the mount to the log. SIGUSR2 is ignored.
Exit codes: 0 success, 1 refused or failed, 2 usage error.";

/// The command line as typed. The first paragraph of an option's comment is its line in `-h`. The whole comment is its
/// description in `--help`, in the manual page and in docs/configuration.md (`cargo run --example generate -- --publish`).
#[derive(Debug, Parser)]
#[command(
    name = "mmfs",
    version = VERSION,
    about = "Show the directory SRC at MNT, its files served from memory maps",
    override_usage = "mmfs [OPTIONS] <SRC> <MNT>\n       mmfs <VERB> [OPTIONS] <OBJECT>...",
    after_help = AFTER_HELP,
    after_long_help = format!("{}\n\n{AFTER_HELP}", mount_options::notes()),
    args_override_self = true,
    disable_help_flag = true,
    disable_version_flag = true
)]
pub struct Options {
    /// Directory to show
    #[arg(value_name = "SRC", value_hint = ValueHint::DirPath)]
    source: PathBuf,
    /// Directory to show it at
    ///
    /// /dev/fd/N is a mounted /dev/fuse that was left open for mmfs (mount.fuse3 -o drop_privileges).
    #[arg(value_name = "MNT", value_hint = ValueHint::DirPath)]
    mount_point: PathBuf,
    /// Stay in the foreground and log to standard error.
    ///
    /// Without it, mmfs goes to the background once the mount answers, and logs to the journal or to syslog.
    #[arg(short, long)]
    foreground: bool,
    /// Mount options, separated by commas; --help lists them.
    #[arg(
        short = 'o',
        value_name = "NAME[=VALUE],...",
        long_help = mount_options::description()
    )]
    mount_options: Option<OsString>,
    /// Refuse every change through the mount, and leave the source's access times alone.
    #[arg(short, long, overrides_with = "read_write")]
    read_only: bool,
    #[arg(long, hide = true, overrides_with = "read_only")]
    read_write: bool,
    #[arg(long, hide = true, value_enum, action = ArgAction::Append)]
    mount_flag: Vec<MountFlag>,
    /// Let all users access the mount.
    ///
    /// The kernel checks the files' own permissions.
    #[arg(long, conflicts_with = "allow_root")]
    allow_other: bool,
    /// Let root access the mount, besides the mounting user.
    #[arg(long)]
    allow_root: bool,
    /// Unmount even if mmfs is killed.
    ///
    /// fusermount3 makes the mount, and unmounts it when mmfs has ended.
    #[arg(long)]
    auto_unmount: bool,
    /// Worker threads, 1-256. Default: one per CPU, at least 5, at most 16.
    ///
    /// They are fewer by default where a process may open only few files (ulimit -Hn).
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = size::threads)]
    threads: Option<u16>,
    /// How many bytes of a file one map covers (K, M, G, T).
    ///
    /// A multiple of the page size, at least 64K. More than an eighth of the map budget is reduced to that.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "1G",
        allow_negative_numbers = true,
        value_parser = size::window_size
    )]
    window_size: u64,
    /// How many bytes of address space all maps may take (K, M, G, T).
    ///
    /// Default: the physical memory, but at most half of what RLIMIT_AS leaves.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = size::size)]
    map_budget: Option<u64>,
    /// How writes that do not extend the file reach it.
    ///
    /// region: through the mapping. auto: through the mapping or by pwrite, whichever is faster.
    #[arg(
        long,
        value_name = "auto|region",
        default_value = "auto",
        hide_possible_values = true
    )]
    write_path: WritePath,
    /// Sync a written file when its last writer closes it.
    ///
    /// That close waits until the device has the data.
    #[arg(long)]
    sync_on_close: bool,
    /// How long the kernel caches attributes, in seconds.
    #[arg(
        long,
        value_name = "S",
        default_value = "1",
        allow_negative_numbers = true,
        value_parser = size::seconds
    )]
    attr_timeout: Duration,
    /// How long the kernel caches names, in seconds.
    #[arg(
        long,
        value_name = "S",
        default_value = "1",
        allow_negative_numbers = true,
        value_parser = size::seconds
    )]
    entry_timeout: Duration,
    /// Bypass the kernel's page cache.
    #[arg(long)]
    direct_io: bool,
    /// Let the kernel read and write open files by itself, where it can.
    ///
    /// Needs Linux 6.9 and root.
    #[arg(long, conflicts_with = "direct_io")]
    passthrough: bool,
    /// First column of /proc/mounts. Default: SRC.
    #[arg(long, value_name = "NAME", value_parser = not_empty())]
    fsname: Option<OsString>,
    /// The filesystem type shows as fuse.NAME.
    #[arg(long, value_name = "NAME", default_value = "mmfs", value_parser = not_empty())]
    subtype: OsString,
    /// Append log lines to FILE.
    ///
    /// SIGHUP opens it anew. Default: standard error with -f; else the journal, or syslog where there is no journal.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    log: Option<PathBuf>,
    /// Write the process id to FILE, and remove FILE at the end.
    ///
    /// A PID file that is there is replaced, anything else is refused.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pidfile: Option<PathBuf>,
    /// Log more: -v information, -vv debugging, -vvv each request and its answer.
    ///
    /// The variable RUST_LOG overrides this.
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Log less: -q errors, -qq nothing.
    ///
    /// The variable RUST_LOG overrides this.
    #[arg(short, long, action = ArgAction::Count)]
    quiet: u8,
    /// Only test whether the mount at MNT answers: exit code 0 or 1.
    ///
    /// It fails, too, if the source directory was removed, also if it was made anew; not if it was renamed. It takes at
    /// most ten seconds, and thirteen more for a removed source.
    #[arg(long, value_name = "MNT", exclusive = true, value_hint = ValueHint::DirPath)]
    check: Option<PathBuf>,
    /// Write manual pages and completions into DIRECTORY.
    #[arg(long, hide = true, value_name = "DIRECTORY", exclusive = true)]
    generate: Option<PathBuf>,
    /// Print help: -h in short, --help in full.
    #[arg(short, long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Print the version.
    ///
    /// With -v, also the features of this kernel that mmfs uses.
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// To mount.
    Mount(Box<Options>),
    /// Whether the mount there answers.
    Check(PathBuf),
    /// To write manual pages and completions into this directory.
    Generate(PathBuf),
    /// What a verb does.
    Verb(Verb),
}

/// All that can be typed: what mounts, with its options, and every verb.
pub fn command() -> Command {
    verbs::add_to(Options::command())
}

impl Request {
    /// Reads argv (program name first).
    ///
    /// # Errors
    /// [`StartError::Usage`], which also carries the answers to `--help` and `--version`.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, StartError> {
        let args: Vec<OsString> = args.into_iter().collect();
        if let Some(name) = verbs::asked_for(&args) {
            verbs::warn_of_directory(name);
            return Ok(Self::Verb(verbs::read(command(), args)?));
        }
        let mut options = Options::command();
        let first = args.get(1).cloned().unwrap_or_default();
        let args = mount_options::expand(&mut options, args)
            .inspect_err(|_| verbs::hint_at_dashes(&first))?;
        // A source named like a verb is read by a parser that knows no verbs. The other one's help shows them.
        let command = match args.get(1).is_some_and(|first| verbs::is_name(first)) {
            true => options,
            false => command(),
        };
        let matches = parse(command, args)?;
        let path = |option| matches.get_one::<PathBuf>(option).cloned();
        Ok(match (path("check"), path("generate")) {
            (Some(mount_point), _) => Self::Check(mount_point),
            (_, Some(directory)) => Self::Generate(directory),
            _ => Self::Mount(Box::new(Options::from_arg_matches(&matches)?)),
        })
    }
}

/// clap answers `--version` as soon as it meets it, so a `-v` beside it is looked for here.
fn parse(mut command: Command, args: Vec<OsString>) -> Result<ArgMatches, clap::Error> {
    let verbose = args.iter().any(|arg| is_verbose(arg));
    match command.try_get_matches_from_mut(args.clone()) {
        Err(error) if verbose && error.kind() == ErrorKind::DisplayVersion => command
            .version(version::in_detail())
            .try_get_matches_from(args),
        result => result,
    }
}

/// `--verbose`, or a cluster of letters with a `v`: `-vV`.
fn is_verbose(arg: &OsStr) -> bool {
    let letters = arg.as_encoded_bytes().strip_prefix(b"-");
    arg == "--verbose"
        || letters.is_some_and(|letters| !letters.starts_with(b"-") && letters.contains(&b'v'))
}

/// mount(8)'s switches with two positions.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "lower")]
enum MountFlag {
    Exec,
    NoExec,
    Suid,
    NoSuid,
    Dev,
    NoDev,
    Atime,
    NoAtime,
    Sync,
    Async,
    DirSync,
}

/// Accepts every value that is not empty.
fn not_empty() -> impl clap::builder::TypedValueParser<Value = OsString> {
    use clap::builder::{OsStringValueParser, TypedValueParser};
    OsStringValueParser::new().try_map(|value| match value.is_empty() {
        true => Err("a name has at least one character"),
        false => Ok(value),
    })
}

impl Options {
    /// Where log lines go.
    ///
    /// # Errors
    /// The sentence for a relative path in a directory that was removed.
    pub fn log(&self) -> Result<LogConfig, StartError> {
        let file = self.log.as_deref();
        Ok(LogConfig {
            file: file.map(absolute(StartError::Log)).transpose()?,
            verbosity: (i16::from(self.verbose) - i16::from(self.quiet)).clamp(-9, 9) as i8,
            foreground: self.foreground || init::is_first(),
        })
    }

    /// The checked form. Looks at both paths, and clears a dead mount of ours off the mount point.
    ///
    /// # Errors
    /// The sentence for whatever is wrong with either path.
    pub fn resolve(self) -> Result<Config, StartError> {
        let source = preflight::source(&self.source);
        let source = source.inspect_err(|_| verbs::hint_at(self.source.as_os_str()))?;
        let mount_point = preflight::mount_point(&self.mount_point)?;
        let flags = self.flags();
        let leaves_atime = flags.read_only || flags.no_atime;
        preflight::order(&source, &mount_point, leaves_atime)?;
        let limit = raise_limit();
        let threads = self
            .threads
            .map_or_else(|| default_threads(limit), usize::from);
        preflight::descriptors(limit, threads)?;
        let pid_file = self.pidfile.as_deref();
        Ok(Config {
            access: self.access(),
            flags,
            log: self.log()?,
            pid_file: pid_file.map(absolute(StartError::PidFile)).transpose()?,
            foreground: self.foreground,
            auto_unmount: self.auto_unmount,
            threads,
            window_size: self.window_size,
            map_budget: self.map_budget,
            write_path: self.write_path,
            sync_on_close: self.sync_on_close,
            attr_timeout: self.attr_timeout,
            entry_timeout: self.entry_timeout,
            direct_io: self.direct_io,
            passthrough: self.passthrough,
            fsname: self.fsname.unwrap_or_else(|| source.clone().into()),
            subtype: self.subtype,
            source,
            mount_point,
        })
    }

    fn access(&self) -> Access {
        match (self.allow_other, self.allow_root) {
            (true, _) => Access::Everyone,
            (_, true) => Access::OwnerAndRoot,
            _ => Access::Owner,
        }
    }

    /// Later flags win. Like libfuse, nosuid and nodev unless asked otherwise.
    fn flags(&self) -> MountFlags {
        let mut flags = MountFlags {
            no_suid: true,
            no_dev: true,
            ..MountFlags::default()
        };
        flags.read_only = self.read_only;
        for flag in &self.mount_flag {
            match flag {
                MountFlag::Exec => flags.no_exec = false,
                MountFlag::NoExec => flags.no_exec = true,
                MountFlag::Suid => flags.no_suid = false,
                MountFlag::NoSuid => flags.no_suid = true,
                MountFlag::Dev => flags.no_dev = false,
                MountFlag::NoDev => flags.no_dev = true,
                MountFlag::Atime => flags.no_atime = false,
                MountFlag::NoAtime => flags.no_atime = true,
                MountFlag::Sync => flags.sync = true,
                MountFlag::Async => flags.sync = false,
                MountFlag::DirSync => flags.dir_sync = true,
            }
        }
        flags
    }
}

/// Names the same file, wherever the working directory moves later.
fn absolute(
    refused: fn(PathBuf, io::Error) -> StartError,
) -> impl Fn(&Path) -> Result<PathBuf, StartError> {
    move |file| std::path::absolute(file).map_err(|error| refused(file.into(), error))
}

/// One per CPU, but enough that slow requests do not delay quick ones; fewer where only `limit` files may be open.
fn default_threads(limit: usize) -> usize {
    let wanted = std::thread::available_parallelism()
        .map_or(4, usize::from)
        .clamp(5, 16);
    wanted.min(most_threads(limit))
}
