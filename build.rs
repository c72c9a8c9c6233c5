//! The commit this is built from, where git can tell; a tarball builds without.

use std::path::Path;
use std::process::Command;

/// What changes when the commit does: the second one moves with every commit, checkout and reset.
const MOVING: [&str; 2] = ["HEAD", "logs/HEAD"];

fn main() {
    let commit = commit();
    let shown = commit.as_deref().unwrap_or_default();
    println!("cargo::rustc-env=MMFS_COMMIT={shown}");
    println!("cargo::rerun-if-changed=build.rs");
    if commit.is_none() {
        return;
    }
    for name in MOVING {
        // In a work tree of `git worktree`, .git is a file that names another place.
        let Some(file) = git(&["rev-parse", "--git-path", name]) else {
            continue;
        };
        // Naming a missing file would have every build run this anew.
        if Path::new(&file).exists() {
            println!("cargo::rerun-if-changed={file}");
        }
    }
}

/// Of our own repository only: an unpacked tarball may lie inside somebody else's.
fn commit() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// What git answers.
fn git(question: &[&str]) -> Option<String> {
    let output = Command::new("git").args(question).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| answer.trim().into())
}
