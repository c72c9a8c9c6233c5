//! Sends log lines of background mounts to the machine's log daemon: to journald, or else to a syslog daemon. A line is one
//! datagram. If the syslog socket is a stream, a line ends with a NUL byte.
//!
//! A request must not wait for a log daemon that hangs. The log daemon may itself wait for this mount. Libraries for these
//! protocols wait without a limit, or do not reconnect, so mmfs uses none.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use log::{Level, Record};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result, ioctl_fionbio, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{Shutdown, connect, send, shutdown, socket_with};

use crate::service;
use crate::terminal::one_line;

/// Where journald listens (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Where a syslog daemon listens (syslog(3)).
const SYSLOG: &str = "/dev/log";

/// LOG_DAEMON of syslog(3).
const FACILITY: u8 = 3;

const IDENTIFIER: &str = "mmfs";

/// How long a line waits for room in the socket. After a line was lost, further lines do not wait until one has been sent.
const SEND_TIMEOUT: Duration = Duration::from_millis(200);

/// The machine's log daemon.
#[derive(Debug)]
pub struct Collector {
    place: Place,
    protocol: Protocol,
    line: Mutex<Line>,
}

/// Where a log daemon listens. The directory is held open because its path may later lead through our own mount.
#[derive(Debug)]
struct Place {
    directory: OwnedFd,
    name: OsString,
}

#[derive(Debug)]
enum Protocol {
    /// With the fields of all lines.
    Journal(Vec<u8>),
    Syslog,
}

/// The connection, on which one line at a time is sent: lines of a stream must not mix.
#[derive(Debug)]
struct Line {
    socket: Socket,
    /// Number of lines that were lost since the last one that was sent.
    lost: u64,
}

#[derive(Debug)]
struct Socket {
    socket: OwnedFd,
    is_stream: bool,
}

impl Collector {
    /// The log daemon of this machine.
    pub fn find() -> Option<Self> {
        let mut fields = Vec::new();
        field(&mut fields, "SYSLOG_IDENTIFIER", IDENTIFIER.as_bytes());
        field(
            &mut fields,
            "SYSLOG_FACILITY",
            FACILITY.to_string().as_bytes(),
        );
        Self::at(Path::new(JOURNAL), Protocol::Journal(fields))
            .or_else(|| Self::at(Path::new(SYSLOG), Protocol::Syslog))
    }

    fn at(path: &Path, protocol: Protocol) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = Place {
            directory: rustix::fs::open(path.parent()?, flags, Mode::empty()).ok()?,
            name: path.file_name()?.into(),
        };
        let line = Mutex::new(Line {
            socket: Socket::connect(&place).ok()?,
            lost: 0,
        });
        Some(Self {
            place,
            protocol,
            line,
        })
    }

    /// Adds the fields MMFS_SOURCE and MMFS_MOUNT_POINT to each line in the journal.
    pub fn about(mut self, source: &Path, mount_point: &Path) -> Self {
        if let Protocol::Journal(fields) = &mut self.protocol {
            for (name, path) in [("MMFS_SOURCE", source), ("MMFS_MOUNT_POINT", mount_point)] {
                field(fields, name, path.as_os_str().as_bytes());
            }
        }
        self
    }

    /// Sends one line.
    pub fn log(&self, record: &Record<'_>) {
        let text = self.datagram(record);
        let mut line = self.line.lock();
        if line.lost > 0 {
            let count = self.lines_lost(line.lost);
            if self.send(&mut line, &count, SendFlags::DONTWAIT).is_ok() {
                line.lost = 0;
            }
        }
        let wait = match line.lost {
            0 => SendFlags::empty(),
            _ => SendFlags::DONTWAIT,
        };
        if self.send(&mut line, &text, wait).is_err() {
            line.lost += 1;
        }
    }

    /// Sends one line. Connects again if the log daemon was restarted: it has a new socket under the same path.
    fn send(&self, line: &mut Line, text: &[u8], flags: SendFlags) -> Result<()> {
        match line.socket.send(text, flags) {
            Err(Errno::CONNREFUSED | Errno::CONNRESET | Errno::NOTCONN | Errno::PIPE) => {
                line.socket = Socket::connect(&self.place)?;
                line.socket.send(text, SendFlags::DONTWAIT)
            }
            result => result,
        }
    }

    fn lines_lost(&self, count: u64) -> Vec<u8> {
        self.datagram(
            &Record::builder()
                .level(Level::Warn)
                .target(module_path!())
                .args(format_args!(
                    "{count} lines before this one were lost: the log daemon did not take them"
                ))
                .build(),
        )
    }

    fn datagram(&self, record: &Record<'_>) -> Vec<u8> {
        let priority = service::severity(record.level());
        match &self.protocol {
            Protocol::Journal(fields) => {
                let mut text = fields.clone();
                let mut add = |name, value: &dyn Display| {
                    field(&mut text, name, value.to_string().as_bytes());
                };
                add("PRIORITY", &priority);
                add("MESSAGE", record.args());
                add("MMFS_MODULE", &record.target());
                if let (Some(file), Some(line)) = (record.file(), record.line()) {
                    add("CODE_FILE", &file);
                    add("CODE_LINE", &line);
                }
                text
            }
            // Without the time: every syslog daemon then adds the time at which it received the line.
            Protocol::Syslog => {
                let sentence = one_line(&record.args().to_string());
                let (number, pid) = (FACILITY << 3 | priority, std::process::id());
                format!("<{number}>{IDENTIFIER}[{pid}]: {sentence}").into_bytes()
            }
        }
    }
}

impl Socket {
    /// Connects without waiting. Tries a datagram socket first, then a stream, as syslog(3) does.
    fn connect(place: &Place) -> Result<Self> {
        let link = Path::new("/proc/self/fd").join(place.directory.as_raw_fd().to_string());
        let address = SocketAddrUnix::new(link.join(&place.name))?;
        let of_kind = |kind| -> Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
            connect(&socket, &address)?;
            ioctl_fionbio(&socket, false)?;
            set_socket_timeout(&socket, Timeout::Send, Some(SEND_TIMEOUT))?;
            Ok(socket)
        };
        let (socket, is_stream) = match of_kind(SocketType::DGRAM) {
            Err(Errno::PROTOTYPE) => (of_kind(SocketType::STREAM)?, true),
            socket => (socket?, false),
        };
        Ok(Self { socket, is_stream })
    }

    /// Sends all of `text`. If only a part of it fits into a stream, the stream is unusable: the result is EPIPE.
    fn send(&self, text: &[u8], flags: SendFlags) -> Result<()> {
        let end: &[u8] = if self.is_stream { b"\0" } else { b"" };
        let text = [text, end].concat();
        let sent = retry_on_intr(|| send(&self.socket, &text, flags | SendFlags::NOSIGNAL))?;
        match sent == text.len() {
            true => Ok(()),
            false => {
                // Nothing may be sent on this socket again, even if no new connection succeeds. An error means that it is closed.
                let _ = shutdown(&self.socket, Shutdown::Both);
                Err(Errno::PIPE)
            }
        }
    }
}

/// Adds a field to a journal entry. A value with a newline is preceded by its length.
fn field(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    // Writing to a Vec does not fail.
    let _ = match value.contains(&b'\n') {
        false => write!(entry, "{name}="),
        true => writeln!(entry, "{name}")
            .and_then(|()| entry.write_all(&(value.len() as u64).to_le_bytes())),
    };
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    fn say(collector: &Collector, level: Level, text: &str) {
        let mut record = Record::builder();
        record.level(level).target("mmfs::here");
        collector.log(&record.args(format_args!("{text}")).build());
    }

    /// A socket in place of that of journald or of a syslog daemon.
    fn fake(path: &Path) -> UnixDatagram {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    fn heard(socket: &UnixDatagram) -> Option<Vec<u8>> {
        let mut datagram = vec![0; 1 << 16];
        let length = socket.recv(&mut datagram).ok()?;
        datagram.truncate(length);
        Some(datagram)
    }

    #[test]
    fn an_entry_of_the_journal_has_fields_of_any_bytes() {
        let base = tempfile::tempdir().unwrap();
        let journald = fake(&base.path().join("socket"));
        let mut fields = Vec::new();
        field(&mut fields, "MMFS_SOURCE", b"/caf\xe9\n");
        let collector =
            Collector::at(&base.path().join("socket"), Protocol::Journal(fields)).unwrap();
        say(&collector, Level::Error, "two\nlines");
        let expected = [
            &b"MMFS_SOURCE\n\x06\0\0\0\0\0\0\0/caf\xe9\n\n"[..],
            b"PRIORITY=3\nMESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\nMMFS_MODULE=mmfs::here\n",
        ];
        assert_eq!(heard(&journald).unwrap(), expected.concat());
    }

    #[test]
    fn a_line_of_syslog_has_facility_severity_and_process() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("log");
        let syslog = fake(&path);
        let collector = Collector::at(&path, Protocol::Syslog).unwrap();
        for (level, number) in [
            (Level::Error, 27),
            (Level::Warn, 28),
            (Level::Info, 30),
            (Level::Trace, 31),
        ] {
            say(&collector, level, "two\nlines");
            let expected = format!("<{number}>mmfs[{}]: two lines", std::process::id());
            assert_eq!(heard(&syslog).unwrap(), expected.into_bytes());
        }
    }

    #[test]
    fn no_line_waits_long_for_a_daemon_that_hangs_and_lost_lines_are_counted() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("log");
        let syslog = fake(&path);
        let collector = Collector::at(&path, Protocol::Syslog).unwrap();
        // More than any queue holds. If each line waited, this would take minutes.
        let began = std::time::Instant::now();
        for number in 0..2000 {
            say(&collector, Level::Warn, &number.to_string());
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{:?}",
            began.elapsed()
        );
        let got = std::iter::from_fn(|| heard(&syslog)).count() as u64;
        assert!(got > 0 && got < 2000, "{got}");
        say(&collector, Level::Warn, "the next one");
        let count = format!("{} lines before this one were lost", 2000 - got);
        let text = String::from_utf8(heard(&syslog).unwrap()).unwrap();
        assert!(text.contains(&count), "{text}");
        assert!(heard(&syslog).unwrap().ends_with(b"the next one"));
    }

    #[test]
    fn a_daemon_that_was_restarted_is_found_again() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("log");
        let syslog = fake(&path);
        let collector = Collector::at(&path, Protocol::Syslog).unwrap();
        drop(syslog);
        say(&collector, Level::Warn, "to nobody");
        std::fs::remove_file(&path).unwrap();
        let syslog = fake(&path);
        say(&collector, Level::Warn, "again");
        let text = String::from_utf8(heard(&syslog).unwrap()).unwrap();
        assert!(text.contains("1 lines before this one were lost"), "{text}");
        assert!(heard(&syslog).unwrap().ends_with(b"again"));
    }

    #[test]
    fn a_syslog_that_takes_a_stream_gets_one() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("log");
        let syslog = UnixListener::bind(&path).unwrap();
        let collector = Collector::at(&path, Protocol::Syslog).unwrap();
        let began = std::time::Instant::now();
        let filler = "x".repeat(1000);
        say(&collector, Level::Warn, "first");
        // More than the queue of a socket holds. The daemon has not accepted the connection yet.
        for _ in 0..2000 {
            say(&collector, Level::Warn, &filler);
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{:?}",
            began.elapsed()
        );
        let mut connections = Vec::new();
        syslog.set_nonblocking(true).unwrap();
        while let Ok((connection, _)) = syslog.accept() {
            connection.set_nonblocking(true).unwrap();
            connections.push(connection);
        }
        let mut heard = Vec::new();
        for connection in &mut connections {
            // The connection is still open, so the read ends with EAGAIN.
            let _ = connection.read_to_end(&mut heard);
        }
        say(&collector, Level::Warn, "last");
        let mut last = Vec::new();
        for connection in &mut connections {
            let _ = connection.read_to_end(&mut last);
        }
        let pid = std::process::id();
        let first = format!("<28>mmfs[{pid}]: first\0<28>mmfs[{pid}]: {filler}\0");
        assert!(heard.starts_with(first.as_bytes()));
        let last = String::from_utf8(last).unwrap();
        assert!(last.contains(" lines before this one were lost"), "{last}");
        assert!(
            last.ends_with(&format!("<28>mmfs[{pid}]: last\0")),
            "{last}"
        );
        // The daemon is restarted.
        drop((connections, syslog));
        std::fs::remove_file(&path).unwrap();
        let syslog = UnixListener::bind(&path).unwrap();
        say(&collector, Level::Warn, "again");
        let mut again = vec![0; 1000];
        let length = syslog.accept().unwrap().0.read(&mut again).unwrap();
        assert_eq!(
            again[..length],
            *format!("<28>mmfs[{pid}]: again\0").as_bytes()
        );
    }

    #[test]
    fn without_a_listening_socket_there_is_no_collector() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("log");
        assert!(Collector::at(&path, Protocol::Syslog).is_none());
        drop(fake(&path));
        assert!(Collector::at(&path, Protocol::Syslog).is_none());
    }
}
