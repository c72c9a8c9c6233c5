//! The line of figures that every test of survival ends with.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use crate::common::subject;

/// Counts what happened; shared by all threads of a test.
#[derive(Debug)]
pub struct Figures {
    operations: AtomicU64,
    faults: AtomicU64,
    errors: AtomicU64,
    exits: AtomicU64,
    hangs: AtomicU64,
    test: String,
    told: AtomicBool,
    kinds: Mutex<BTreeMap<String, u64>>,
    divergences: Mutex<Vec<String>>,
    notes: Mutex<Vec<String>>,
}

/// Divergences kept in full; further ones are counted only.
const KEPT: usize = 20;

impl Figures {
    /// Those of one test.
    pub fn of(test: &str) -> Self {
        Figures {
            test: test.to_owned(),
            operations: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            exits: AtomicU64::new(0),
            hangs: AtomicU64::new(0),
            told: AtomicBool::new(false),
            kinds: Mutex::default(),
            divergences: Mutex::default(),
            notes: Mutex::default(),
        }
    }

    /// An operation through the mount succeeded.
    pub fn operation(&self) {
        self.operations.fetch_add(1, Relaxed);
    }

    /// Something was done to the daemon or its source.
    pub fn fault(&self) {
        self.faults.fetch_add(1, Relaxed);
    }

    /// The daemon ended.
    pub fn exit(&self) {
        self.exits.fetch_add(1, Relaxed);
    }

    /// Somebody slept where no signal wakes him.
    pub fn hang(&self, report: String) {
        self.hangs.fetch_add(1, Relaxed);
        println!("HANG {report}");
    }

    /// An error reached a client.
    pub fn error(&self, error: &io::Error) {
        self.error_named(&name_of(error));
    }

    /// The same, by name (SIGBUS is one, too).
    pub fn error_named(&self, name: &str) {
        self.errors.fetch_add(1, Relaxed);
        *self
            .kinds
            .lock()
            .unwrap()
            .entry(name.to_owned())
            .or_default() += 1;
    }

    /// Counts the outcome of an operation; an error none of those allowed is a divergence. A peer may say that
    /// it does not have an operation.
    pub fn outcome<T>(&self, what: &str, allowed: &[i32], outcome: io::Result<T>) -> Option<T> {
        self.operation();
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(&error);
                let lacks = subject::peer().map(|_| libc::EOPNOTSUPP);
                let mut allowed = allowed.iter().copied().chain(lacks);
                if !allowed.any(|errno| error.raw_os_error() == Some(errno)) {
                    self.divergence(format!("{what}: {error}"));
                }
                None
            }
        }
    }

    /// An answer was wrong.
    pub fn divergence(&self, what: String) {
        let mut all = self.divergences.lock().unwrap();
        if all.len() < KEPT {
            println!("DIVERGENCE {what}");
            all.push(what);
        } else {
            all.push(String::new());
        }
    }

    /// Compares; a difference is a divergence.
    pub fn expect<T: PartialEq + std::fmt::Debug>(&self, what: &str, found: T, wanted: T) {
        if found != wanted {
            self.divergence(format!("{what}: {found:?}, should be {wanted:?}"));
        }
    }

    /// Compares what only mmfs promises; of a peer it is no wrong answer.
    pub fn expect_of_ours<T: PartialEq + std::fmt::Debug>(&self, what: &str, found: T, wanted: T) {
        if subject::peer().is_none() {
            self.expect(what, found, wanted);
        }
    }

    /// A further figure for the line.
    pub fn note(&self, text: String) {
        self.notes.lock().unwrap().push(text);
    }

    /// How many divergences so far.
    pub fn divergences(&self) -> usize {
        self.divergences.lock().unwrap().len()
    }

    /// Prints the line; fails the test when an answer was wrong, the daemon ended or a client hung. A peer's
    /// failures are figures.
    #[track_caller]
    pub fn finish(&self) {
        let bad = self.tell();
        if subject::peer().is_some() {
            return;
        }
        let divergences = self.divergences.lock().unwrap();
        let shown: Vec<_> = divergences.iter().take(KEPT).collect();
        assert!(
            divergences.is_empty(),
            "{} divergences: {shown:#?}",
            divergences.len()
        );
        assert!(bad == 0, "the daemon ended by itself, or somebody hung");
    }

    /// Prints the line; the number of exits and hangs.
    fn tell(&self) -> u64 {
        self.told.store(true, Relaxed);
        let kinds = self.kinds.lock().unwrap();
        let kinds: Vec<_> = kinds
            .iter()
            .map(|(kind, n)| format!("{kind} {n}"))
            .collect();
        // The guard of a mount has counted, too.
        let exits = subject::EXITS.swap(0, Relaxed);
        let exits = self.exits.load(Relaxed).max(exits);
        let hangs = subject::HANGS.swap(0, Relaxed) + self.hangs.load(Relaxed);
        println!(
            "{}: operations={} faults={} errors={} ({}) divergences={} exits={exits} hangs={hangs} {}",
            self.test,
            self.operations.load(Relaxed),
            self.faults.load(Relaxed),
            self.errors.load(Relaxed),
            kinds.join(", "),
            self.divergences().max(usize::from(thread::panicking())),
            self.notes.lock().unwrap().join(" ")
        );
        exits + hangs
    }
}

impl Drop for Figures {
    /// A test that could not go on has figures, too.
    fn drop(&mut self) {
        if thread::panicking() && !self.told.load(Relaxed) {
            self.note("stopped early".into());
            self.tell();
        }
    }
}

fn name_of(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EIO) => "EIO".into(),
        Some(libc::ESTALE) => "ESTALE".into(),
        Some(libc::ENOENT) => "ENOENT".into(),
        Some(libc::ENOSPC) => "ENOSPC".into(),
        Some(libc::EDQUOT) => "EDQUOT".into(),
        Some(libc::EFBIG) => "EFBIG".into(),
        Some(libc::ENOMEM) => "ENOMEM".into(),
        Some(libc::EMFILE) => "EMFILE".into(),
        Some(libc::EACCES) => "EACCES".into(),
        Some(number) => format!("errno {number}"),
        None => error.kind().to_string(),
    }
}
