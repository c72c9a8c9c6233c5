//! Log lines: to standard error, to a file that SIGHUP opens anew, or from the background to the journal or syslog. A
//! flood is cut to a trickle, and a stream that nobody reads is no reason to fail.
//!
//! On a terminal, and while a mount in the background starts, a line is `mmfs: sentence`. Where nobody else adds them,
//! lines have time, level and module.

mod collector;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use env_logger::fmt::Formatter;
use env_logger::{Builder, Logger, Target};
use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;

use collector::Collector;

use crate::config::LogConfig;
use crate::refusal::StartError;
use crate::service;
use crate::sys::identity;
use crate::utc;

/// Warnings and errors that one module may log within [`PERIOD`].
const MAX_LINES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(1);

/// The target of lines that somebody has asked for by a signal: `-q` does not hide them.
pub const REPORT: &str = "mmfs::report";

/// Where the FUSE library logs each request, with its arguments.
const REQUESTS: &str = "fuser::request";

/// How long the old log file may be in use before a new one is given up.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

static FAULTED_REPLIES: AtomicU64 = AtomicU64::new(0);

static FILE: OnceLock<LogFile> = OnceLock::new();

/// Found before anything is mounted: later the way to it may lead through our own mount.
static FOUND: Mutex<Option<Collector>> = Mutex::new(None);

/// Set when the daemon has left the terminal.
static COLLECTOR: OnceLock<Collector> = OnceLock::new();

struct LogFile {
    path: PathBuf,
    file: Mutex<File>,
}

/// Starts logging. A daemon without a log file calls [`leave_terminal`] before its mount answers.
///
/// # Errors
/// The log file cannot be opened.
pub fn start(config: &LogConfig) -> Result<(), StartError> {
    let mut builder = Builder::new();
    builder
        .filter_level(level(config.verbosity))
        .filter_module("fuser", LevelFilter::Error)
        .filter_module(REPORT, LevelFilter::Trace);
    if config.verbosity >= 3 {
        builder.filter_module(REQUESTS, LevelFilter::Debug);
    }
    if config.verbosity <= -2 {
        builder.filter_module("fuser", LevelFilter::Off);
        builder.filter_module(REPORT, LevelFilter::Off);
    }
    builder.parse_env("RUST_LOG").target(Target::Stderr);
    if config.file.is_none() && service::logs_to_journal() {
        builder.format(journal_line);
    } else if config.file.is_none() && (!config.foreground || io::stderr().is_terminal()) {
        builder.format(sentence);
    } else {
        builder.format(line);
    }
    if config.file.is_none() && !config.foreground {
        *FOUND.lock() = Collector::find();
    }
    if let Some(path) = &config.file {
        let file = append(path).map_err(|error| StartError::Log(path.clone(), error))?;
        // Set twice only if the program started logging twice; the first file stays then.
        let _ = FILE.set(LogFile {
            path: path.clone(),
            file: Mutex::new(file),
        });
        builder.target(Target::Pipe(Box::new(ToFile)));
    }
    let logger = builder.build();
    log::set_max_level(logger.filter());
    // Fails only when a logger is set already (in tests): that one does as well.
    let _ = log::set_boxed_logger(Box::new(Trickle {
        logger,
        taps: Mutex::default(),
    }));
    Ok(())
}

/// One line of the journal, which has the time already. Further lines would lose the priority.
fn journal_line(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let text = record.args().to_string().replace('\n', " ");
    writeln!(out, "{}{text}", service::priority(record.level()))
}

/// One line for a person.
fn sentence(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let text = record.args().to_string().replace('\n', " ");
    writeln!(out, "mmfs: {text}")
}

/// One line with time, level and module, where nobody else adds them.
fn line(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let text = record.args().to_string().replace('\n', " ");
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = utc::second(now.unwrap_or_default().as_secs()).unwrap_or_default();
    let (level, target) = (record.level(), record.target());
    writeln!(out, "[{now} {level:<5} {target}] {text}")
}

/// The mount that shows `source` at `mount_point` goes on in the background, where standard error is not its own: lines
/// go to the log file if there is one, else to the journal, else to syslog. Says so where all of them are missing. A
/// panic, which is otherwise printed, is logged.
pub fn leave_terminal(source: &Path, mount_point: &Path) {
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    if FILE.get().is_some() {
        return;
    }
    match FOUND.lock().take() {
        // Set twice only if the program left the terminal twice; the first one stays then.
        Some(collector) => drop(COLLECTOR.set(collector.about(source, mount_point))),
        None => log::warn!(
            "log lines go nowhere from here on: there is neither a journal nor a syslog here; name a file with --log"
        ),
    }
}

/// Opens the log file anew, after it has been renamed by whoever rotates logs. The old one stays in
/// use when that fails. The file's filesystem may not answer, so whoever must hear signals leaves this to another thread.
pub fn reopen() {
    let Some(log) = FILE.get() else { return };
    match identity::create_for_ourselves(|| append(&log.path)) {
        // Whoever holds it for longer is writing to a file that does not take it.
        Ok(fresh) => {
            if let Some(mut file) = log.file.try_lock_for(LOCK_TIMEOUT) {
                *file = fresh;
            }
        }
        Err(error) => log::error!("cannot open {:?} anew: {error}", log.path),
    }
}

/// Nobody is waited for who may never come: lines that a FIFO does not take at once are lost.
fn append(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).append(true);
    options.custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| {
        let kind = path.metadata().map(|data| data.file_type());
        match error.raw_os_error() == Some(libc::ENXIO) && kind.is_ok_and(|kind| kind.is_fifo()) {
            true => io::Error::other("it is a FIFO from which nobody reads"),
            false => error,
        }
    })?;
    let kind = file.metadata()?.file_type();
    match kind.is_file() || kind.is_char_device() || kind.is_fifo() {
        true => Ok(file),
        false => Err(io::Error::other("it is no file for text")),
    }
}

fn level(verbosity: i8) -> LevelFilter {
    match verbosity {
        ..=-2 => LevelFilter::Off,
        -1 => LevelFilter::Error,
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        3.. => LevelFilter::Trace,
    }
}

/// Writes to the log file as it is at the moment.
struct ToFile;

impl Write for ToFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        FILE.get()
            .map_or(Ok(bytes.len()), |log| log.file.lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lets [`MAX_LINES`] warnings and errors per [`PERIOD`] and module through, and counts the rest.
struct Trickle {
    logger: Logger,
    taps: Mutex<HashMap<String, Tap>>,
}

/// What one module has said in the period that began at `since`.
struct Tap {
    since: Instant,
    said: u32,
}

impl Tap {
    /// Whether one more line may be said now, and how many were kept back before it.
    fn admit(&mut self, now: Instant) -> (bool, u32) {
        let mut kept_back = 0;
        if now.duration_since(self.since) >= PERIOD {
            kept_back = self.said.saturating_sub(MAX_LINES);
            *self = Self {
                since: now,
                said: 0,
            };
        }
        self.said = self.said.saturating_add(1);
        (self.said <= MAX_LINES, kept_back)
    }
}

impl Trickle {
    fn write(&self, record: &Record<'_>) {
        match COLLECTOR.get() {
            Some(collector) => collector.log(record),
            None => self.logger.log(record),
        }
    }
}

impl Log for Trickle {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if is_cancelled_request(record) {
            return;
        }
        if is_faulted_reply(record) {
            FAULTED_REPLIES.fetch_add(1, Relaxed);
        }
        if !self.logger.matches(record) {
            return;
        }
        if record.level() > Level::Warn {
            return self.write(record);
        }
        let now = Instant::now();
        let fresh = || Tap {
            since: now,
            said: 0,
        };
        let mut taps = self.taps.lock();
        let (admitted, kept_back) = taps
            .entry(record.target().into())
            .or_insert_with(fresh)
            .admit(now);
        drop(taps);
        if kept_back > 0 {
            self.write(
                &Record::builder()
                    .metadata(record.metadata().clone())
                    .args(format_args!(
                        "{kept_back} more lines like these were kept back"
                    ))
                    .build(),
            );
        }
        if admitted {
            self.write(record);
        }
    }

    fn flush(&self) {
        self.logger.flush();
    }
}

/// A reply to a request whose caller was killed meanwhile finds nobody (ENOENT), which is no news.
fn is_cancelled_request(record: &Record<'_>) -> bool {
    record.target() == "fuser::reply" && record.args().to_string().ends_with("(os error 2)")
}

/// A reply lent from a mapping that a file no longer reaches: its client gets EIO.
fn is_faulted_reply(record: &Record<'_>) -> bool {
    record.target() == "fuser::reply" && record.args().to_string().ends_with("(os error 14)")
}

/// How many replies were lent from bytes that had gone, as far as errors are logged: the FUSE library says so in no other way.
pub fn faulted_replies() -> u64 {
    FAULTED_REPLIES.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_trickle_with_a_count() {
        let start = Instant::now();
        let mut tap = Tap {
            since: start,
            said: 0,
        };
        let said = (0..100).filter(|_| tap.admit(start).0).count();
        assert_eq!(said, MAX_LINES as usize);
        assert_eq!(tap.admit(start + PERIOD), (true, 90));
        assert_eq!(tap.admit(start + PERIOD * 2), (true, 0));
    }

    #[test]
    fn nobody_is_waited_for_who_may_never_read_the_log() {
        let base = tempfile::tempdir().unwrap();
        let fifo = base.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(append(&fifo).unwrap_err().to_string().contains("FIFO"));
        let mut reader = File::options();
        reader.read(true).custom_flags(libc::O_NONBLOCK);
        let _reader = reader.open(&fifo).unwrap();
        let mut log = append(&fifo).unwrap();
        // More than it takes.
        while log.write(&[0; 4096]).is_ok() {}
        assert!(append(base.path()).is_err());
        assert!(append(Path::new("/dev/null")).is_ok());
    }

    #[test]
    fn quiet_and_verbose_move_the_level_either_way() {
        assert_eq!(level(0), LevelFilter::Warn);
        assert_eq!(
            (level(-9), level(9)),
            (LevelFilter::Off, LevelFilter::Trace)
        );
    }
}
