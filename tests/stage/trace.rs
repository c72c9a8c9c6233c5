//! The daemon's system calls, by strace.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::fuse::kill;
use crate::common::tools::{text_of, tool, wait_until};

/// Everything that maps, and everything that could move a file's bytes without mapping.
const CALLS: &str = "mmap,munmap,mremap,mprotect,msync,fsync,fdatasync,ftruncate,\
    read,readv,pread64,preadv,preadv2,write,writev,pwrite64,pwritev,pwritev2,copy_file_range,sendfile,splice";
/// Those of them that move bytes.
const MOVING: [&str; 13] = [
    "read",
    "readv",
    "pread64",
    "preadv",
    "preadv2",
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "copy_file_range",
    "sendfile",
    "splice",
];
const PATIENCE: Duration = Duration::from_secs(10);

/// A strace attached to the daemon until dropped.
pub struct Trace {
    strace: Child,
    directory: TempDir,
}

/// One finished system call.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its name, `mmap`.
    pub name: String,
    /// Its arguments as strace prints them, descriptors with their paths: `7</tmp/x>`.
    pub arguments: Vec<String>,
    /// What it returned, as strace prints it.
    pub result: String,
}

impl Trace {
    /// Attaches to every thread of the process; returns when it has.
    #[track_caller]
    pub fn attach(pid: u32) -> Trace {
        let directory = tempfile::tempdir().unwrap();
        let strace = Command::new(tool("strace"))
            .args([
                "-f",
                "-y",
                "-s0",
                "-a1",
                "-q",
                "-e",
                &format!("trace={CALLS}"),
                "-o",
            ])
            .arg(directory.path().join("calls"))
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let trace = Trace { strace, directory };
        assert!(
            wait_until(PATIENCE, || all_traced(pid)),
            "strace did not attach to process {pid}"
        );
        trace
    }

    /// The calls finished so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        parse(&text_of(&self.directory.path().join("calls")))
    }

    /// Waits until the calls so far satisfy the check, and returns them; shows them when they never do.
    #[track_caller]
    pub fn until(&self, what: &str, check: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        let mut calls = Vec::new();
        let seen = wait_until(PATIENCE, || {
            calls = self.calls();
            check(&calls)
        });
        assert!(
            seen,
            "not seen within {PATIENCE:?}: {what}; the calls were\n{}",
            shown(&calls)
        );
        calls
    }

    /// Detaches and returns everything that was seen.
    pub fn finish(mut self) -> Vec<Call> {
        self.detach();
        self.calls()
    }

    fn detach(&mut self) {
        kill(self.strace.id(), Signal::INT);
        // It ends by the very signal; its status says nothing.
        let _ = self.strace.wait();
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.detach();
    }
}

fn all_traced(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let mut states = threads
        .map(|thread| text_of(&thread.path().join("status")))
        .peekable();
    states.peek().is_some() && states.all(|state| !state.contains("TracerPid:\t0\n"))
}

// 12 mmap(NULL, 4096, PROT_READ, MAP_SHARED, 7</src/file>, 0) = 0x7f0000000000
// 12 msync(0x7f0000000000, 4096, MS_SYNC <unfinished ...>
// 12 <... msync resumed>)              = 0
fn parse(text: &str) -> Vec<Call> {
    let mut begun: HashMap<&str, &str> = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        if let Some(start) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, start);
        } else if let Some((_, end)) = rest
            .strip_prefix("<... ")
            .and_then(|r| r.split_once(" resumed>"))
        {
            let start = begun.remove(thread).unwrap_or_default();
            calls.extend(parse_call(&format!("{start}{end}")));
        } else {
            calls.extend(parse_call(rest));
        }
    }
    calls
}

fn parse_call(text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().strip_suffix(')')?;
    Some(Call {
        name: name.to_owned(),
        arguments: arguments.split(", ").map(str::to_owned).collect(),
        result: result.split(' ').next()?.to_owned(),
    })
}

impl Call {
    /// The argument at this place, or nothing.
    pub fn argument(&self, place: usize) -> &str {
        self.arguments.get(place).map_or("", String::as_str)
    }

    /// The argument at this place as a number.
    pub fn number(&self, place: usize) -> u64 {
        number(self.argument(place))
    }

    /// Is one of the arguments a descriptor of this file? One opened by an exported handle may have no path; no test
    /// here has another such file.
    pub fn names(&self, file: &Path) -> bool {
        let path = format!("<{}>", file.display());
        self.arguments
            .iter()
            .any(|argument| argument.ends_with(&path) || argument.ends_with("</>"))
    }
}

fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap_or_default(),
        None => text.parse().unwrap_or_default(),
    }
}

/// The calls as lines, for a failed test.
pub fn shown(calls: &[Call]) -> String {
    let quiet = |call: &&Call| !call.argument(0).ends_with("</dev/fuse>");
    let line = |call: &Call| {
        format!(
            "  {}({}) = {}\n",
            call.name,
            call.arguments.join(", "),
            call.result
        )
    };
    calls.iter().filter(quiet).map(line).collect()
}

/// The successful mmaps of this file.
pub fn maps_of<'a>(calls: &'a [Call], file: &Path) -> Vec<&'a Call> {
    let mapped = |call: &&Call| call.name == "mmap" && call.names(file) && call.result != "-1";
    calls.iter().filter(mapped).collect()
}

/// The calls of this name whose address lies in a window on the file.
pub fn on_windows<'a>(calls: &'a [Call], file: &Path, name: &str) -> Vec<&'a Call> {
    let mut windows: Vec<std::ops::Range<u64>> = Vec::new();
    let mut found = Vec::new();
    for call in calls {
        let on_window = windows
            .iter()
            .any(|window| window.contains(&call.number(0)));
        if call.name == name && on_window {
            found.push(call);
        }
        let length = if call.name == "mremap" {
            call.number(2)
        } else {
            call.number(1)
        };
        let maps = call.name == "mmap" && call.names(file) || call.name == "mremap" && on_window;
        if maps && call.result != "-1" {
            let start = number(&call.result);
            windows.push(start..start + length);
        }
    }
    found
}

/// The calls that moved bytes to or from the file through a descriptor instead of a mapping.
pub fn moved_by_descriptor<'a>(calls: &'a [Call], file: &Path) -> Vec<&'a Call> {
    calls
        .iter()
        .filter(|call| MOVING.contains(&call.name.as_str()) && call.names(file))
        .collect()
}

/// One line of a process's maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// Its address range.
    pub range: std::ops::Range<u64>,
    /// `r--s` and the like.
    pub protection: String,
    /// Where in the file it starts.
    pub offset: u64,
    /// Whose it is: major and minor number of the device, number of the inode.
    pub file: (u32, u32, u64),
}

/// What the process has mapped of these files, once it does not change any more: maps is read piece by piece, and a
/// window that moves meanwhile may be missed or found twice.
pub fn areas_of(pid: u32, files: &[&Path]) -> Vec<Area> {
    let mut areas = areas_now(pid, files);
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(2));
        let again = areas_now(pid, files);
        if again == areas {
            break;
        }
        areas = again;
    }
    areas
}

/// The same as it looks at first sight.
pub fn areas_now(pid: u32, files: &[&Path]) -> Vec<Area> {
    // By number: what was opened by an exported handle has no path.
    let identity = |file: &&Path| {
        let meta = fs::metadata(file).unwrap();
        (
            rustix::fs::major(meta.dev()),
            rustix::fs::minor(meta.dev()),
            meta.ino(),
        )
    };
    let wanted: Vec<_> = files.iter().map(identity).collect();
    let text = text_of(&PathBuf::from(format!("/proc/{pid}/maps")));
    let areas = text.lines().filter_map(parse_area);
    areas.filter(|area| wanted.contains(&area.file)).collect()
}

// 7f5e04000000-7f5e04021000 r--s 00000000 fe:00 1234    /src/file
fn parse_area(line: &str) -> Option<Area> {
    let mut fields = line.split(' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let hexadecimal = |digits| u64::from_str_radix(digits, 16).ok();
    let range = hexadecimal(start)?..hexadecimal(end)?;
    let (protection, offset) = (fields.next()?.to_owned(), hexadecimal(fields.next()?)?);
    let (major, minor) = fields.next()?.split_once(':')?;
    let device = |digits| u32::from_str_radix(digits, 16).ok();
    let file = (device(major)?, device(minor)?, fields.next()?.parse().ok()?);
    Some(Area {
        range,
        protection,
        offset,
        file,
    })
}
