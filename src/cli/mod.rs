//! The command line: argv → [`Options`] (as typed) → [`Config`] (checked), or a [`Verb`].

mod absolute;
mod commit_options;
mod discard_options;
mod mount_flag;
mod mount_helper;
mod mount_options;
mod run_options;
mod similar;
mod size;
mod store_options;
#[cfg(test)]
mod tests;
pub mod topics;
mod verbs;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches, Parser, ValueHint};

use crate::config::{Access, Config, LogConfig, MountFlags, WritePath};
use crate::descriptors::{default_threads, raise_limit};
use crate::init;
use crate::refusal::{ExitCode, StartError};
use crate::session::{preflight, store_place};
use crate::version::{self, VERSION};

use absolute::absolute;
use mount_flag::MountFlag;
use mount_options::Unknown;
use store_options::StoreOptions;
pub use verbs::Verb;

const ABOUT: &str = "Show the directory SRC at MNT, its files served from memory maps";
const LONG_ABOUT: &str = "\
mmfs is a FUSE filesystem. Writes through the mount reach SRC at once, and what others change in SRC shows in the mount. With \
--private or --ephemeral, writes reach a store, and SRC stays as it is. mmfs goes to the background when the mount answers. \
mmfs unmount MNT ends it.";

const AFTER_HELP: &str = "\
mmfs help lists the verbs and more to read: mount options, signals, exit codes, examples.";

/// Where `-h` has its options. `--help` and the manual page have them in groups.
const SHORT_HEADING: &str = "Options (mmfs --help has all of them, explained)";

/// The command line as typed. The first paragraph of an option's comment is its line in `-h`. The whole comment is its
/// description in `--help`, in the manual page and in docs/configuration.md (`cargo run --example generate -- --publish`).
/// `-h` fits on a screen of 24 lines, so it has the most important options only: the others have `hide_short_help`.
#[derive(Debug, Parser)]
#[command(
    name = "mmfs",
    version = VERSION,
    about = ABOUT,
    long_about = format!("{ABOUT}.\n\n{LONG_ABOUT}"),
    override_usage = "mmfs [OPTIONS] <SRC> <MNT>\n       mmfs <VERB> [OPTIONS] <OBJECT>...",
    after_long_help = AFTER_HELP,
    args_override_self = true,
    disable_help_flag = true,
    disable_version_flag = true
)]
pub struct Options {
    /// Directory to show
    #[arg(value_name = "SRC", value_hint = ValueHint::DirPath, hide_short_help = true)]
    source: PathBuf,
    /// Directory to show it at.
    ///
    /// /dev/fd/N is a mounted /dev/fuse that was left open for mmfs, as mount.fuse3 does with -o drop_privileges.
    #[arg(value_name = "MNT", value_hint = ValueHint::DirPath, hide_short_help = true)]
    mount_point: PathBuf,
    /// Refuse every change through the mount.
    ///
    /// The source's access times stay as they are.
    #[arg(short, long, overrides_with = "read_write", help_heading = "Access")]
    read_only: bool,
    #[arg(long, hide = true, overrides_with = "read_only")]
    read_write: bool,
    #[arg(long, hide = true, value_enum, action = ArgAction::Append)]
    mount_flag: Vec<MountFlag>,
    /// Let all users access the mount.
    ///
    /// The kernel checks the files' own permissions. Root's private view takes only a store that root alone may write.
    #[arg(long, conflicts_with = "allow_root", help_heading = "Access")]
    allow_other: bool,
    /// Let root access the mount, besides the mounting user.
    #[arg(long, help_heading = "Access", hide_short_help = true)]
    allow_root: bool,
    #[command(flatten)]
    store: StoreOptions,
    /// Stay in the foreground and log to standard error.
    ///
    /// Without it, mmfs goes to the background once the mount answers, and logs to the journal or to syslog.
    #[arg(short, long, help_heading = "Start and end", hide_short_help = true)]
    foreground: bool,
    /// Unmount even if mmfs is killed.
    ///
    /// fusermount3 makes the mount, and unmounts it when mmfs has ended.
    #[arg(long, help_heading = "Start and end", hide_short_help = true)]
    auto_unmount: bool,
    /// Write the process id to FILE, and remove FILE at the end.
    ///
    /// A PID file that is there is replaced, anything else is refused.
    #[arg(
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        help_heading = "Start and end",
        hide_short_help = true
    )]
    pidfile: Option<PathBuf>,
    /// Only test whether the mount at MNT answers.
    ///
    /// The exit code is 0 or 1. It fails, too, if the source directory was removed, also if it was made anew; not if it was
    /// renamed. It takes at most ten seconds, and thirteen more for a removed source.
    #[arg(
        long,
        value_name = "MNT",
        exclusive = true,
        value_hint = ValueHint::DirPath,
        help_heading = "Start and end",
        hide_short_help = true
    )]
    check: Option<PathBuf>,
    /// How long the kernel caches attributes, in seconds.
    #[arg(
        long,
        value_name = "S",
        default_value = "1",
        allow_negative_numbers = true,
        value_parser = size::seconds,
        help_heading = "Kernel cache",
        hide_short_help = true
    )]
    attr_timeout: Duration,
    /// How long the kernel caches names, in seconds.
    #[arg(
        long,
        value_name = "S",
        default_value = "1",
        allow_negative_numbers = true,
        value_parser = size::seconds,
        help_heading = "Kernel cache",
        hide_short_help = true
    )]
    entry_timeout: Duration,
    /// Bypass the kernel's page cache.
    #[arg(long, help_heading = "Kernel cache", hide_short_help = true)]
    direct_io: bool,
    /// Let the kernel read and write open files by itself.
    ///
    /// Where it cannot, mmfs does. Needs Linux 6.9 and root.
    #[arg(
        long,
        conflicts_with = "direct_io",
        help_heading = "Kernel cache",
        hide_short_help = true
    )]
    passthrough: bool,
    /// How many bytes of a file one map covers (K, M, G, T).
    ///
    /// A multiple of the page size, at least 64K. More than an eighth of the map budget is reduced to that.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "1G",
        allow_negative_numbers = true,
        value_parser = size::window_size,
        help_heading = "Maps and writes",
        hide_short_help = true
    )]
    window_size: u64,
    /// How many bytes of address space all maps may take (K, M, G, T).
    ///
    /// At least 2M. Default: the physical memory, but at most half of what RLIMIT_AS leaves.
    #[arg(
        long,
        value_name = "SIZE",
        allow_negative_numbers = true,
        value_parser = size::map_budget,
        help_heading = "Maps and writes",
        hide_short_help = true
    )]
    map_budget: Option<u64>,
    /// How writes that do not extend the file reach it.
    ///
    /// region: through the mapping. auto: through the mapping or by pwrite, whichever is faster.
    #[arg(
        long,
        value_name = "auto|region",
        default_value = "auto",
        hide_possible_values = true,
        help_heading = "Maps and writes",
        hide_short_help = true
    )]
    write_path: WritePath,
    /// Sync a written file when its last writer closes it.
    ///
    /// That close waits until the device has the data.
    #[arg(long, help_heading = "Maps and writes", hide_short_help = true)]
    sync_on_close: bool,
    /// Worker threads, 1-256. Default: one per CPU, at least 5, at most 16.
    ///
    /// They are fewer by default where a process may open only few files (ulimit -Hn).
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = size::threads,
        help_heading = "Maps and writes",
        hide_short_help = true
    )]
    threads: Option<u16>,
    /// First column of /proc/mounts. Default: SRC.
    ///
    /// mount -a compares the first column of fstab with it, so a line of fstab leaves this out.
    #[arg(
        long,
        value_name = "NAME",
        value_parser = not_empty(),
        help_heading = "Names and logs",
        hide_short_help = true
    )]
    fsname: Option<OsString>,
    /// The filesystem type shows as fuse.NAME.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "mmfs",
        value_parser = not_empty(),
        help_heading = "Names and logs",
        hide_short_help = true
    )]
    subtype: OsString,
    /// Append log lines to FILE.
    ///
    /// SIGHUP opens it anew. Default: standard error with -f; else the journal, or syslog where there is no journal.
    #[arg(
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        help_heading = "Names and logs",
        hide_short_help = true
    )]
    log: Option<PathBuf>,
    /// Log more: -v information, -vv debugging, -vvv requests.
    ///
    /// No effect if the variable RUST_LOG is set.
    #[arg(short, long, action = ArgAction::Count, help_heading = "Names and logs")]
    verbose: u8,
    /// Log less: -q errors, -qq nothing.
    ///
    /// No effect if the variable RUST_LOG is set.
    #[arg(
        short,
        long,
        action = ArgAction::Count,
        help_heading = "Names and logs",
        hide_short_help = true
    )]
    quiet: u8,
    /// Mount options: mmfs help mount-options lists them.
    #[arg(
        short = 'o',
        value_name = "NAME[=VALUE],...",
        long_help = mount_options::description(),
        help_heading = "mount(8)"
    )]
    mount_options: Option<OsString>,
    /// Write manual pages and completions into DIRECTORY.
    #[arg(long, hide = true, value_name = "DIRECTORY", exclusive = true)]
    generate: Option<PathBuf>,
    /// Print help: -h in short, --help in full.
    #[arg(short, long, action = ArgAction::Help, help_heading = "Help")]
    help: Option<bool>,
    /// Print the version.
    ///
    /// With -v, also the features of this kernel that mmfs uses.
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = "Help", hide_short_help = true)]
    version: Option<bool>,
}

/// The action that the command line requests.
#[derive(Debug)]
pub enum Request {
    /// Mount.
    Mount(Box<Options>),
    /// Check whether the mount at this path answers.
    Check(PathBuf),
    /// Write manual pages and completions into this directory.
    Generate(PathBuf),
    /// Run a verb.
    Verb(Verb),
    /// Nothing: `mount -f`.
    Nothing,
}

/// The exit code for `error`, after its sentence or help was printed. mount(8) has codes of its own for its helpers, and `mmfs run` has
/// one that few commands have.
pub fn exit_code(args: &[OsString], error: &StartError, printed: io::Result<()>) -> u8 {
    match error.exit_code_after(printed) {
        code if code != ExitCode::Success && verbs::asked_for(args) == Some(verbs::RUN) => {
            ExitCode::RunFailed as u8
        }
        code if code == error.exit_code() && mount_helper::is_helper(args) => {
            mount_helper::exit_code(error)
        }
        code => code as u8,
    }
}

/// The whole command line: the options for mounting, and all verbs.
pub fn command() -> Command {
    verbs::add_to(Options::command())
}

impl Request {
    /// Reads argv (program name first).
    ///
    /// # Errors
    /// [`StartError::Usage`], which also carries the answers to `--help` and `--version`.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, StartError> {
        let mut args: Vec<OsString> = args.into_iter().collect();
        let mut unknown = Unknown::Refused;
        if mount_helper::is_helper(&args) {
            match mount_helper::command_line(args)? {
                Some(meant) => (args, unknown) = meant,
                None => return Ok(Self::Nothing),
            }
        }
        if let Some(name) = verbs::asked_for(&args) {
            // After `run`, two dashes leave no doubt.
            if name != verbs::RUN || !args.iter().any(|arg| arg == "--") {
                verbs::warn_of_directory(name);
            }
            return Ok(Self::Verb(verbs::read(command(), args)?));
        }
        let mut options = Options::command();
        let first = args.get(1).cloned().unwrap_or_default();
        let args = mount_options::expand(&mut options, args, unknown)
            .inspect_err(|_| verbs::hint_at_dashes(&first))?;
        // If the source is named like a verb, the parser must not know the verbs. Otherwise it must, so that its help lists them.
        let command = match args.get(1).is_some_and(|first| verbs::is_name(first)) {
            true => options,
            false => command(),
        };
        let matches = parse(shortened(command, &args), args)?;
        let path = |option| matches.get_one::<PathBuf>(option).cloned();
        Ok(match (path("check"), path("generate")) {
            (Some(mount_point), _) => Self::Check(mount_point),
            (_, Some(directory)) => Self::Generate(directory),
            _ => {
                let options = Options::from_arg_matches(&matches)?;
                if let Some(wrong) = options.store.wrong(options.passthrough) {
                    let error = Options::command().error(ErrorKind::ArgumentConflict, wrong);
                    return Err(error.into());
                }
                Self::Mount(Box::new(options))
            }
        })
    }
}

/// `command` with all options under one heading, unless the long help is asked for: groups take more than a screen.
fn shortened(command: Command, args: &[OsString]) -> Command {
    match args.iter().any(|arg| arg == "--help") {
        true => command,
        false => command.mut_args(|arg| arg.help_heading(SHORT_HEADING)),
    }
}

/// Parses `args`. clap answers `--version` before it has read all arguments, so this function looks for `-v` itself.
fn parse(mut command: Command, args: Vec<OsString>) -> Result<ArgMatches, clap::Error> {
    let verbose = args.iter().any(|arg| is_verbose(arg));
    match command.try_get_matches_from_mut(args.clone()) {
        Err(error) if verbose && error.kind() == ErrorKind::DisplayVersion => command
            .version(version::in_detail())
            .try_get_matches_from(args),
        Err(mut error) => {
            similar::propose_no_hidden(&command, &mut error);
            Err(error)
        }
        found => found,
    }
}

/// `--verbose`, or a cluster of letters with a `v`: `-vV`.
fn is_verbose(arg: &OsStr) -> bool {
    let letters = arg.as_encoded_bytes().strip_prefix(b"-");
    arg == "--verbose"
        || letters.is_some_and(|letters| !letters.starts_with(b"-") && letters.contains(&b'v'))
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

    /// The checked form. Checks both paths, and unmounts a dead mount of mmfs at the mount point.
    ///
    /// # Errors
    /// The sentence that says what is wrong with one of the paths.
    pub fn resolve(self) -> Result<Config, StartError> {
        let source = preflight::source(&self.source);
        let source = source.inspect_err(|error| verbs::hint_at(self.source.as_os_str(), error))?;
        let mount_point = preflight::mount_point(&self.mount_point)?;
        let mut flags = self.flags();
        let leaves_atime = flags.read_only || flags.no_atime;
        preflight::order(&source, &mount_point, leaves_atime)?;
        let store = self.store.config()?;
        if let Some(store) = &store {
            store_place::check(store, (&source, &mount_point), self.access(), &mut flags)?;
        }
        let limit = raise_limit();
        let threads = self
            .threads
            .map_or_else(|| default_threads(limit), usize::from);
        preflight::descriptors(limit, threads)?;
        let pid_file = self.pidfile.as_deref();
        Ok(Config {
            access: self.access(),
            store,
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

    /// Of two opposite flags, the later one wins. nosuid and nodev are the default, as in libfuse.
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
                MountFlag::SymFollow => flags.no_symfollow = false,
                MountFlag::NoSymFollow => flags.no_symfollow = true,
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
