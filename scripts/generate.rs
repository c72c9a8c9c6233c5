//! What is made from the definition that `--help` shows:
//!
//! - `cargo run --example generate -- DIRECTORY` writes mmfs.1, a page for each verb, and the completions for bash, zsh
//!   and fish there.
//! - `cargo run --example generate -- --options` prints the table of options.
//! - `cargo run --example generate -- --publish` writes that table into docs/configuration.md.

mod completions;
mod options_table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use mmfs::cli::{Options, command};
use mmfs::version::VERSION;

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

fn main() -> io::Result<()> {
    let argument = std::env::args_os().nth(1);
    match argument.as_deref().map(|argument| argument.to_str()) {
        None => Err(io::Error::other(
            "usage: generate DIRECTORY | --options | --publish",
        )),
        Some(Some("--options")) => {
            io::stdout().write_all(options_table::table(&Options::command()).as_bytes())
        }
        Some(Some("--publish")) => publish(),
        Some(_) => write_share(&argument.map(PathBuf::from).unwrap_or_default()),
    }
}

fn publish() -> io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(&path)?;
    let table = options_table::table(&Options::command());
    let page = options_table::insert(&page, &table)
        .ok_or_else(|| io::Error::other("docs/configuration.md lacks a marker of the table"))?;
    std::fs::write(path, page)
}

fn write_share(directory: &Path) -> io::Result<()> {
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
