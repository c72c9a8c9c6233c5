//! The topics of `mmfs help`, which are also sections of the manual page.

use std::fmt::Write;

use clap::Command;

use super::mount_options;

/// A topic, or a section of the manual page.
#[derive(Debug)]
pub struct Topic {
    /// What is typed after `mmfs help`. The section has the same name in capitals, with blanks.
    pub name: &'static str,
    /// Its line in `mmfs help`.
    pub about: &'static str,
    /// Terms, and what is to be said of each.
    pub entries: Vec<(String, String)>,
}

/// The topic that is `mmfs --help`. The manual page has it as OPTIONS.
pub const OPTIONS: &str = "options";

/// How wide the text is: that of a terminal which nobody has made larger.
const WIDTH: usize = 80;
const INDENT: usize = 8;

const EXAMPLES: &[(&str, &str)] = &[
    ("mmfs ~/photos ~/view", "Shows ~/photos at ~/view."),
    (
        "mmfs unmount ~/view",
        "Unmounts it, and waits until mmfs has ended.",
    ),
    (
        "mmfs --read-only --allow-other /data /mnt/view",
        "Shows /data to all users, and refuses every change.",
    ),
    (
        "mmfs --private ~/changes ~/photos ~/view",
        "Shows ~/photos. What is changed at ~/view is kept in ~/changes, and ~/photos stays as it is.",
    ),
    (
        "mmfs --ephemeral ~/photos ~/view",
        "The same, and the changes go when the mount ends.",
    ),
    ("mmfs status ~/view", "Prints what the mount does."),
    (
        "mount -t mmfs -o ro,allow_other /data /mnt/view",
        "Shows /data through mount(8), read-only and to all users. Needs the Debian package.",
    ),
    (
        "/data /mnt/view fuse.mmfs nosuid,nodev,nofail,allow_other 0 0",
        "A line of /etc/fstab: mounts at boot. mount(8) finds mmfs in /usr/bin and /usr/local/bin.",
    ),
    (
        "systemctl enable --now mmfs@data",
        "Mounts at boot as /etc/mmfs/data.conf says, which has lines SOURCE=/data, MOUNT_POINT=/mnt/view and \
         OPTIONS=--allow-other.",
    ),
];

const SIGNALS: &[(&str, &str)] = &[
    (
        "SIGINT, SIGTERM, SIGQUIT",
        "Unmount. Files that are still open are served for 30 s more, or until a second signal.",
    ),
    ("SIGHUP", "Open the file of --log anew."),
    (
        "SIGUSR1",
        "Write the status of the mount and its last requests to the log.",
    ),
    ("SIGUSR2", "Ignored."),
];

const EXIT_STATUS: &[(&str, &str)] = &[
    (
        "0",
        "The mount answers. With -f: it has ended. A verb has done what it is for.",
    ),
    (
        "1",
        "Refused or failed. One sentence on standard error says why, and what to do.",
    ),
    ("2", "The command line was not understood."),
    ("4", "mmfs diff --exit-code has found changes."),
    (
        "mmfs run",
        "Exits with the code of its command, 128 + N after signal N; 125 if mmfs failed, 126 if the command cannot be run, 127 if there \
         is none.",
    ),
    (
        "mount.mmfs",
        "Exits as mount(8) has it, for mount -t mmfs: 1 for options that are wrong or for what the user may not do, 2 for a system \
         error such as a limit, 32 for everything else.",
    ),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "RUST_LOG",
        "What to log, instead of -v and -q: off, error, warn, info, debug, trace.",
    ),
    (
        "TMPDIR",
        "Where --ephemeral makes the directory of its changes. Default: /tmp.",
    ),
    (
        "XDG_STATE_HOME",
        "Where mmfs run makes its stores, in the directory mmfs. Default: ~/.local/state.",
    ),
    ("NO_COLOR", "No colours in mmfs status --watch."),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC, JOURNAL_STREAM",
        "Set by systemd. mmfs tells it when the mount answers and when it ends, notifies its watchdog, and gives log lines \
         their priority.",
    ),
    (
        "LISTEN_FDS, LISTEN_PID",
        "Descriptors that systemd has passed. In the background mmfs keeps these, and no others that it was started with.",
    ),
];

const FILES: &[(&str, &str)] = &[
    (
        "/dev/fuse",
        "The kernel's FUSE. Whoever mounts must be able to read and write it.",
    ),
    (
        "/etc/fuse.conf",
        "Needs a line user_allow_other before ordinary users may use --allow-other or --allow-root.",
    ),
    (
        "/etc/mmfs/NAME.conf",
        "SOURCE, MOUNT_POINT and OPTIONS of the systemd service mmfs@NAME.",
    ),
    (
        "/run/systemd/journal/socket, /dev/log",
        "Take the log lines of a mount in the background: the first one of the two where something listens.",
    ),
    (
        "/run/mmfs, /run/user/UID/mmfs, /dev/shm/mmfs-UID",
        "Of private views: a file for each store that is mounted, which tells a kill of mmfs from a power cut.",
    ),
    (
        "/etc/mtab",
        "fusermount3 reads it when an ordinary user unmounts. It is a link to /proc/self/mounts.",
    ),
];

const BUGS: &[(&str, &str)] = &[
    (
        "Cached twice",
        "What is read is cached for the source and for the mount, unless --direct-io or --passthrough is given.",
    ),
    ("NFS", "A mount cannot be exported by NFS."),
    (
        "Locks",
        "They hold among users of the mount, and are not shared with programs that lock the source's own files.",
    ),
    (
        "A source that is removed",
        "The mount goes on to show the directory that was removed, also if it was made anew. mmfs --check finds that.",
    ),
    (
        "To report one",
        "Say what mmfs -vV, mmfs status MNT and the log say. docs/troubleshooting.md says where the log is.",
    ),
];

/// All but [`OPTIONS`], in the order of the manual page.
pub fn all() -> Vec<Topic> {
    let topic = |name, about, entries: &[(&str, &str)]| Topic {
        name,
        about,
        entries: entries
            .iter()
            .map(|(term, text)| ((*term).into(), (*text).into()))
            .collect(),
    };
    vec![
        Topic {
            name: "mount-options",
            about: "What can stand after -o",
            entries: mount_options::groups(),
        },
        topic("examples", "Command lines to begin with", EXAMPLES),
        topic("exit-status", "What the exit codes mean", EXIT_STATUS),
        topic("signals", "What each signal does", SIGNALS),
        topic("environment", "Variables that are read", ENVIRONMENT),
        topic("files", "Files that mmfs and its parts read", FILES),
        topic("bugs", "Limits, and how to report a bug", BUGS),
    ]
}

impl Topic {
    /// For a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (term, words) in &self.entries {
            let (term, words) = (wrapped(term, 2), wrapped(words, INDENT));
            // Writing to a string does not fail.
            let _ = writeln!(text, "{term}\n{words}\n");
        }
        text.trim_end().to_owned() + "\n"
    }
}

/// `text` in lines of [`WIDTH`], each indented by so many blanks.
fn wrapped(text: &str, indent: usize) -> String {
    let blanks = " ".repeat(indent);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("never empty");
        if line.is_empty() {
            *line = format!("{blanks}{word}");
        } else if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(format!("{blanks}{word}"));
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join("\n")
}

/// Section SEE ALSO of the manual page.
const SEE_ALSO: &str = "\
.SH SEE ALSO
.BR fusermount3 (1),
.BR mount.fuse3 (8),
.BR mount (8),
.BR umount (8),
.BR fstab (5),
.BR mmap (2)
";

/// The sections of the manual page that stand behind the options and verbs, in the language of man(7).
pub fn sections() -> String {
    let mut page = String::new();
    for topic in all() {
        let heading = topic.name.replace('-', " ").to_uppercase();
        page += &format!(".SH {heading}\n");
        for (term, text) in &topic.entries {
            page += &format!(".TP\n\\fB{}\\fR\n{}\n", escaped(term), escaped(text));
        }
    }
    page + SEE_ALSO
}

/// `command` as its manual page is made of it: every option has its text, and what stands behind the options of `--help` is
/// said in sections.
pub fn for_manual(command: Command) -> Command {
    command
        .after_long_help(None::<&str>)
        .mut_args(|arg| arg.hide_short_help(false))
}

/// `page`, the manual page of `command`, with the headings of its options below OPTIONS, and not beside it.
pub fn with_groups(page: &str, command: &Command) -> String {
    let groups = command
        .get_arguments()
        .filter_map(|arg| arg.get_help_heading());
    let groups: Vec<&str> = groups.collect();
    let lines = page.lines().map(|line| {
        let heading = line
            .strip_prefix(".SH ")
            .map(|heading| heading.trim_matches('"'));
        let group = groups
            .iter()
            .find(|group| heading == Some(group.to_uppercase().as_str()));
        group.map_or_else(|| line.to_owned(), |group| format!(".SS \"{group}\""))
    });
    lines.map(|line| line + "\n").collect()
}

/// `text` as man(7) takes it: no character of it is a command.
fn escaped(text: &str) -> String {
    let text = text
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('~', "\\(ti");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_a_command_of_man() {
        assert_eq!(escaped(r".-\,~"), r"\&.\-\e,\(ti");
        let page = sections();
        for line in page.lines().filter(|line| line.starts_with('.')) {
            assert!(
                [".SH ", ".TP", ".BR "]
                    .iter()
                    .any(|known| line.starts_with(known)),
                "{line}"
            );
        }
    }

    #[test]
    fn topics_fit_a_terminal() {
        for topic in all() {
            let text = topic.text();
            assert!(!text.trim().is_empty(), "{}", topic.name);
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{}: {line}", topic.name);
            }
        }
    }
}
