//! Log lines. They go to standard error, to a file that SIGHUP opens again, or from the background to the journal or to syslog.
//! The number of lines per second is limited. An error of a write is ignored.
//!
//! On a terminal, and while a background mount starts, a line is `mmfs: sentence`. In a file, and on a standard error that is
//! neither a terminal nor the journal, a line has time, level and module.

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
use crate::terminal::one_line;
use crate::utc;

/// Warnings and errors that one module may log within [`PERIOD`].
const MAX_LINES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(1);

/// The variable that has filters for log lines.
const VARIABLE: &str = "RUST_LOG";

/// The target of the reports of `log_report`. `-q` does not hide them.
pub const REPORT: &str = "mmfs::report";

/// The target under which the FUSE library logs each request with its arguments.
const REQUESTS: &str = "fuser::request";

/// How long `reopen` waits until no thread writes to the old log file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

static FAULTED_REPLIES: AtomicU64 = AtomicU64::new(0);

static FILE: OnceLock<LogFile> = OnceLock::new();

/// The log daemon, opened before the mount, because its path may later lead through our own mount.
static FOUND: Mutex<Option<Collector>> = Mutex::new(None);

/// The log daemon, set when mmfs leaves the terminal.
static COLLECTOR: OnceLock<Collector> = OnceLock::new();

struct LogFile {
    path: PathBuf,
    file: Mutex<File>,
}

/// Starts logging. A daemon without a log file calls [`leave_terminal`] before its mount answers. A valid [`VARIABLE`] is used
/// instead of `-v` and `-q`.
///
/// # Errors
/// The log file cannot be opened.
pub fn start(config: &LogConfig) -> Result<(), StartError> {
    let variable = variable();
    let mut builder = match &variable {
        Ok(Some((filters, LevelFilter::Off))) => filtering(-2, filters),
        Ok(Some((filters, _))) => filtering(0, filters),
        Ok(None) | Err(_) => filtering(config.verbosity, ""),
    };
    builder.target(Target::Stderr);
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
        // Fails only if logging was started twice. Then the first file stays in use.
        let _ = FILE.set(LogFile {
            path: path.clone(),
            file: Mutex::new(file),
        });
        builder.target(Target::Pipe(Box::new(ToFile)));
    }
    let logger = builder.build();
    log::set_max_level(logger.filter());
    // Fails only if a logger is set already, in tests. That one stays in use.
    let _ = log::set_boxed_logger(Box::new(Limited {
        logger,
        modules: Mutex::default(),
    }));
    if let Err(why) = variable {
        log::warn!("the variable RUST_LOG is ignored: {why}");
    }
    Ok(())
}

/// The filters of [`VARIABLE`], and the highest level that they log. The library would print what is wrong with them to standard
/// error.
fn variable() -> Result<Option<(String, LevelFilter)>, String> {
    let Some(filters) = std::env::var_os(VARIABLE).filter(|filters| !filters.is_empty()) else {
        return Ok(None);
    };
    let filters = filters.into_string().map_err(|_| "it is not UTF-8")?;
    let mut parsed = env_filter::Builder::new();
    match parsed.try_parse(&filters) {
        Ok(parsed) => Ok(Some((filters, parsed.build().filter()))),
        Err(error) => {
            let text = error.to_string();
            let why = text
                .split_once("filter: ")
                .map_or(&text[..], |(_, why)| why);
            Err(why.into())
        }
    }
}

/// A logger with the filters for this verbosity, and after them `filters`.
fn filtering(verbosity: i8, filters: &str) -> Builder {
    let mut builder = Builder::new();
    builder
        .filter_level(level(verbosity))
        .filter_module("fuser", LevelFilter::Error)
        .filter_module(REPORT, LevelFilter::Trace);
    if verbosity >= 3 {
        builder.filter_module(REQUESTS, LevelFilter::Debug);
    }
    if verbosity <= -2 {
        builder.filter_module("fuser", LevelFilter::Off);
        builder.filter_module(REPORT, LevelFilter::Off);
    }
    if !filters.is_empty() {
        builder.parse_filters(filters);
    }
    builder
}

/// Writes a line for the journal, which adds the time. It is one line, because further lines would have no priority.
fn journal_line(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let text = one_line(&record.args().to_string());
    writeln!(out, "{}{text}", service::priority(record.level()))
}

/// Writes a line for a terminal.
fn sentence(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let text = one_line(&record.args().to_string());
    writeln!(out, "mmfs: {text}")
}

/// One line with time, level and module, where nobody else adds them.
fn line(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let text = one_line(&record.args().to_string());
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = utc::second(now.unwrap_or_default().as_secs()).unwrap_or_default();
    let (level, target) = (record.level(), record.target());
    writeln!(out, "[{now} {level:<5} {target}] {text}")
}

/// Stops logging to standard error, because the daemon goes to the background. Lines go to the log file if there is one, else to
/// the journal, else to syslog. If all of them are missing, a last line says so. From here on, a panic is logged, not printed.
pub fn leave_terminal(source: &Path, mount_point: &Path) {
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    if FILE.get().is_some() {
        return;
    }
    match FOUND.lock().take() {
        // Fails only if this was called twice. Then the first one stays in use.
        Some(collector) => drop(COLLECTOR.set(collector.about(source, mount_point))),
        None => log::warn!(
            "log lines are lost from here on: there is neither a journal nor a syslog here; name a file with --log"
        ),
    }
}

/// Opens the log file again, after logrotate(8) has renamed it. On an error the old file stays in use. The file's filesystem may
/// not answer, so the thread that handles signals must not call this.
pub fn reopen() {
    let Some(log) = FILE.get() else { return };
    match identity::create_for_daemon(|| append(&log.path)) {
        // If the lock is held for longer, a thread is blocked in write(2) to the old file.
        Ok(fresh) => {
            if let Some(mut file) = log.file.try_lock_for(LOCK_TIMEOUT) {
                *file = fresh;
            }
        }
        Err(error) => log::error!("cannot open {:?} again: {error}", log.path),
    }
}

/// Opens the log file for appending, with O_NONBLOCK. Lines that a FIFO has no room for are lost.
fn append(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).append(true);
    options.custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| {
        let kind = path.metadata().map(|data| data.file_type());
        match error.raw_os_error() == Some(libc::ENXIO) && kind.is_ok_and(|kind| kind.is_fifo()) {
            true => io::Error::other("it is a FIFO without a reader"),
            false => error,
        }
    })?;
    let kind = file.metadata()?.file_type();
    match kind.is_file() || kind.is_char_device() || kind.is_fifo() {
        true => Ok(file),
        false => Err(io::Error::other(
            "it is not a regular file, a FIFO or a character device",
        )),
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

/// Writes to the log file that is open at the moment.
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

/// Logs at most [`MAX_LINES`] warnings and errors per [`PERIOD`] and module, and counts the others.
struct Limited {
    logger: Logger,
    modules: Mutex<HashMap<String, Count>>,
}

/// The lines of one module in the period that began at `since`.
struct Count {
    since: Instant,
    lines: u32,
}

impl Count {
    /// Counts a line. Returns whether it may be logged, and how many lines were suppressed in the period before.
    fn admit(&mut self, now: Instant) -> (bool, u32) {
        let mut suppressed = 0;
        if now.duration_since(self.since) >= PERIOD {
            suppressed = self.lines.saturating_sub(MAX_LINES);
            *self = Self {
                since: now,
                lines: 0,
            };
        }
        self.lines = self.lines.saturating_add(1);
        (self.lines <= MAX_LINES, suppressed)
    }
}

impl Limited {
    fn write(&self, record: &Record<'_>) {
        match COLLECTOR.get() {
            Some(collector) => collector.log(record),
            None => self.logger.log(record),
        }
    }
}

impl Log for Limited {
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
        let fresh = || Count {
            since: now,
            lines: 0,
        };
        let mut modules = self.modules.lock();
        let (admitted, suppressed) = modules
            .entry(record.target().into())
            .or_insert_with(fresh)
            .admit(now);
        drop(modules);
        if suppressed > 0 {
            self.write(
                &Record::builder()
                    .metadata(record.metadata().clone())
                    .args(format_args!(
                        "{suppressed} more lines of this module were suppressed"
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

/// Whether the FUSE library logs ENOENT for a reply. That is normal: the caller was killed before it got the reply.
fn is_cancelled_request(record: &Record<'_>) -> bool {
    record.target() == "fuser::reply" && record.args().to_string().ends_with("(os error 2)")
}

/// Whether the FUSE library logs EFAULT for a reply. Its bytes were lent from a mapping, and the file has shrunk meanwhile. The
/// client gets EIO.
fn is_faulted_reply(record: &Record<'_>) -> bool {
    record.target() == "fuser::reply" && record.args().to_string().ends_with("(os error 14)")
}

/// How many replies have failed with EFAULT. Not counted with `-qq`: the FUSE library reports the error only in its log.
pub fn faulted_replies() -> u64 {
    FAULTED_REPLIES.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_module_are_limited_and_counted() {
        let start = Instant::now();
        let mut count = Count {
            since: start,
            lines: 0,
        };
        let admitted = (0..100).filter(|_| count.admit(start).0).count();
        assert_eq!(admitted, MAX_LINES as usize);
        assert_eq!(count.admit(start + PERIOD), (true, 90));
        assert_eq!(count.admit(start + PERIOD * 2), (true, 0));
    }

    #[test]
    fn a_fifo_that_no_process_reads_blocks_no_writer() {
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
        // Until the FIFO is full.
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
