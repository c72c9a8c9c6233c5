//! Writes mmfs.1 and the completions for bash, zsh and fish into a directory, from the definition that
//! `--help` shows: `cargo run --example generate -- target/share`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use mmfs::cli::Options;

/// What a manual has and `--help` has not.
const MORE: &str = r#".SH EXAMPLES
.TP
mmfs ~/photos ~/view
shows one at the other, until:
.TP
fusermount3 \-u ~/view
.TP
mmfs \-f \-o ro,allow_other /data /mnt/view
stays in the foreground, for everybody, and changes nothing.
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
are what systemd sets: mmfs says when it is ready and stopping, gives signs of life, and marks its log
lines with their priorities.
.SH FILES
.TP
/etc/fuse.conf
needs a line user_allow_other before ordinary users may say \-\-allow\-other or \-\-allow\-root.
.SH SEE ALSO
.BR fusermount3 (1),
.BR mount.fuse3 (8),
.BR mount (8),
.BR fstab (5),
.BR mmap (2)
"#;

fn main() -> io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: generate DIRECTORY"));
    };
    std::fs::create_dir_all(&directory)?;
    let mut command = Options::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "mmfs", &directory)?;
    }
    let mut page = Vec::new();
    Man::new(command).manual("mmfs").render(&mut page)?;
    page.write_all(MORE.as_bytes())?;
    std::fs::write(directory.join("mmfs.1"), page)
}
