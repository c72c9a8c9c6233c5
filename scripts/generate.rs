//! What is made from the definition that `--help` shows:
//!
//! - `cargo run --example generate -- DIRECTORY` writes mmfs.1 and the completions for bash, zsh and fish there.
//! - `cargo run --example generate -- --options` prints README's table of options.
//! - `cargo run --example generate -- --publish` writes that table into README.md.

mod options_table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use mmfs::cli::Options;

/// The sections of the manual page that `--help` does not have.
const EXTRA_SECTIONS: &str = r#".SH EXAMPLES
.TP
mmfs ~/photos ~/view
shows ~/photos at ~/view.
.TP
fusermount3 \-u ~/view
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
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path)?;
    let table = options_table::table(&Options::command());
    let readme = options_table::insert(&readme, &table)
        .ok_or_else(|| io::Error::other("README.md lacks a marker of the table of options"))?;
    std::fs::write(path, readme)
}

fn write_share(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut command = Options::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "mmfs", directory)?;
    }
    let mut page = Vec::new();
    Man::new(command).manual("mmfs").render(&mut page)?;
    page.write_all(EXTRA_SECTIONS.as_bytes())?;
    std::fs::write(directory.join("mmfs.1"), page)
}
