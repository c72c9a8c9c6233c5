//! Each sync of the store is needed, and so is its order: without it, a power cut or a kill shows.
//!
//! The store does what it does. The recorded list of its calls is changed before images are built from it.

use std::collections::{BTreeMap, BTreeSet};

use super::crash::script;
use super::cuts::{Cuts, Effort};
use super::image::{Call, Entry, Random};
use super::recorded::Op;
use super::script::Run;

/// So many scripts at most, and each site has been missed.
const SCRIPTS: u64 = 60;

/// So many scripts have each site.
const ENOUGH: u64 = 16;

const EFFORT: Effort = Effort {
    cuts: 30,
    orders: 2,
    second: 0,
};

/// Sites at which a missing sync shows in no test, and why.
const NOT_NEEDED: [(&str, &str); 0] = [];

/// What kind of file it is: the directory it lies in, or its name.
fn kind(path: &str) -> &str {
    path.split('/').next().unwrap_or_default()
}

/// The kinds of files by number, as they were at each call.
struct Kinds(BTreeMap<u64, String>);

impl Kinds {
    fn of(run: &Run) -> Self {
        let mut kinds: BTreeMap<_, _> = BTreeMap::new();
        for (path, ino) in &run.start.names {
            kinds.insert(*ino, kind(path).to_owned());
        }
        for entry in &run.entries {
            if let Call::Create { path, ino } = &entry.call {
                kinds.insert(*ino, kind(path).to_owned());
            }
        }
        Self(kinds)
    }

    /// The place from which a sync is called: the kind of file, and what it is made for.
    fn site(&self, run: &Run, entry: &Entry) -> Option<String> {
        let synced = match &entry.call {
            Call::Sync { ino } => format!("file of {}", self.0[ino]),
            Call::SyncDirectory { path } => format!("directory {:?}", kind(path)),
            Call::SyncAll => "filesystem".to_owned(),
            _ => return None,
        };
        let purpose = match run.model.ops.get(entry.op)? {
            Op::Open => "opening",
            Op::Reopen => "closing and opening",
            Op::Kill => "opening after a kill",
            Op::Barrier => "barrier",
            Op::Sync { .. } | Op::SyncNames => "sync",
            _ => "cut",
        };
        Some(format!("{synced}, {purpose}"))
    }

    fn is(&self, entry: &Entry, kind: &str) -> bool {
        match &entry.call {
            Call::Write { ino, .. } | Call::Sync { ino } => self.0[ino] == kind,
            Call::Remove { path } | Call::SyncDirectory { path } => self::kind(path) == kind,
            _ => false,
        }
    }
}

#[test]
fn a_power_cut_shows_each_sync_that_is_left_out() {
    let mut left: BTreeMap<String, u64> = BTreeMap::new();
    let mut missed = BTreeSet::new();
    for seed in 1..=SCRIPTS {
        if seed > ENOUGH && left.len() == missed.len() {
            break;
        }
        let cookies = tempfile::tempdir().unwrap();
        let run = script(seed, Some(cookies.path()));
        let kinds = Kinds::of(&run);
        let sites = run
            .entries
            .iter()
            .filter_map(|entry| kinds.site(&run, entry));
        for site in sites.collect::<BTreeSet<_>>() {
            *left.entry(site).or_default() += 1;
        }
        for site in left
            .keys()
            .filter(|site| !missed.contains(*site))
            .cloned()
            .collect::<Vec<_>>()
        {
            let stays = |entry: &&Entry| kinds.site(&run, entry).as_ref() != Some(&site);
            let entries: Vec<_> = run.entries.iter().filter(stays).cloned().collect();
            if entries.len() == run.entries.len() {
                continue;
            }
            if Cuts::of(&run, &entries)
                .cut_power(EFFORT, &mut Random(seed))
                .is_err()
            {
                let unchanged = Cuts::of(&run, &run.entries).cut_power(EFFORT, &mut Random(seed));
                unchanged.unwrap_or_else(|error| panic!("script {seed}, unchanged: {error}"));
                println!("{site}: missed by script {seed}");
                missed.insert(site);
            }
        }
    }
    let quiet: Vec<_> = left
        .iter()
        .filter(|(site, _)| !missed.contains(*site))
        .collect();
    let known = |site: &str| NOT_NEEDED.iter().any(|(known, _)| *known == site);
    let unknown: Vec<_> = quiet.iter().filter(|(site, _)| !known(site)).collect();
    assert!(
        unknown.is_empty(),
        "not missed, with the number of scripts: {unknown:?}"
    );
    assert!(missed.len() > 10, "{missed:?}");
}

/// Moves each call that `is` behind the next that is `behind`, within one operation.
fn delayed(
    entries: &[Entry],
    is: impl Fn(&Entry) -> bool,
    behind: impl Fn(&Entry) -> bool,
) -> Vec<Entry> {
    let (mut moved, mut held) = (Vec::new(), Vec::<Entry>::new());
    for entry in entries {
        if held.first().is_some_and(|held| held.op != entry.op) {
            moved.append(&mut held);
        }
        if is(entry) {
            held.push(entry.clone());
            continue;
        }
        moved.push(entry.clone());
        if behind(entry) {
            moved.append(&mut held);
        }
    }
    moved.append(&mut held);
    moved
}

#[test]
fn a_kill_shows_a_record_that_comes_before_its_data() {
    let shown = (1..=SCRIPTS).any(|seed| {
        let cookies = tempfile::tempdir().unwrap();
        let mut run = Run::first(&super::setup::options(Some(cookies.path())), seed);
        run.disk.set_cookies(cookies.path());
        run.go_on(40);
        run.end();
        let kinds = Kinds::of(&run);
        let is_write = |entry: &Entry| matches!(entry.call, Call::Write { .. });
        let entries = delayed(
            &run.entries,
            |entry| is_write(entry) && kinds.is(entry, "data"),
            |entry| is_write(entry) && kinds.is(entry, "tails"),
        );
        Cuts::of(&run, &entries)
            .kill(cookies.path(), 50, &mut Random(seed))
            .is_err()
    });
    assert!(shown);
}

/// Whether a power cut shows that calls come in another order.
fn shows(change: impl Fn(&Kinds, &[Entry]) -> Vec<Entry>) -> bool {
    (1..=SCRIPTS).any(|seed| {
        let run = script(seed, None);
        let entries = change(&Kinds::of(&run), &run.entries);
        Cuts::of(&run, &entries)
            .cut_power(EFFORT, &mut Random(seed))
            .is_err()
    })
}

fn is_sync(entry: &Entry) -> bool {
    matches!(entry.call, Call::Sync { .. } | Call::SyncDirectory { .. })
}

#[test]
fn a_power_cut_shows_a_sync_of_data_that_comes_after_its_record() {
    assert!(shows(|kinds, entries| delayed(
        entries,
        |entry| is_sync(entry) && kinds.is(entry, "data"),
        |entry| is_sync(entry) && kinds.is(entry, "tails"),
    )));
}

#[test]
fn a_power_cut_shows_tails_that_go_before_the_new_state_comes() {
    let renamed = |entry: &Entry| matches!(entry.call, Call::Rename { .. });
    assert!(shows(|kinds, entries| {
        // Seen from the end, the new state is what is delayed.
        let mut reversed: Vec<_> = entries.to_vec();
        reversed.reverse();
        let mut moved = delayed(
            &reversed,
            |entry| matches!(entry.call, Call::Remove { .. }) && kinds.is(entry, "tails"),
            renamed,
        );
        moved.reverse();
        moved
    }));
}
