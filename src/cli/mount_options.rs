//! `-o name[=value],...`: options in the form of mount(8). They are translated into long options before clap parses the command
//! line. So both forms have the same meaning and the same checks, and the later one wins.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};

/// Generic options of mount(8), each with its long option.
const GENERIC: [(&str, &str); 13] = [
    ("ro", "--read-only"),
    ("rw", "--read-write"),
    ("exec", "--mount-flag=exec"),
    ("noexec", "--mount-flag=noexec"),
    ("suid", "--mount-flag=suid"),
    ("nosuid", "--mount-flag=nosuid"),
    ("dev", "--mount-flag=dev"),
    ("nodev", "--mount-flag=nodev"),
    ("atime", "--mount-flag=atime"),
    ("noatime", "--mount-flag=noatime"),
    ("sync", "--mount-flag=sync"),
    ("async", "--mount-flag=async"),
    ("dirsync", "--mount-flag=dirsync"),
];

/// This option is always on, so giving it has no effect.
const ALWAYS_ON: &str = "default_permissions";

/// Options in /etc/fstab that are meant for other programs.
const IGNORED: [&str; 14] = [
    "defaults",
    "nofail",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "relatime",
    "diratime",
    "nodiratime",
    "_netdev",
    "comment",
];

/// The description of `-o`.
pub fn description() -> String {
    let generic = GENERIC.map(|(name, _)| name).join(" ");
    format!(
        "Mount options, separated by commas.\n\n\
         Every long option, spelled with _ or -, and the generic options of mount(8):\n\
         {generic}.\n\
         nosuid and nodev are the default. Of options that disagree, the last wins."
    )
}

/// Notes about `-o` for the end of `--help`.
pub fn notes() -> String {
    let (first, rest) = IGNORED.split_at(IGNORED.len() / 2);
    let (first, rest) = (first.join(" "), rest.join(" "));
    format!(
        "In a value of -o, \\, is a comma and \\\\ a backslash.\n\
         -o ignores {ALWAYS_ON}, which is always on, and what /etc/fstab tells other programs:\n  \
         {first}\n  {rest} x-*"
    )
}

/// `args` with every `-o list` replaced by long options.
///
/// # Errors
/// A usage error that names the unknown option.
pub fn expand(
    command: &mut Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<Vec<OsString>, clap::Error> {
    let mut args = args.into_iter();
    let mut expanded: Vec<OsString> = args.next().into_iter().collect();
    while let Some(arg) = args.next() {
        if arg == "--" {
            expanded.push(arg);
            expanded.extend(args.by_ref());
        } else if awaits_value(command, &arg) {
            expanded.push(arg);
            expanded.extend(args.next());
        } else if let Some((flags, list)) = split_cluster(&arg) {
            expanded.extend(flags);
            match list.or_else(|| args.next()) {
                Some(list) => translate(command, list.as_bytes(), &mut expanded)?,
                None => expanded.push("-o".into()),
            }
        } else {
            expanded.push(arg);
        }
    }
    Ok(expanded)
}

/// Whether `args` have an option `-o` before `--`. It always means to mount: no verb has such an option.
pub fn are_in(args: &[OsString]) -> bool {
    let before = args.iter().take_while(|arg| *arg != "--");
    before.into_iter().any(|arg| split_cluster(arg).is_some())
}

/// Whether `arg` is a long option whose value is the next argument.
fn awaits_value(command: &Command, arg: &OsStr) -> bool {
    let long = arg.to_str().and_then(|arg| arg.strip_prefix("--"));
    let mut known = command
        .get_arguments()
        .filter(|known| known.get_action().takes_values());
    long.is_some_and(|long| known.any(|known| known.get_long() == Some(long)))
}

/// `-fo list`, `-olist`: the flags before the `o`, and the list if it is in the same argument.
fn split_cluster(arg: &OsStr) -> Option<(Option<OsString>, Option<OsString>)> {
    let letters = arg
        .as_bytes()
        .strip_prefix(b"-")
        .filter(|letters| !letters.starts_with(b"-"))?;
    let at = letters.iter().position(|&letter| letter == b'o')?;
    let (flags, list) = (&letters[..at], &letters[at + 1..]);
    let flags = (!flags.is_empty()).then(|| OsString::from_vec([b"-", flags].concat()));
    Some((
        flags,
        (!list.is_empty()).then(|| OsStr::from_bytes(list).into()),
    ))
}

fn translate(
    command: &mut Command,
    list: &[u8],
    expanded: &mut Vec<OsString>,
) -> Result<(), clap::Error> {
    for option in split_list(list)
        .into_iter()
        .filter(|option| !option.is_empty())
    {
        let end = option
            .iter()
            .position(|&byte| byte == b'=')
            .unwrap_or(option.len());
        let (name, value) = option.split_at(end);
        let name = String::from_utf8_lossy(name);
        if is_ignored(&name) {
            continue;
        }
        let Some(long) = long_option(command, &name) else {
            return Err(unknown(command, &name));
        };
        expanded.push(OsString::from_vec([long.as_bytes(), value].concat()));
    }
    Ok(())
}

/// The items between commas. A backslash escapes the byte after it, as in libfuse.
fn split_list(list: &[u8]) -> Vec<Vec<u8>> {
    let mut items = vec![Vec::new()];
    let mut bytes = list.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' => items.push(Vec::new()),
            b'\\' => items
                .last_mut()
                .expect("never empty")
                .push(bytes.next().unwrap_or(b'\\')),
            _ => items.last_mut().expect("never empty").push(byte),
        }
    }
    items
}

fn is_ignored(name: &str) -> bool {
    name == ALWAYS_ON || IGNORED.contains(&name) || name.starts_with("x-") || name.starts_with("X-")
}

/// The long option for a name after `-o`, with `_` or `-`: `--map-budget` for `map_budget`.
fn long_option(command: &Command, name: &str) -> Option<String> {
    if let Some((_, long)) = GENERIC.iter().find(|(generic, _)| *generic == name) {
        return Some((*long).into());
    }
    let name = name.replace('_', "-");
    let prints = |arg: &Arg| matches!(arg.get_action(), ArgAction::Help | ArgAction::Version);
    let mut known = command
        .get_arguments()
        .filter(|known| !known.is_hide_set() && !prints(known));
    known
        .any(|known| known.get_long() == Some(&name))
        .then(|| format!("--{name}"))
}

fn unknown(command: &mut Command, name: &str) -> clap::Error {
    let sentence = match name {
        "remount" => {
            "-o remount: a mounted mmfs cannot be changed; unmount it and mount it again".into()
        }
        _ => format!("-o {name}: no such mount option; --help lists them"),
    };
    command.error(ErrorKind::UnknownArgument, sentence)
}
