//! The log of the machine, for mounts in the background: the journal, else syslog. One datagram a line.
//!
//! Both protocols are a few lines each. A request must not wait for a log daemon that hangs, which may itself be waiting
//! for this mount. Libraries for either protocol wait without a limit or do not connect again, so this is our own.

use std::fmt::Display;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use log::{Level, Record};
use rustix::io::{Errno, Result, retry_on_intr};
use rustix::net::{SendFlags, send};

use crate::service;

/// Where journald listens (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Where a syslog daemon listens (syslog(3)).
const SYSLOG: &str = "/dev/log";

/// LOG_DAEMON of syslog(3).
const FACILITY: u8 = 3;

const IDENTIFIER: &str = "mmfs";

/// How long one line waits for room. Until a line has got through again, none waits.
const WAIT: Duration = Duration::from_millis(200);

/// A log daemon of the machine.
#[derive(Debug)]
pub struct Collector {
    socket: UnixDatagram,
    path: PathBuf,
    protocol: Protocol,
    /// Lines for which there was no room, since the last one that got through.
    lost: AtomicU64,
}

#[derive(Debug)]
enum Protocol {
    /// With the fields that all lines have.
    Journal(Vec<u8>),
    Syslog,
}

impl Collector {
    /// The log daemon of this machine, to be told of the mount that shows `source` at `mount_point`.
    pub fn find(source: &Path, mount_point: &Path) -> Option<Self> {
        let mut fields = Vec::new();
        field(&mut fields, "SYSLOG_IDENTIFIER", IDENTIFIER.as_bytes());
        field(
            &mut fields,
            "SYSLOG_FACILITY",
            FACILITY.to_string().as_bytes(),
        );
        field(&mut fields, "MMFS_SOURCE", source.as_os_str().as_bytes());
        let mount_point = mount_point.as_os_str().as_bytes();
        field(&mut fields, "MMFS_MOUNT_POINT", mount_point);
        Self::connect(Path::new(JOURNAL), Protocol::Journal(fields))
            .or_else(|| Self::connect(Path::new(SYSLOG), Protocol::Syslog))
    }

    fn connect(path: &Path, protocol: Protocol) -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_write_timeout(Some(WAIT)).ok()?;
        socket.connect(path).ok()?;
        Some(Self {
            socket,
            path: path.into(),
            protocol,
            lost: AtomicU64::new(0),
        })
    }

    /// Sends one line.
    pub fn log(&self, record: &Record<'_>) {
        let lost = self.lost.load(Relaxed);
        if lost > 0
            && self
                .send(&self.lines_lost(lost), SendFlags::DONTWAIT)
                .is_ok()
        {
            self.lost.fetch_sub(lost, Relaxed);
        }
        let wait = match self.lost.load(Relaxed) {
            0 => SendFlags::empty(),
            _ => SendFlags::DONTWAIT,
        };
        if self.send(&self.datagram(record), wait).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// A daemon that was restarted has a new socket at the same place.
    fn send(&self, datagram: &[u8], flags: SendFlags) -> Result<()> {
        let send =
            |flags| retry_on_intr(|| send(&self.socket, datagram, flags | SendFlags::NOSIGNAL));
        match send(flags) {
            Err(Errno::CONNREFUSED | Errno::CONNRESET | Errno::NOTCONN | Errno::PIPE) => {
                let connected = self.socket.connect(&self.path);
                connected.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                send(flags | SendFlags::DONTWAIT)
            }
            result => result,
        }
        .map(drop)
    }

    fn lines_lost(&self, count: u64) -> Vec<u8> {
        self.datagram(
            &Record::builder()
                .level(Level::Warn)
                .target(module_path!())
                .args(format_args!(
                    "{count} lines before this one were lost: nobody took them"
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
            // Without the time: every syslog daemon then puts in when it got the line.
            Protocol::Syslog => {
                let sentence = record.args().to_string().replace('\n', " ");
                let (number, pid) = (FACILITY << 3 | priority, std::process::id());
                format!("<{number}>{IDENTIFIER}[{pid}]: {sentence}").into_bytes()
            }
        }
    }
}

/// Adds a field to an entry of the journal. A value of several lines has its length before it.
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

    fn say(collector: &Collector, level: Level, text: &str) {
        let mut record = Record::builder();
        record.level(level).target("mmfs::here");
        collector.log(&record.args(format_args!("{text}")).build());
    }

    /// A socket of our own in the place of journald's or of a syslog daemon's.
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
            Collector::connect(&base.path().join("socket"), Protocol::Journal(fields)).unwrap();
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
        let collector = Collector::connect(&path, Protocol::Syslog).unwrap();
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
    fn nobody_waits_long_for_a_daemon_that_hangs_and_lost_lines_are_counted() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("log");
        let syslog = fake(&path);
        let collector = Collector::connect(&path, Protocol::Syslog).unwrap();
        // More than any queue holds; with a wait for each line this would take minutes.
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
        let collector = Collector::connect(&path, Protocol::Syslog).unwrap();
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
    fn where_nobody_listens_there_is_none() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("log");
        assert!(Collector::connect(&path, Protocol::Syslog).is_none());
        drop(fake(&path));
        assert!(Collector::connect(&path, Protocol::Syslog).is_none());
    }
}
