//! `-o name[=value],...`: options in the form of mount(8). They are translated into long options before clap parses the command
//! line. So both forms have the same meaning and the same checks, and the later one wins.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};

use super::similar::similar;

/// Generic options of mount(8), each with its long option.
const GENERIC: [(&str, &str); 15] = [
    ("ro", "--read-only"),
    ("rw", "--read-write"),
    ("exec", "--mount-flag=exec"),
    ("noexec", "--mount-flag=noexec"),
    ("suid", "--mount-flag=suid"),
    ("nosuid", "--mount-flag=nosuid"),
    ("dev", "--mount-flag=dev"),
    ("nodev", "--mount-flag=nodev"),
    ("symfollow", "--mount-flag=symfollow"),
    ("nosymfollow", "--mount-flag=nosymfollow"),
    ("atime", "--mount-flag=atime"),
    ("noatime", "--mount-flag=noatime"),
    ("sync", "--mount-flag=sync"),
    ("async", "--mount-flag=async"),
    ("dirsync", "--mount-flag=dirsync"),
];

/// Long options that have another name here, because mount(8) has an option of theirs: it would not pass them on.
const RENAMED: [(&str, &str); 1] = [("store", "private")];

const NO_EXEC: &str = "--mount-flag=noexec";
const NO_SUID: &str = "--mount-flag=nosuid";
const NO_DEV: &str = "--mount-flag=nodev";

/// Options in /etc/fstab that say who may mount, and the long options that they imply in mount(8). Their values are ignored.
const WHO_MOUNTS: [(&str, &[&str]); 4] = [
    ("user", &[NO_EXEC, NO_SUID, NO_DEV]),
    ("users", &[NO_EXEC, NO_SUID, NO_DEV]),
    ("owner", &[NO_SUID, NO_DEV]),
    ("group", &[NO_SUID, NO_DEV]),
];

/// Options in /etc/fstab that are meant for other programs.
const FOR_OTHERS: [&str; 12] = [
    "defaults", "auto", "noauto", "nofail", "nouser", "nousers", "noowner", "nogroup", "silent",
    "loud", "_netdev", "comment",
];

/// Options for what mmfs does anyway.
const ALWAYS_ON: [&str; 2] = ["default_permissions", "nonempty"];

/// Options for times that change nothing here: the source's own mount decides how its times move.
const LAZY_TIMES: [&str; 6] = [
    "relatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "nostrictatime",
];

const OF_MOUNT_FUSE: &str =
    "only mount.fuse3 can do that, with: mount -t fuse.mmfs -o drop_privileges SRC MNT";
const STRICT_TIMES: &str = "access times move as the source's own mount has it; mount that one so";
const OWNERS: &str = "mmfs shows owners and modes as the source has them; bindfs can map them";
const CACHE: &str = "mmfs tells the kernel by itself what it may cache; leave it out";

/// Options that people may expect, and why mmfs does not take them.
const REFUSED: [(&str, &str); 12] = [
    (
        "remount",
        "a mounted mmfs cannot be changed; unmount it and mount it again",
    ),
    (
        "private",
        "mount(8) keeps that name for itself; write store=STORE",
    ),
    ("strictatime", STRICT_TIMES),
    ("norelatime", STRICT_TIMES),
    ("drop_privileges", OF_MOUNT_FUSE),
    ("setuid", OF_MOUNT_FUSE),
    ("uid", OWNERS),
    ("gid", OWNERS),
    ("umask", OWNERS),
    ("kernel_cache", CACHE),
    ("auto_cache", CACHE),
    ("debug", "write -vvv to log each request"),
];

/// Those that `mount -s` does not ignore: without what they ask for, the mount would be another one.
const NEVER_IGNORED: [&str; 4] = ["remount", "private", "drop_privileges", "setuid"];

/// The description of `-o`.
pub fn description() -> String {
    let generic = GENERIC.map(|(name, _)| name).join(" ");
    format!(
        "Mount options, separated by commas.\n\n\
         Every long option, spelled with _ or -, and the generic options of mount(8): {generic}. \
         nosuid and nodev are the default. --private STORE is store=STORE here. Of opposite options, the last wins. allow_other with \
         allow_root, and passthrough with direct_io, are refused. mmfs help mount-options has what else is taken, ignored or refused."
    )
}

/// The names that can stand after `-o`, in groups, and what mmfs does with each group.
pub fn groups() -> Vec<(String, String)> {
    let join = |names: &[&str]| names.join(" ");
    let firsts = |pairs: &[(&'static str, &str)]| join(&names_in(pairs));
    let who = join(&WHO_MOUNTS.map(|(name, _)| name));
    let text = |names: String, text: &str| (names, text.to_owned());
    vec![
        text(
            "NAME[=VALUE]".into(),
            "Each long option of mmfs, with _ or - between its words: attr_timeout=5. In a value, \\, is a comma and \\\\ a backslash. \
             Of two values for one option, the last wins. allow_other with allow_root, and passthrough with direct_io, are refused.",
        ),
        text(
            firsts(&RENAMED),
            "As --private STORE: store=STORE. mount(8) has an option private of its own. It passes no private=STORE on, and the view \
             would be shared.",
        ),
        text(
            firsts(&GENERIC),
            "As mount(8) has them. nosuid and nodev are the default. ro is --read-only. noatime leaves the source's access times \
             alone, too. sync and dirsync wait for the device. Of opposite options, the last wins.",
        ),
        text(
            who,
            "mount(8) decides who may mount. As there, they imply nosuid and nodev, and user and users noexec.",
        ),
        text(
            format!("{} x-* X-*", join(&FOR_OTHERS)),
            "Ignored: they are meant for mount(8) and systemd.",
        ),
        text(join(&ALWAYS_ON), "Ignored: mmfs does that anyway."),
        text(
            join(&LAZY_TIMES),
            "Ignored: the source's own mount decides how its times move.",
        ),
        text(
            firsts(&REFUSED),
            "Refused, with the reason. mount -s, with the type mmfs, ignores them and all other names, except remount, private, \
             drop_privileges and setuid.",
        ),
    ]
}

fn names_in<'a>(pairs: &[(&'a str, &str)]) -> Vec<&'a str> {
    pairs.iter().map(|(name, _)| *name).collect()
}

/// Whether an option that mmfs does not have is an error. mount(8) has a switch for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// It is.
    Refused,
    /// It is ignored (`mount -s`), unless it asks for another kind of mount.
    Ignored,
}

/// `args` with every `-o list` replaced by long options.
///
/// # Errors
/// A usage error that names the option: it is unknown, or has a value too many or too few.
pub fn expand(
    command: &mut Command,
    args: impl IntoIterator<Item = OsString>,
    unknown: Unknown,
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
                Some(list) => {
                    let options = split_list(list.as_bytes());
                    for option in options.iter().filter(|option| !option.is_empty()) {
                        expanded.extend(translate(command, option, unknown)?);
                    }
                }
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

/// The long options for `name[=value]`.
fn translate(
    command: &mut Command,
    option: &[u8],
    unknown: Unknown,
) -> Result<Vec<OsString>, clap::Error> {
    let end = option.iter().position(|&byte| byte == b'=');
    let (name, value) = option.split_at(end.unwrap_or(option.len()));
    let name = String::from_utf8_lossy(name);
    if is_ignored(&name) {
        return Ok(vec![]);
    }
    if let Some((_, implied)) = WHO_MOUNTS.iter().find(|(who, _)| *who == name) {
        return Ok(implied.iter().map(OsString::from).collect());
    }
    let Some((long, takes_value)) = long_option(command, &name) else {
        let is_ignored = unknown == Unknown::Ignored && !NEVER_IGNORED.contains(&&*name);
        return match is_ignored {
            true => Ok(vec![]),
            false => Err(not_taken(command, &name)),
        };
    };
    let sentence = match (takes_value, value.is_empty()) {
        (false, false) => format!("-o {name}: it takes no value"),
        (true, true) => format!("-o {name}: give it a value, as in {name}=VALUE"),
        _ => return Ok(vec![OsString::from_vec([long.as_bytes(), value].concat())]),
    };
    Err(command.error(ErrorKind::InvalidValue, sentence))
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
    let lists: [&[&str]; 3] = [&FOR_OTHERS, &ALWAYS_ON, &LAZY_TIMES];
    let is_extension = name.starts_with("x-") || name.starts_with("X-");
    is_extension || lists.iter().any(|list| list.contains(&name))
}

/// The long option for a name after `-o`, with `_` or `-`: `--map-budget` for `map_budget`. And whether it takes a value.
fn long_option(command: &Command, name: &str) -> Option<(String, bool)> {
    if let Some((_, long)) = GENERIC.iter().find(|(generic, _)| *generic == name) {
        return Some(((*long).into(), false));
    }
    let name = name.replace('_', "-");
    let known = long_options(command).find(|known| name_of(known) == Some(&name))?;
    let long = format!("--{}", known.get_long()?);
    Some((long, known.get_action().takes_values()))
}

/// The long options that can stand after `-o`.
fn long_options(command: &Command) -> impl Iterator<Item = &Arg> {
    let prints = |arg: &Arg| matches!(arg.get_action(), ArgAction::Help | ArgAction::Version);
    let known = command.get_arguments();
    known.filter(move |known| known.get_long().is_some() && !known.is_hide_set() && !prints(known))
}

/// The name of a long option after `-o`, spelled with `-`.
fn name_of(option: &Arg) -> Option<&str> {
    let long = option.get_long()?;
    let renamed = RENAMED.iter().find(|(_, known)| *known == long);
    Some(renamed.map_or(long, |(name, _)| name))
}

fn not_taken(command: &mut Command, name: &str) -> clap::Error {
    let refused = REFUSED.iter().find(|(refused, _)| *refused == name);
    let sentence = match (refused, meant(command, name)) {
        (Some((_, why)), _) => format!("-o {name}: {why}"),
        (_, Some(meant)) => format!("-o {name}: no such mount option; did you mean '{meant}'?"),
        _ => format!("-o {name}: no such mount option; mmfs help mount-options lists them"),
    };
    command.error(ErrorKind::UnknownArgument, sentence)
}

/// The name that is taken and is most similar to one that is not.
fn meant(command: &Command, name: &str) -> Option<String> {
    let long = long_options(command).filter_map(name_of);
    let long = long.map(|long| long.replace('-', "_"));
    let generic = names_in(&GENERIC);
    let fixed: [&[&str]; 5] = [
        &generic,
        &WHO_MOUNTS.map(|(name, _)| name),
        &FOR_OTHERS,
        &ALWAYS_ON,
        &LAZY_TIMES,
    ];
    let fixed = fixed.into_iter().flatten().map(ToString::to_string);
    similar(&name.replace('-', "_"), long.chain(fixed))
}
