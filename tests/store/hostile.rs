//! Stores that somebody made to do harm: each opens with right answers or is refused, and nothing beside it is touched.
//!
//! The cases run in a child process of the test, with a limit for memory and a watchdog. `MMFS_SEED` repeats random cases,
//! `MMFS_SHARE` is how many of a hundred cases run, `MMFS_CASE` runs the cases whose name begins so, `MMFS_SOAK` is the length of the last test in seconds.

mod contents;
mod encode;
mod good;
mod numbers;
mod places;
mod random;
mod regions;
mod size;
mod survey;
mod tables;
mod values;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};

use good::Good;
use survey::{Answers, survey};

/// The longest that one case may take.
const CASE: Duration = Duration::from_secs(20);
/// Address space beyond what the process has at its start, in bytes.
const MEMORY: u64 = 256 << 20;

/// The case that runs, and since when.
static CURRENT: Mutex<Option<(String, Instant)>> = Mutex::new(None);

/// How far what a hostile store says may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// A checksum tells: each answer is that of the good store, or an error.
    Nothing,
    /// What has right checksums is what the store says.
    Anything,
}

/// The cases of one child.
pub struct Run {
    pub good: Good,
    /// What the good store answers, by rule.
    answers: [Answers; 2],
    only: Option<String>,
    /// So many of a hundred cases run.
    share: u64,
    rng: random::Rng,
    failures: Vec<String>,
    number: u64,
    cases: u64,
    opened: u64,
    operations: u64,
    errors: BTreeMap<i32, u64>,
}

impl Run {
    fn new(group: &str) -> Self {
        let good = Good::new();
        let answers = [false, true].map(|after_power_cut| {
            good.restore();
            let seen = survey(&good.store, &good.ids, after_power_cut, true);
            assert_eq!(seen.refused, None, "the good store opens");
            seen.answers.expect("the good store answers")
        });
        assert!(answers[0].len() > 150 && answers[0].values().all(Result::is_ok));
        assert!(
            answers[0] != answers[1],
            "the tail has records that a power cut takes"
        );
        Self {
            good,
            answers,
            only: std::env::var("MMFS_CASE").ok(),
            share: share(group),
            rng: random::Rng::new(),
            failures: Vec::new(),
            number: 0,
            cases: 0,
            opened: 0,
            operations: 0,
            errors: BTreeMap::new(),
        }
    }

    /// Does the damage to the good store, and looks at what comes of it, by both rules.
    pub fn case(&mut self, name: &str, trust: Trust, damage: impl Fn(&Good)) {
        if self
            .only
            .as_ref()
            .is_some_and(|only| !name.starts_with(only.as_str()))
        {
            return;
        }
        self.number += 1;
        if self.rng.below(100) >= self.share {
            return;
        }
        // Each third case goes through a repair, too.
        let rules = 3 - usize::from(self.number % 3 != 0);
        let rules = ["killed", "power cut", "repaired"].into_iter().take(rules);
        for (number, rule) in rules.enumerate() {
            let label = format!("{name}, {rule}");
            // The last of these lines names the case that an end of the process belongs to.
            eprintln!("{label}");
            *CURRENT.lock().unwrap() = Some((label.clone(), Instant::now()));
            self.cases += 1;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.one(number, trust, &damage)))
            {
                let text = panic.downcast_ref::<String>().cloned();
                let text =
                    text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
                self.failures
                    .push(format!("{label}: {}", text.unwrap_or_default()));
            }
            *CURRENT.lock().unwrap() = None;
        }
    }

    fn one(&mut self, number: usize, trust: Trust, damage: &dyn Fn(&Good)) {
        self.good.restore();
        damage(&self.good);
        let before = self.good.outside();
        if number == 2 {
            survey::repaired(&self.good.store, self.cases % 2 == 0);
        } else {
            let base = trust == Trust::Anything;
            let seen = survey(&self.good.store, &self.good.ids, number == 1, base);
            self.operations += seen.operations;
            self.opened += u64::from(seen.refused.is_none());
            seen.errors
                .iter()
                .for_each(|(errno, n)| *self.errors.entry(*errno).or_default() += n);
            if let (Some(found), Trust::Nothing) = (&seen.answers, trust) {
                believed(found, &self.answers[number]);
            }
        }
        assert_eq!(
            self.good.outside(),
            before,
            "something outside of the store was touched"
        );
    }

    /// The line of figures, and the failures.
    fn finish(self, what: &str) {
        let errors: Vec<_> = self
            .errors
            .iter()
            .map(|(errno, n)| format!("errno {errno} {n}"))
            .collect();
        println!(
            "survives_hostile_store: {what}: operations={} faults={} errors={} ({}) divergences={} exits=0 hangs=0 opened={}",
            self.operations,
            self.cases,
            self.errors.values().sum::<u64>(),
            errors.join(", "),
            self.failures.len(),
            self.opened
        );
        let shown: Vec<_> = self.failures.iter().take(20).collect();
        assert!(
            shown.is_empty(),
            "{} cases failed: {shown:#?}",
            self.failures.len()
        );
    }
}

/// All cases where there are few, or with `MMFS_CASE` or `MMFS_SOAK`; else what `MMFS_SHARE` says, or a part of them.
fn share(group: &str) -> u64 {
    let given = |name| std::env::var(name).ok();
    let all = ["size", "random"].contains(&group) || given("MMFS_CASE").is_some();
    match given("MMFS_SHARE").and_then(|share| share.parse().ok()) {
        Some(share) => share,
        None if all || given("MMFS_SOAK").is_some() => 100,
        None => 12,
    }
}

/// No answer is another than that of the good store.
fn believed(found: &Answers, good: &Answers) {
    for (question, answer) in found {
        if let (Ok(found), Some(wanted)) = (answer, good.get(question)) {
            assert_eq!(
                Ok(*found),
                *wanted,
                "{question}: a damaged store is believed"
            );
        }
    }
}

/// Ends the process when a case takes too long.
fn watch() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let current = CURRENT.lock().unwrap();
            if let Some((case, _)) = current.as_ref().filter(|(_, since)| since.elapsed() > CASE) {
                eprintln!("watchdog: still stuck in: {case}");
                std::process::exit(102);
            }
        }
    });
}

fn limit_memory() {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: u64 = pages
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    let most = Some(pages * 4096 + MEMORY);
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::As, limit).expect("a limit for memory");
}

/// Runs a group of cases in a child process, and shows what it said if it failed.
#[track_caller]
fn child(group: &str) {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "hostile::cases_of_a_group",
            "--ignored",
            "--nocapture",
        ])
        .env("MMFS_HOSTILE_GROUP", group)
        // Each arena takes 64 MiB of address space.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .expect("the child starts");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let figures = out
        .lines()
        .filter(|line| line.contains("operations=") || line.contains("SEED"));
    figures.for_each(|line| println!("{line}"));
    let end = err.len().saturating_sub(6000);
    let end = (end..=err.len())
        .find(|at| err.is_char_boundary(*at))
        .unwrap_or(0);
    assert!(
        output.status.success(),
        "{group}: {}\n{}",
        output.status,
        &err[end..]
    );
}

#[test]
#[ignore = "no test: the process that the tests below start"]
fn cases_of_a_group() {
    let Ok(group) = std::env::var("MMFS_HOSTILE_GROUP") else {
        return;
    };
    watch();
    let mut run = Run::new(&group);
    limit_memory();
    match group.as_str() {
        "regions" => regions::cases(&mut run),
        "numbers" => numbers::cases(&mut run),
        "contents" => contents::cases(&mut run),
        "values" => values::cases(&mut run),
        "tables" => tables::cases(&mut run),
        "places" => places::cases(&mut run),
        "size" => size::cases(&mut run),
        _ => random::cases(&mut run),
    }
    run.finish(&group);
}

/// Each region of each file: flipped, zeroed, overwritten, cut, lengthened, or another file's.
#[test]
fn bytes_that_are_not_as_they_were_written_are_never_believed() {
    child("regions");
}

/// Right checksums, impossible numbers and names.
#[test]
fn numbers_and_names_that_no_store_has_do_no_harm() {
    child("numbers");
}

/// Records and attributes that no store writes.
#[test]
fn records_that_no_store_writes_do_no_harm() {
    child("values");
}

/// Sizes, limits and page maps at their extremes.
#[test]
fn contents_that_no_store_has_do_no_harm() {
    child("contents");
}

/// Index, filter, order of keys, footers.
#[test]
fn tables_that_lie_do_no_harm() {
    child("tables");
}

/// Links, FIFOs, sockets and devices in place of files and directories.
#[test]
fn a_store_never_leads_out_of_its_directory() {
    child("places");
}

/// Huge files, counts and depths take neither memory nor time.
#[test]
fn a_huge_store_takes_neither_memory_nor_time() {
    child("size");
}

/// Two seconds, or as long as `MMFS_SOAK` says.
#[test]
fn random_damage_with_right_checksums_does_no_harm() {
    child("random");
}

/// Writes over what a file of the store has.
pub fn put(good: &Good, name: &str, bytes: &[u8]) {
    std::fs::write(good.path(name), bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// The store has these tables, the newest first, and a tail without records.
pub fn put_tables(good: &Good, tables: &[Vec<u8>]) {
    let mut state = good.state.clone();
    state.tables = (1..=tables.len() as u64).map(|n| 0x100 + n).collect();
    for (number, table) in state.tables.iter().zip(tables) {
        put(good, &format!("tables/{number:x}"), table);
    }
    put(good, "state", &state.file());
    put(
        good,
        &good.tail(),
        &encode::tail(&state.uuid, state.tail, state.first, &[]),
    );
}

/// The good store's tables, and a tail with these records and a sync of them all.
pub fn put_records(good: &Good, payloads: &[Vec<u8>]) {
    let state = &good.state;
    let mut all = payloads.to_vec();
    let nodes: Vec<u64> = good
        .ids
        .iter()
        .map(|id| id.0)
        .chain([encode::FIRST + 900])
        .collect();
    let last = state.first + all.len() as u64 - 1;
    all.push(encode::record::sync(last, nodes.len() as u32, &nodes));
    put(
        good,
        &good.tail(),
        &encode::tail(&state.uuid, state.tail, state.first, &all),
    );
}

/// The file's length without its bytes.
pub fn stretch(path: &Path, len: u64) {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    file.and_then(|file| file.set_len(len))
        .expect("a sparse file");
}
