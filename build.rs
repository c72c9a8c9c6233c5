//! The commit this is built from, where git can tell; a tarball builds without.

use std::path::Path;
use std::process::Command;

fn main() {
    let commit = commit().unwrap_or_default();
    println!("cargo::rustc-env=MMFS_COMMIT={commit}");
    println!("cargo::rerun-if-changed=build.rs");
    // The second one moves with every commit, checkout and reset. Naming a missing file would have every
    // build run this anew.
    for file in [".git/HEAD", ".git/logs/HEAD"] {
        if Path::new(file).exists() {
            println!("cargo::rerun-if-changed={file}");
        }
    }
}

/// Of our own repository only: an unpacked tarball may lie inside somebody else's.
fn commit() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| commit.trim().into())
}
