//! Files that are made from the definition that `--help` shows: manual pages and completions.

mod completions;

use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

use crate::cli::command;
use crate::refusal::StartError;
use crate::version::VERSION;

/// The sections of the manual page that `--help` does not have.
const EXTRA_SECTIONS: &str = r#".SH EXAMPLES
.TP
mmfs ~/photos ~/view
shows ~/photos at ~/view.
.TP
mmfs unmount ~/view
unmounts it.
.TP
mmfs \-f \-o ro,allow_other /data /mnt/view
stays in the foreground, lets all users access the mount, and refuses every change.
.TP
/data /mnt/view fuse.mmfs defaults,allow_other 0 0
is a line of /etc/fstab; mount.fuse3 finds mmfs in PATH.
.TP
systemctl enable \-\-now mmfs@data
mounts as /etc/mmfs/data.conf says.
.SH ENVIRONMENT
.TP
RUST_LOG
overrides \-v and \-q: off, error, warn, info, debug, trace.
.TP
NOTIFY_SOCKET, WATCHDOG_USEC, JOURNAL_STREAM
are set by systemd. mmfs tells it when the mount answers and when it ends, notifies its watchdog, and puts
priorities before its log lines.
.TP
LISTEN_FDS, LISTEN_PID
name descriptors that systemd has passed. In the background mmfs keeps them, and no others that it was started with.
.SH FILES
.TP
/run/systemd/journal/socket, /dev/log
take the log lines of a mount in the background: the first one of the two where something listens.
.TP
/etc/fuse.conf
must have a line user_allow_other before ordinary users may use \-\-allow\-other or \-\-allow\-root.
.SH SEE ALSO
.BR fusermount3 (1),
.BR mount.fuse3 (8),
.BR mount (8),
.BR fstab (5),
.BR mmap (2)
"#;

/// Writes mmfs.1, a page for each verb, and the completions for bash, zsh and fish into `directory`, which is made if it is
/// missing.
///
/// # Errors
/// A file cannot be written.
pub fn write(directory: &Path) -> Result<(), StartError> {
    let failed = |error| StartError::Verb(format!("cannot write into {directory:?}: {error}"));
    write_all(directory).map_err(failed)
}

fn write_all(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for (name, text) in completions::files() {
        std::fs::write(directory.join(name), text)?;
    }
    let command = command().subcommand_help_heading("VERBS");
    for verb in command.get_subcommands() {
        let name = format!("mmfs-{}", verb.get_name());
        let see_also = ".SH SEE ALSO\n.BR mmfs (1)\n";
        write_page(directory, &name, page_of(verb), see_also)?;
    }
    write_page(directory, "mmfs", command, EXTRA_SECTIONS)
}

/// The verb as a command with a manual page of its own.
fn page_of(verb: &Command) -> Command {
    let name = verb.get_name();
    verb.clone()
        .name("mmfs")
        .bin_name(format!("mmfs {name}"))
        .display_name(format!("mmfs-{name}"))
        .version(VERSION)
        .disable_version_flag(true)
}

fn write_page(directory: &Path, name: &str, command: Command, more: &str) -> io::Result<()> {
    let mut page = Vec::new();
    Man::new(command).manual("mmfs").render(&mut page)?;
    page.write_all(more.as_bytes())?;
    std::fs::write(directory.join(format!("{name}.1")), page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Options;
    use clap::CommandFactory;

    #[test]
    fn a_page_for_each_verb_and_completions_without_hidden_options() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("made/for it");
        write(&directory).unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
        assert!(read("mmfs.1").contains(".SH EXAMPLES"));
        for verb in command().get_subcommands() {
            read(&format!("mmfs-{}.1", verb.get_name()));
        }
        let options = Options::command();
        for name in ["mmfs.bash", "_mmfs", "mmfs.fish"] {
            let script = read(name);
            for option in options.get_arguments() {
                let Some(long) = option.get_long() else {
                    continue;
                };
                assert_eq!(
                    script.contains(long),
                    !option.is_hide_set(),
                    "{name}: {long}"
                );
            }
        }
    }

    #[test]
    fn what_cannot_be_written_is_a_sentence_with_the_directory() {
        let error = write(Path::new("/dev/null/pages")).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot write into \"/dev/null/pages\": "),
            "{error}"
        );
    }
}
