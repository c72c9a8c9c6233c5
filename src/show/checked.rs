//! `mmfs check`: what a store holds and what is wrong with it, in sentences.

use std::path::Path;

use super::out;
use crate::refusal::{StartError, note};
use crate::store::check::{Report, check, repair};
use crate::store::opening::{OpenError, Recovery, Rule};
use crate::store::{Base, Store};
use crate::terminal::{for_shell, one_line};

/// Checks the store in the directory `path`. `after_power_cut`: only what was synced counts. `mends`: what does not count is
/// dropped.
///
/// # Errors
/// The sentence that says why the store cannot be read, or that it is damaged.
pub fn store(path: &Path, after_power_cut: bool, mends: bool) -> Result<(), StartError> {
    let refused = |error: OpenError| StartError::Verb(error.sentence(path));
    if mends {
        if let Some(owner) = other_owner(path) {
            return Err(StartError::Verb(format!(
                "the store {} belongs to user {owner}, who can repair it",
                for_shell(path)
            )));
        }
        let recovery = repair(path, after_power_cut).map_err(refused)?;
        out::print(&format!("{}\n", recovered(&recovery, true)))?;
    }
    if let Some(error) = Store::committing(path) {
        let base = Store::base_of(path).map_err(refused)?;
        out::print(&format!("{}\n", of_source(&base)))?;
        // Some of its files may be the source's by now, or gone.
        note(error.sentence(path));
        return Ok(());
    }
    let report = check(path, after_power_cut).map_err(refused)?;
    out::print(&text(&report))?;
    match report.problems.len() as u64 + report.more {
        0 => Ok(()),
        1 => Err(StartError::Verb(format!(
            "the store {} has an error",
            for_shell(path)
        ))),
        count => Err(StartError::Verb(format!(
            "the store {} has {count} errors",
            for_shell(path)
        ))),
    }
}

/// The user to whom a store belongs, if that is another. What counts after a kill, a file of that user's daemon tells: nobody else
/// finds it. And files that mmfs replaces would be another's.
pub(super) fn other_owner(path: &Path) -> Option<u32> {
    let owner = rustix::fs::stat(path).ok()?.st_uid;
    (owner != rustix::process::geteuid().as_raw()).then_some(owner)
}

fn of_source(base: &Base) -> String {
    format!("A store of changes to {}.", for_shell(&base.path))
}

fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    if let Some(base) = &report.base {
        lines.push(of_source(base));
    }
    lines.push(format!(
        "{}, {}, {}, {} in {}.",
        count(report.nodes, "node"),
        count(report.names, "name"),
        count(report.hidden, "hidden name"),
        count(report.bytes, "byte"),
        count(report.files, "file"),
    ));
    lines.push(recovered(&report.recovery, false));
    lines.extend(report.problems.iter().map(|problem| one_line(problem)));
    if report.more > 0 {
        lines.push(format!("And {} like these.", count(report.more, "error")));
    }
    if report.problems.is_empty() {
        lines.push("No errors were found.".into());
    }
    lines.join("\n") + "\n"
}

fn recovered(recovery: &Recovery, done: bool) -> String {
    let (kept, dropped) = (
        count(recovery.kept, "change"),
        count(recovery.dropped, "change"),
    );
    let torn = match recovery.torn {
        0 => String::new(),
        bytes if done => format!(
            " {} of an unfinished one were dropped.",
            count(bytes, "byte")
        ),
        bytes => format!(
            " {} of an unfinished one do not count.",
            count(bytes, "byte")
        ),
    };
    match (recovery.rule, done) {
        (Rule::Closed, _) => "It was closed.".into(),
        (Rule::Killed, true) => {
            format!("The daemon was killed: {kept} since the last save were kept.{torn}")
        }
        (Rule::Killed, false) => {
            format!("The daemon was killed: {kept} since the last save count.{torn}")
        }
        (Rule::PowerCut, true) => {
            format!(
                "Power was cut: {kept} since the last save were kept, and {dropped} that were not synced were dropped.{torn}"
            )
        }
        (Rule::PowerCut, false) => {
            format!(
                "Power was cut: {kept} since the last save count, {dropped} were not synced and do not.{torn}"
            )
        }
    }
}

fn count(number: u64, of: &str) -> String {
    if number == 1 {
        format!("1 {of}")
    } else {
        format!("{number} {of}s")
    }
}
