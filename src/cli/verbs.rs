//! The verbs: `mmfs VERB [OPTIONS] OBJECT...`. The parser, the help, the manual pages and the completions are made from [`Verb`].

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, StyledStr};
use clap::{Arg, ArgAction, Args, Command, FromArgMatches, Subcommand, ValueHint};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::commit_options::CommitOptions;
use super::discard_options::Discard;
use super::run_options::RunOptions;
use super::similar::similar;
use super::{mount_helper, mount_options, size, topics};
use crate::commit::commit;
use crate::difference::Detail;
use crate::refusal::{self, ExitCode, StartError};
use crate::run;
use crate::session;
use crate::show::{self, DiffForm, Form};
use crate::sys::process;

/// One variant for each verb. Its comment is the verb's description, its fields are the options and objects. No verb may have an
/// option `-o`, which always means to mount. An object that is a mount has the value name MNT, for which completions offer the mount
/// points of mmfs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List what there is to read, or explain a verb or a topic.
    Help(Help),
    /// Unmount a mount of mmfs.
    ///
    /// When mmfs unmount returns, the daemon has ended and holds nothing of the source. A busy mount stays mounted, and
    /// the processes that use it are named. Works for a mount whose daemon has died or does not answer.
    /// A daemon that is not found is not waited for, and a note says so: it may run in another container, be hidden by
    /// /proc (hidepid), or, before Linux 6.17, have no MNT on its command line. It lets go of the source within a second.
    /// Ordinary users unmount their own mounts, through fusermount3, which needs /etc/mtab.
    Unmount(Unmount),
    /// Print what a mount of mmfs does.
    ///
    /// Without MNT, a line for each mount. With it, its options, what of the kernel is in use, what is in use of what there
    /// may be, and its requests: how many came and how long they took.
    /// Only root and the user who mounted it are answered. A source that does not answer is not waited for.
    Status(Status),
    /// Print the last requests of a mount, and those not answered yet.
    ///
    /// A mount keeps its last 4,096 requests. Only root and the user who mounted it are answered.
    Trace(Trace),
    /// Say what a store holds, and whether it is sound.
    ///
    /// A store has the changes of a private view. It is not changed, unless --repair is given. The exit code is 0 for a
    /// sound store, and 1 for one that is damaged, cannot be read, or is in use.
    Check(Check),
    /// Print what a private view has changed.
    ///
    /// A line for each path that differs from the source, sorted: A for what was added, M for other bytes, D for what was deleted,
    /// R for what was renamed, T for another type, P for another mode, owner, group or extended attribute, C for what was
    /// changed in the source, too. Bytes that were written and are equal to the source's are no change, and times are none.
    /// A view that is mounted goes on meanwhile: its names and attributes are those of one moment. Nothing is changed.
    Diff(Diff),
    /// Give up what a private view has changed.
    ///
    /// Without PATH and globs, all changes: the store is empty afterwards, and a view of it shows the source as it is. With them, those
    /// that they choose: the view shows the source there, and stays as it is elsewhere. What depends on a change that is not chosen
    /// is refused, and then nothing is given up. A kill or a power cut leaves all changes or none. The source is not touched.
    /// --dry-run lists what would be given up.
    ///
    /// With MNT, the view that is mounted there shows the source at once. What a program has open is refused, and a directory that would
    /// go and in which one works. Root and the user who mounted it can do this.
    ///
    /// A glob is compared with each component of a path, as *.o, or, if it has a slash, with the path below the root of the view
    /// and with the directories above it, as src/**. One that fits a directory counts for all below it.
    Discard(Discard),
    /// Carry what a private view has changed into its source.
    ///
    /// Afterwards the source is as the view was, and the store is empty. The store must not be mounted. What the source has
    /// changed, too, is a conflict: if there is one, nothing is done, and the exit code is 3. What is new is made first, beside
    /// the source's files; then each file is replaced at once, so none is ever seen half written. A commit that was cut
    /// short, even by a power cut, is finished by the next one. No symbolic link is followed out of the source.
    Commit(CommitOptions),
    /// Run a command in a private view of the current directory.
    ///
    /// CMD and what it starts see a private view at the path of the current directory. Other processes go on to see the directory
    /// itself, which never changes. At the end, mmfs lists the changes as mmfs diff does, and asks whether to keep or discard
    /// them. Without a terminal they are kept. Processes that CMD leaves behind are ended. What mmfs says goes to standard error.
    ///
    /// The exit code is CMD's, or 128 + N after signal N. It is 125 if mmfs failed, 126 if CMD cannot be run, 127 if there is none.
    Run(RunOptions),
}

impl Verb {
    /// Runs the verb and returns the exit code. `command` returns the whole command line, for the help.
    ///
    /// # Errors
    /// The sentence that says why the verb failed. Help is a [`StartError::Usage`].
    pub fn run(self, command: fn() -> Command) -> Result<u8, StartError> {
        let done = match self {
            Self::Diff(diff) => return diff.run().map(|code| code as u8),
            Self::Discard(discard) => discard.run(),
            Self::Commit(options) => return commit(&options.wanted()?).map(|code| code as u8),
            Self::Run(options) => return run::run(&options.wanted()?),
            Self::Help(help) => help.run(command()),
            Self::Unmount(Unmount { mount_point }) => session::unmount(&mount_point),
            Self::Status(status) => show::status(status.mount_point.as_deref(), status.form()),
            Self::Check(check) => {
                if check.repair {
                    // Files of others would be root's afterwards.
                    session::store_place::look_into(&check.store)?;
                }
                show::store(&check.store, check.after_power_cut, check.repair)
            }
            Self::Trace(trace) => show::trace(&trace.mount_point, trace.follow, trace.slow),
        };
        done.map(|()| ExitCode::Success as u8)
    }
}

/// `mmfs help [VERB|TOPIC]`.
#[derive(Debug, Args)]
pub struct Help {
    /// The verb or topic to explain. Without it, they are listed.
    #[arg(value_name = "VERB|TOPIC")]
    topic: Option<String>,
}

/// `mmfs unmount MNT`.
#[derive(Debug, Args)]
pub struct Unmount {
    /// The mount point, or a symbolic link to it.
    #[arg(value_name = "MNT", value_hint = ValueHint::DirPath)]
    mount_point: PathBuf,
}

/// `mmfs status [MNT]`.
#[derive(Debug, Args)]
pub struct Status {
    /// The mount point. Without it, all mounts of mmfs that are here.
    #[arg(value_name = "MNT", value_hint = ValueHint::DirPath)]
    mount_point: Option<PathBuf>,
    /// Print JSON.
    ///
    /// With MNT an object, without it a list. docs/status.md describes the fields.
    #[arg(long, conflicts_with_all = ["prometheus", "watch"])]
    json: bool,
    /// Print the text format of Prometheus.
    #[arg(long, conflicts_with = "watch")]
    prometheus: bool,
    /// Print it anew every second, with what came in that second.
    #[arg(long)]
    watch: bool,
}

impl Status {
    fn form(&self) -> Form {
        match (self.json, self.prometheus, self.watch) {
            (true, ..) => Form::Json,
            (_, true, _) => Form::Prometheus,
            (.., true) => Form::Watch,
            _ => Form::Text,
        }
    }
}

/// `mmfs check STORE`.
#[derive(Debug, Args)]
pub struct Check {
    /// The directory of the store.
    #[arg(value_name = "STORE", value_hint = ValueHint::DirPath)]
    store: PathBuf,
    /// Count only what was synced, as after a power cut.
    #[arg(long)]
    after_power_cut: bool,
    /// Drop changes that do not count, and files that nothing needs.
    ///
    /// It drops what the next mount would drop. A damaged store is left as it is.
    #[arg(long)]
    repair: bool,
}

/// `mmfs diff STORE|MNT`.
#[derive(Debug, Args)]
pub struct Diff {
    /// The directory of the store, or the mount point.
    #[arg(value_name = "STORE|MNT", value_hint = ValueHint::DirPath)]
    object: PathBuf,
    /// Print how much of each file differs, and the sums.
    #[arg(long, conflicts_with_all = ["pages", "json", "zero"])]
    stat: bool,
    /// Print where files differ: offset and length in bytes, of whole pages.
    #[arg(long, conflicts_with = "zero")]
    pages: bool,
    /// Print a JSON object for each path.
    ///
    /// docs/private.md describes the fields.
    #[arg(long, conflicts_with = "zero")]
    json: bool,
    /// End each line with a zero byte, and print paths as they are.
    ///
    /// The old path of what was renamed follows the new one, with a zero byte of its own.
    #[arg(short = 'z', long = "null")]
    zero: bool,
    /// Exit with 4 if there are changes.
    #[arg(long)]
    exit_code: bool,
}

impl Diff {
    fn run(&self) -> Result<ExitCode, StartError> {
        let form = match (self.json, self.pages, self.stat, self.zero) {
            (true, pages, ..) => DiffForm::Json(pages),
            (_, true, ..) => DiffForm::Pages,
            (.., true, _) => DiffForm::Stat,
            (.., true) => DiffForm::Zero,
            _ => DiffForm::Lines,
        };
        let detail = match form {
            DiffForm::Lines | DiffForm::Zero => Detail::Kinds,
            DiffForm::Stat | DiffForm::Pages | DiffForm::Json(_) => Detail::Pages,
        };
        let found = show::changes(&self.object, detail)?;
        show::differences(&found, form)?;
        match self.exit_code && !found.is_empty() {
            true => Ok(ExitCode::Changes),
            false => Ok(ExitCode::Success),
        }
    }
}

/// `mmfs trace MNT`.
#[derive(Debug, Args)]
pub struct Trace {
    /// The mount point.
    #[arg(value_name = "MNT", value_hint = ValueHint::DirPath)]
    mount_point: PathBuf,
    /// Go on with the requests that come, until the mount is gone.
    #[arg(long)]
    follow: bool,
    /// Print only requests that took at least so long: 10ms, 500us, 2s.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = size::time)]
    slow: Duration,
}

impl Help {
    fn run(self, command: Command) -> Result<(), StartError> {
        let Some(name) = self.topic else {
            return show::page(&overview(&command));
        };
        if let Some(topic) = topics::all().iter().find(|topic| topic.name == name) {
            return show::page(&topic.text());
        }
        let verb = Some(name).filter(|name| name != topics::OPTIONS);
        let words = ["mmfs".into()].into_iter().chain(verb);
        let asked = command.try_get_matches_from(words.chain(["--help".into()]));
        Ok(asked.map(drop)?)
    }
}

/// What `mmfs help` prints.
fn overview(command: &Command) -> String {
    let about = |about: Option<&StyledStr>| about.map(ToString::to_string).unwrap_or_default();
    let line = |name: &str, about: &str| format!("  {name:13}  {about}\n");
    let verbs = command.get_subcommands();
    let verbs: String = verbs
        .map(|verb| line(verb.get_name(), &about(verb.get_about())))
        .collect();
    let topics: String = topics::all()
        .iter()
        .map(|topic| line(topic.name, topic.about))
        .collect();
    let options = line(topics::OPTIONS, "All options, in groups: mmfs --help");
    let usage = line("mmfs SRC MNT", "Mount. mmfs unmount MNT ends it");
    format!(
        "{}.\n{usage}Verbs:\n{verbs}\nTopics:\n{options}{topics}\
         mmfs help NAME explains a verb or a topic. man mmfs has all of it.\n",
        about(command.get_about())
    )
}

/// The verb whose exit code is that of the command it runs.
pub const RUN: &str = "run";

/// How long the check for a directory that is named like the verb may take.
const LOOK_TIMEOUT: Duration = Duration::from_millis(200);

/// Adds all verbs to `command`.
pub fn add_to(command: Command) -> Command {
    let verbs = table();
    let mut names: Vec<String> = verbs.iter().map(|verb| verb.get_name().into()).collect();
    names.push(topics::OPTIONS.into());
    names.extend(topics::all().iter().map(|topic| topic.name.into()));
    command
        .subcommands(verbs)
        .subcommand_help_heading("Verbs")
        .subcommand_value_name("VERB")
        .disable_help_subcommand(true)
        .subcommand_negates_reqs(true)
        .args_conflicts_with_subcommands(true)
        .mut_subcommand("help", |help| {
            help.mut_arg("topic", |topic| {
                let known = PossibleValuesParser::new(names);
                topic.value_parser(known).hide_possible_values(true)
            })
        })
}

fn table() -> Vec<Command> {
    let help = Arg::new("print_help")
        .short('h')
        .long("help")
        .action(ArgAction::Help)
        .help("Print help");
    let verbs = Verb::augment_subcommands(Command::new("mmfs"));
    let verbs = verbs.get_subcommands().cloned();
    verbs
        .map(|verb| verb.disable_help_flag(true).arg(help.clone()))
        .collect()
}

/// The verb of argv (program name first), which is its first word. mount(8) and its helpers never name a verb, even if the source
/// is named like one. They start a program whose name begins with `mount.`, or pass `-o`.
pub fn asked_for(args: &[OsString]) -> Option<&str> {
    let [_, first, ..] = args else {
        return None;
    };
    let mounts = mount_helper::is_helper(args) || mount_options::are_in(args);
    first.to_str().filter(|_| !mounts && is_name(first))
}

/// Whether a verb has this name.
pub fn is_name(word: &OsStr) -> bool {
    table().iter().any(|verb| word == verb.get_name())
}

/// Parses argv whose first word is a verb. `command` is the whole command line.
///
/// # Errors
/// Those of the parser. They also carry the text of `--help`.
pub fn read(command: Command, args: Vec<OsString>) -> Result<Verb, clap::Error> {
    Verb::from_arg_matches(&command.try_get_matches_from(args)?)
}

/// Prints a note if a source that does not exist is named like a verb, or similarly. A path is not meant as a verb.
pub fn hint_at(source: &OsStr, error: &StartError) {
    let is_missing = matches!(error, StartError::Unreachable(_, _, Errno::NOENT));
    let is_word = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphabetic());
    let Some(name) = source.to_str().filter(is_word).filter(|_| is_missing) else {
        return;
    };
    if is_name(source) {
        refusal::note(format_args!(
            "a verb is the first word: mmfs {name} [OPTIONS]"
        ));
    } else if let Some(verb) = similar(name, table().iter().map(|verb| verb.get_name().into())) {
        refusal::note(format_args!("did you mean the verb: mmfs {verb}?"));
    }
}

/// Prints a note if mount options are wrong and the first word is named like a verb: with `-o` it is read as a source.
pub fn hint_at_dashes(first: &OsStr) {
    if is_name(first) {
        let name = first.to_string_lossy();
        refusal::note(format_args!(
            "with -o, {name} is a source; options of the verb {name} have two dashes"
        ));
    }
}

/// Prints a note if the working directory has a directory that is named like the verb.
pub fn warn_of_directory(name: &str) {
    // The working directory may be on a filesystem that does not answer.
    let found = process::ask_in_child(LOOK_TIMEOUT, Path::new(name), |path| {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).map(drop)
    });
    if matches!(found, Ok(Some(Ok(())))) {
        refusal::note(format_args!(
            "{name} is a verb here; write the directory of that name as ./{name}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Request, command};
    use super::*;
    use crate::refusal::ExitCode;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_table_is_consistent() {
        command().debug_assert();
        for verb in command().get_subcommands() {
            let name = verb.get_name();
            assert!(is_name(name.as_ref()), "{name}");
            assert!(verb.get_about().is_some(), "{name} has no description");
            for arg in verb.get_arguments() {
                assert_ne!(arg.get_short(), Some('o'), "{name} has an option -o");
                assert!(arg.get_help().is_some(), "{name} {arg} has no description");
            }
        }
    }

    #[test]
    fn a_verb_is_the_first_word() {
        for args in [&["mmfs", "help"][..], &["/usr/bin/mmfs", "help", "/mnt"]] {
            assert_eq!(asked_for(&words(args)), Some("help"), "{args:?}");
        }
        // An option of the command is none of mmfs.
        let compile = words(&["mmfs", "run", "--", "cc", "-o", "out", "in.c"]);
        assert_eq!(asked_for(&compile), Some(RUN));
        for args in [
            &["mmfs"][..],
            &["mmfs", "./help", "/mnt"],
            &["mmfs", "--", "help", "/mnt"],
            &["mmfs", "-f", "help", "/mnt"],
            &["mmfs", "/help", "help"],
            &["mmfs", "helped", "/mnt"],
        ] {
            assert_eq!(asked_for(&words(args)), None, "{args:?}");
        }
    }

    #[test]
    fn mount_helpers_never_read_a_verb() {
        for args in [
            &["mount.mmfs", "help", "/mnt"][..],
            &["/sbin/mount.fuse.mmfs", "help", "/mnt", "-o", "rw"],
            &["mmfs", "help", "/mnt", "-o", "rw"],
            &["mmfs", "help", "/mnt", "-orw"],
            &["mmfs", "-o", "", "help", "/mnt"],
            &["mmfs", "-o", "noauto", "help", "/mnt"],
        ] {
            match Request::read(words(args)) {
                Ok(Request::Mount(options)) => assert_eq!(options.source, Path::new("help")),
                other => panic!("{args:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn help_is_what_the_option_prints() {
        let text = |args: &[&str]| {
            let error = match Request::read(words(args)) {
                Ok(Request::Verb(verb)) => verb.run(command).expect_err("an answer"),
                other => other.expect_err("an answer"),
            };
            assert_eq!(error.exit_code(), ExitCode::Success, "{args:?}");
            error.to_string()
        };
        let all = text(&["mmfs", "--help"]);
        assert_eq!(text(&["mmfs", "help", "options"]), all);
        let short = text(&["mmfs", "-h"]);
        for verb in table() {
            let name = verb.get_name();
            let one = text(&["mmfs", "help", name]);
            assert_eq!(text(&["mmfs", name, "--help"]), one);
            assert!(one.contains(&format!("Usage: mmfs {name} ")), "{one}");
            for list in [&all, &short, &overview(&command())] {
                assert!(list.contains(&format!("\n  {name} ")), "{list}");
            }
        }
    }

    #[test]
    fn help_lists_verbs_and_topics() {
        let text = overview(&command());
        let lines = text.lines();
        assert!(
            lines.clone().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(lines.count() <= 23, "more than a screen: {text}");
        for topic in topics::all() {
            assert!(text.contains(&format!("\n  {} ", topic.name)), "{text}");
            let args = words(&["mmfs", "help", topic.name]);
            assert!(matches!(Request::read(args), Ok(Request::Verb(_))));
        }
        let error = Request::read(words(&["mmfs", "help", "signal"])).expect_err("refused");
        assert_eq!(error.exit_code(), ExitCode::Usage);
        assert!(
            error.to_string().ends_with("did you mean 'signals'?"),
            "{error}"
        );
        let error = Request::read(words(&["mmfs", "help", "qqq"])).expect_err("refused");
        assert!(error.to_string().contains("environment, files"), "{error}");
    }
}
