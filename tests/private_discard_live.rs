//! `mmfs discard MNT [PATH...]`: changes of a view are given up while it is mounted, and it shows the source at once.

mod common;
mod survive;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::mount::Mount;
use common::private::{Listing, change_first_page, large, listing, place, private};
use common::{builder, fuse, tools, user};
use rustix::process::Signal;
use survive::Rng;

fn mmfs(verb: &str, object: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(builder::binary());
    tools::output_of(command.arg(verb).arg(object).args(words))
}

fn diff(object: &Path) -> Vec<String> {
    let output = mmfs("diff", object, &[]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(Into::into).collect()
}

/// The words are given up; these lines are left.
fn leaves(mnt: &Path, words: &[&str], left: &[&str]) {
    let output = mmfs("discard", mnt, words);
    let quiet = output.stdout.is_empty() && output.stderr.is_empty();
    assert!(output.status.success() && quiet, "{words:?}: {output:?}");
    assert_eq!(diff(mnt), left, "{words:?}");
}

/// Nothing is given up, for a reason with these words.
fn refused(mnt: &Path, words: &[&str], why: &[&str]) {
    let before = diff(mnt);
    let output = mmfs("discard", mnt, words);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {told}");
    for why in why {
        assert!(told.contains(why), "{words:?}: {told}");
    }
    assert!(
        told.lines().count() == 1 && output.stdout.is_empty(),
        "{output:?}"
    );
    assert_eq!(diff(mnt), before);
}

fn write(root: &Path, paths: &[&str]) {
    for path in paths {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.file_name().unwrap().as_bytes_of()).unwrap();
    }
}

trait BytesOf {
    fn as_bytes_of(&self) -> &[u8];
}

impl BytesOf for std::ffi::OsStr {
    fn as_bytes_of(&self) -> &[u8] {
        self.as_encoded_bytes()
    }
}

/// A view of a source with these files.
fn mounted(files: &[&str]) -> (tempfile::TempDir, PathBuf, PathBuf, Mount) {
    let (place, source, store) = place();
    write(&source, files);
    let mount = private(&source, &store, &[]);
    (place, source, store, mount)
}

/// Names, inode numbers, links, types, modes, sizes and times.
fn details(root: &Path) -> String {
    let script = "find \"$1\" -printf '%P %T@ %n %i %y %m %s\\n' | sed 1s/[0-9]*\\ d/d/ | sort";
    tools::sh(script, &[root.as_os_str()])
}

/// The mount shows the source, with times and links, and so does the next one.
fn shows_the_source(source: &Path, mount: &mut Mount) {
    assert_eq!(diff(mount.mnt()), [""; 0]);
    assert_eq!(listing(mount.mnt()), listing(source));
    assert_eq!(details(mount.mnt()), details(source));
    mount.remount();
    assert_eq!(listing(mount.mnt()), listing(source));
    assert_eq!(details(mount.mnt()), details(source));
}

fn is_sound(store: &Path) -> String {
    let check = mmfs("check", store, &[]);
    assert!(check.status.success(), "{check:?}");
    String::from_utf8(check.stdout).unwrap()
}

fn mode(path: PathBuf, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

const FILES: [&str; 11] = [
    "bytes",
    "gone",
    "mode",
    "old",
    "saved",
    "type",
    "d/e/f",
    "tree/a",
    "tree/b/c",
    "moved/in/x",
    "anew/y",
];

/// Each kind of change.
fn each_kind(view: &Path) {
    let at = |name: &str| view.join(name);
    fs::write(at("bytes"), "other").unwrap();
    fs::remove_file(at("gone")).unwrap();
    mode(at("mode"), 0o600);
    fs::rename(at("old"), at("new")).unwrap();
    fs::write(at("saved~"), "other").unwrap();
    fs::rename(at("saved~"), at("saved")).unwrap();
    fs::remove_file(at("type")).unwrap();
    fs::create_dir(at("type")).unwrap();
    fs::remove_dir_all(at("tree")).unwrap();
    fs::create_dir(at("made")).unwrap();
    fs::write(at("made/x"), "x").unwrap();
    symlink("x", at("made/y")).unwrap();
    mode(at("d"), 0o700);
    fs::write(at("d/e/f"), "changed").unwrap();
    fs::rename(at("moved"), at("made/moved")).unwrap();
    fs::write(at("made/moved/in/x"), "changed").unwrap();
    fs::write(at("made/moved/in/z"), "new").unwrap();
    fs::remove_dir_all(at("anew")).unwrap();
    fs::create_dir(at("anew")).unwrap();
    fs::write(at("anew/own"), "own").unwrap();
    fs::hard_link(at("bytes"), at("made/link")).unwrap();
}

#[test]
fn s79_all_changes_go_at_once_and_the_mount_shows_the_source() {
    let (_place, source, store, mut mount) = mounted(&FILES);
    let inodes = details(mount.mnt());
    each_kind(mount.mnt());
    // The kernel has all of it in its cache.
    let _ = (listing(mount.mnt()), details(mount.mnt()));
    let output = mmfs("discard", mount.mnt(), &[]);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    assert_eq!(details(mount.mnt()), inodes);
    shows_the_source(&source, &mut mount);
    leaves(mount.mnt(), &[], &[]);
    mount.unmount();
    let text = is_sound(&store);
    assert!(text.contains("0 nodes, 0 names, 0 hidden names"), "{text}");
}

#[test]
fn s79_each_kind_is_given_up_by_its_path() {
    let (_place, source, store, mut mount) = mounted(&FILES);
    each_kind(mount.mnt());
    fs::remove_file(mount.mnt().join("made/link")).unwrap();
    let mut left = diff(mount.mnt());
    for path in [
        "gone", "bytes", "made/x", "d", "mode", "./new", "saved", "tree/", "type", "anew", "moved",
        "made",
    ] {
        let _ = (listing(mount.mnt()), details(mount.mnt()));
        let meant = path.trim_start_matches("./").trim_end_matches('/');
        let is_meant = |line: &str| {
            let mut paths = line[2..].split(" -> ");
            paths.any(|path| path == meant || path.starts_with(&format!("{meant}/")))
        };
        left.retain(|line| !is_meant(line));
        if path == "moved" {
            // A directory comes home with what stays changed in it.
            for line in &mut left {
                *line = line.replace("made/moved/", "moved/");
            }
            left.sort_by(|one, other| one[2..].cmp(&other[2..]));
        }
        let left: Vec<&str> = left.iter().map(String::as_str).collect();
        leaves(mount.mnt(), &[path], &left);
        let mut again = private_copy(&source, &store);
        assert_eq!(listing(mount.mnt()), again.1, "{path}");
        assert_eq!(details(mount.mnt()), std::mem::take(&mut again.2), "{path}");
    }
    leaves(mount.mnt(), &["moved"], &[]);
    shows_the_source(&source, &mut mount);
    mount.unmount();
    is_sound(&store);
}

/// What another mount shows, with a copy of the store.
fn private_copy(source: &Path, store: &Path) -> (tempfile::TempDir, Listing, String) {
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy");
    tools::run(Command::new("cp").arg("-a").arg(store).arg(&copy));
    let mut mount = private(source, &copy, &[]);
    let found = (listing(mount.mnt()), details(mount.mnt()));
    mount.unmount();
    (place, found.0, found.1)
}

#[test]
fn globs_choose_and_a_dry_run_lists() {
    let (_place, _source, store, mut mount) = mounted(&["src/a.c", "src/b.c"]);
    write(mount.mnt(), &["src/a.o", "src/sub/b.o", "lib/keep.o"]);
    fs::write(mount.mnt().join("src/a.c"), "changed").unwrap();
    let all = [
        "A lib",
        "A lib/keep.o",
        "M src/a.c",
        "A src/a.o",
        "A src/sub",
        "A src/sub/b.o",
    ];
    assert_eq!(diff(mount.mnt()), all);
    let words = ["--include", "*.o", "--exclude", "keep*"];
    let listed = mmfs(
        "discard",
        mount.mnt(),
        &[&["--dry-run"][..], &words].concat(),
    );
    assert_eq!(
        String::from_utf8_lossy(&listed.stdout),
        "A src/a.o\nA src/sub/b.o\n"
    );
    let listed = mmfs("discard", mount.mnt(), &["-n"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 6);
    assert_eq!(diff(mount.mnt()), all);
    leaves(
        mount.mnt(),
        &words,
        &["A lib", "A lib/keep.o", "M src/a.c", "A src/sub"],
    );
    leaves(mount.mnt(), &["src"], &["A lib", "A lib/keep.o"]);
    refused(
        mount.mnt(),
        &["nothing"],
        &["there is no change at nothing"],
    );
    let below = mmfs("discard", &mount.mnt().join("lib"), &[]);
    assert_eq!(below.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&below.stderr).contains("lies in one"),
        "{below:?}"
    );
    let used = mmfs("discard", &store, &[]);
    assert_eq!(used.status.code(), Some(1));
    mount.unmount();
}

#[test]
fn what_depends_on_others_is_refused() {
    let (_place, _source, _store, mut mount) = mounted(&["a", "d/x"]);
    fs::hard_link(mount.mnt().join("a"), mount.mnt().join("b")).unwrap();
    fs::write(mount.mnt().join("b"), "changed").unwrap();
    fs::remove_dir_all(mount.mnt().join("d")).unwrap();
    refused(mount.mnt(), &["a"], &["with further names"]);
    refused(mount.mnt(), &["d/x"], &["was deleted"]);
    leaves(mount.mnt(), &["a", "b", "d"], &[]);
    mount.unmount();
}

/// Waits until the kernel's clock for times has gone on.
fn a_tick() {
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn s79_nothing_that_the_kernel_has_cached_is_shown() {
    let (_place, source, store) = place();
    fs::write(source.join("large"), large()).unwrap();
    write(&source, &["f", "hidden", "d/one", "d/two"]);
    symlink("here", source.join("link")).unwrap();
    // Nothing times out by itself.
    let options = ["--attr-timeout", "3600", "--entry-timeout", "3600"];
    let mut mount = private(&source, &store, &options);
    let at = |name: &str| mount.mnt().join(name);
    let names = |path: &str| {
        let mut names: Vec<_> = fs::read_dir(at(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let number = fs::metadata(at("f")).unwrap().ino();
    assert_eq!(names("d").len(), 2);
    fs::write(at("f"), "changed, and longer").unwrap();
    change_first_page(&at("large"));
    mode(at("d/one"), 0o600);
    fs::remove_file(at("hidden")).unwrap();
    fs::remove_file(at("d/two")).unwrap();
    fs::write(at("d/three"), "new").unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("elsewhere", at("link")).unwrap();
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(at("d/one"), name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("user.x", b"y");
    // user::rw-, user:1000:r--, group::r--, mask::r--, other::r--
    let entries = [
        (1, 6, u32::MAX),
        (2, 4, 1000),
        (4, 4, u32::MAX),
        (16, 4, u32::MAX),
        (32, 4, u32::MAX),
    ];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        acl.extend([&[tag, 0, perm, 0], &id.to_le_bytes()[..]].concat());
    }
    set("system.posix_acl_access", &acl);
    // All of it is in the kernel's cache now.
    let mut first = [0; 16];
    File::open(at("large"))
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    assert_ne!(first, large()[..16]);
    assert_eq!(fs::read(at("f")).unwrap(), b"changed, and longer");
    assert!(!at("hidden").exists() && at("d/three").exists());
    assert_eq!(names("d"), ["one", "three"]);
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("elsewhere"));
    a_tick();
    let output = mmfs("discard", mount.mnt(), &[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read(at("f")).unwrap(), b"f");
    assert_eq!(fs::metadata(at("f")).unwrap().ino(), number);
    assert_eq!(fs::metadata(at("f")).unwrap().len(), 1);
    assert!(at("hidden").exists() && !at("d/three").exists());
    assert_eq!(names("d"), ["one", "two"]);
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("here"));
    assert_eq!(fs::read(at("large")).unwrap(), large());
    assert_eq!(
        fs::metadata(at("d/one")).unwrap().mode(),
        fs::metadata(source.join("d/one")).unwrap().mode()
    );
    let mut value = [0; 100];
    for name in ["user.x", "system.posix_acl_access"] {
        let found = rustix::fs::getxattr(at("d/one"), name, &mut value[..]);
        assert_eq!(found, Err(rustix::io::Errno::NODATA), "{name}");
    }

    mount.unmount();
}

/// Runs a command in the background and waits until it says so.
fn in_background(script: &str, words: &[&Path]) -> Child {
    let mut child = Command::new("sh")
        .args(["-c", script, "sh"])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    assert_eq!(&ready, b"ready\n");
    child
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn s80_what_a_program_has_open_is_refused_and_nothing_is_given_up() {
    let (_place, source, _store, mut mount) = mounted(&["a", "b", "c", "d/x"]);
    let at = |name: &str| mount.mnt().join(name);
    fs::write(at("a"), "other").unwrap();
    fs::write(at("b"), "other").unwrap();
    write(mount.mnt(), &["new", "made/x"]);
    let open = File::open(at("a")).unwrap();
    refused(mount.mnt(), &[], &["a is open", "--exclude"]);
    refused(mount.mnt(), &["a"], &["a is open"]);
    // What is not chosen may be open.
    leaves(mount.mnt(), &["b"], &["M a", "A made", "A made/x", "A new"]);
    drop(open);
    let new = OpenOptions::new()
        .read(true)
        .write(true)
        .open(at("new"))
        .unwrap();
    let second = File::open(at("a")).unwrap();
    refused(mount.mnt(), &[], &["these are open", ": a new;"]);
    drop(second);
    leaves(mount.mnt(), &["-E", "new"], &["A new"]);
    // A mapping keeps a file open.
    let script = "import mmap,os,sys\nf=os.open(sys.argv[1],os.O_RDWR)\nm=mmap.mmap(f,3)\nos.close(f)\nprint('ready',flush=True)\nsys.stdin.read()";
    drop(new);
    let mut mapped = Command::new("python3");
    mapped.args(["-c", script]).arg(at("new"));
    let mut mapped = mapped
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    mapped
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0; 6])
        .unwrap();
    refused(mount.mnt(), &["new"], &["new is open"]);
    end(mapped);
    leaves(mount.mnt(), &[], &[]);
    shows_the_source(&source, &mut mount);
    mount.unmount();
}

#[test]
fn s80_directories_in_which_a_program_works_are_refused() {
    let (_place, source, _store, mut mount) = mounted(&["d/x", "e/y", "f/z"]);
    let at = |name: &str| mount.mnt().join(name);
    fs::create_dir_all(at("made/deep")).unwrap();
    fs::rename(at("d"), at("moved")).unwrap();
    mode(at("e"), 0o700);
    fs::write(at("e/y"), "changed").unwrap();
    let works = "cd \"$1\" && echo ready && read line";
    let child = in_background(works, &[&at("made/deep")]);
    refused(
        mount.mnt(),
        &[],
        &["made/deep is open, or a program works in it"],
    );
    end(child);
    let child = in_background(works, &[&at("moved")]);
    refused(mount.mnt(), &[], &["moved is open"]);
    refused(mount.mnt(), &["d"], &["moved is open"]);
    end(child);
    let listed = fs::read_dir(at("made")).unwrap();
    refused(mount.mnt(), &["made"], &["made is open"]);
    drop(listed);
    // Directories that stay what they are may be in use.
    let child = in_background(works, &[&at("e")]);
    let script = "cd \"$1\" && echo ready && read line; cat z >&2 && pwd -P >&2 && touch new";
    let second = in_background(script, &[&at("f")]);
    leaves(mount.mnt(), &[], &[]);
    end(child);
    end(second);
    assert_eq!(diff(mount.mnt()), ["A f/new"]);
    leaves(mount.mnt(), &[], &[]);
    shows_the_source(&source, &mut mount);
    mount.unmount();
}

/// The kernel lets nobody use a directory that was removed while somebody has it.
#[test]
fn s80_a_deleted_directory_in_which_a_program_works_is_refused() {
    let (_place, source, _store, mut mount) = mounted(&["d/sub/x", "e"]);
    let mnt = mount.mnt().to_owned();
    let at = |name: &str| mnt.join(name);
    let works = "cd \"$1\" && echo ready && read line";
    for inside in ["d", "d/sub"] {
        let child = in_background(works, &[&at(inside)]);
        fs::remove_dir_all(at("d")).unwrap();
        refused(mount.mnt(), &["d"], &["open", inside, "--exclude"]);
        refused(mount.mnt(), &[], &["open", inside, "--exclude"]);
        end(child);
        leaves(mount.mnt(), &[], &[]);
        fs::write(at("d/new"), "new").unwrap();
        fs::write(at("d/sub/new"), "new").unwrap();
        leaves(mount.mnt(), &["d"], &[]);
        shows_the_source(&source, &mut mount);
    }
    mount.unmount();
}

#[test]
fn s80_a_program_that_works_below_what_was_renamed_is_refused() {
    let (_place, source, _store, mut mount) = mounted(&["d/sub/deep/x"]);
    fs::rename(mount.mnt().join("d"), mount.mnt().join("moved")).unwrap();
    let works = "cd \"$1\" && echo ready && read line";
    for inside in ["moved/sub", "moved/sub/deep"] {
        let child = in_background(works, &[&mount.mnt().join(inside)]);
        refused(mount.mnt(), &[], &["moved is open"]);
        end(child);
    }
    leaves(mount.mnt(), &[], &[]);
    shows_the_source(&source, &mut mount);
    mount.unmount();
}

/// Nobody has looked the name up in between. It led to a node that went with the last close.
#[test]
fn a_deleted_file_that_is_there_again_keeps_what_its_holder_writes() {
    let (_place, _source, store, mut mount) = mounted(&["g", "h", "d/i"]);
    let mnt = mount.mnt().to_owned();
    let at = |name: &str| mnt.join(name);
    let open = |name: &str| OpenOptions::new().write(true).open(at(name)).unwrap();
    let held = [open("g"), open("d/i")];
    fs::remove_file(at("g")).unwrap();
    fs::remove_file(at("d/i")).unwrap();
    fs::write(at("h"), "other").unwrap();
    leaves(mount.mnt(), &["g", "d/i"], &["M h"]);
    for mut file in held {
        file.write_all(b"written").unwrap();
    }
    for round in 0..2 {
        for name in ["g", "d/i"] {
            assert_eq!(fs::read(at(name)).unwrap(), b"written", "{round}: {name}");
        }
        assert_eq!(diff(mount.mnt()), ["M d/i", "M g", "M h"]);
        mount.remount();
    }
    mount.unmount();
    is_sound(&store);
}

/// A program that is in such a directory all the same, because it could not be seen, meets errors, and no other file.
#[test]
fn what_is_gone_is_gone_for_who_still_has_it() {
    let (_place, source, _store, mut mount) = mounted(&["f"]);
    let at = |name: &str| mount.mnt().join(name);
    write(mount.mnt(), &["made/x", "new"]);
    fs::write(at("f"), "changed").unwrap();
    let path = |name: &str| {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::open(at(name), flags, rustix::fs::Mode::empty()).unwrap()
    };
    // Descriptors with O_PATH open nothing.
    let (directory, new, f) = (path("made"), path("new"), path("f"));
    leaves(mount.mnt(), &[], &[]);
    let through = |fd: &std::os::fd::OwnedFd| {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    };
    let errno = |error: std::io::Error| error.raw_os_error().unwrap();
    let gone = [libc::ESTALE, libc::ENOENT];
    assert!(gone.contains(&errno(fs::read(through(&new)).unwrap_err())));
    assert!(gone.contains(&errno(fs::metadata(through(&new)).unwrap_err())));
    assert!(gone.contains(&errno(fs::write(through(&new), "x").unwrap_err())));
    assert!(gone.contains(&errno(fs::read(through(&directory).join("x")).unwrap_err())));
    assert!(gone.contains(&errno(
        fs::write(through(&directory).join("y"), "y").unwrap_err()
    )));
    assert!(gone.contains(&errno(
        fs::create_dir(through(&directory).join("y")).unwrap_err()
    )));
    assert_eq!(fs::read(through(&f)).unwrap(), b"f");
    assert_eq!(diff(mount.mnt()), [""; 0]);
    // New ones have new numbers.
    write(mount.mnt(), &["made/x", "new"]);
    assert!(gone.contains(&errno(fs::read(through(&new)).unwrap_err())));
    leaves(mount.mnt(), &[], &[]);
    drop((directory, new, f));
    shows_the_source(&source, &mut mount);
    mount.unmount();
}

#[test]
fn s80_a_deleted_file_stays_for_who_has_it_open() {
    let (_place, source, store, mut mount) = mounted(&["f", "g", "h"]);
    let at = |name: &str| mount.mnt().join(name);
    let open = |name: &str| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(at(name))
            .unwrap()
    };
    let (own, unchanged, changed) = (open("own"), open("g"), open("h"));
    own.write_all_at(b"own bytes", 0).unwrap();
    changed.write_all_at(b"H", 0).unwrap();
    for name in ["own", "g", "h"] {
        fs::remove_file(at(name)).unwrap();
    }
    fs::write(at("f"), "changed").unwrap();
    // Its bytes would be others.
    refused(mount.mnt(), &[], &["h is open"]);
    leaves(mount.mnt(), &["f", "g"], &["D h"]);
    drop(changed);
    leaves(mount.mnt(), &[], &[]);
    let read = |file: &File| {
        let mut bytes = vec![0; 16];
        let len = file.read_at(&mut bytes, 0).unwrap();
        bytes.truncate(len);
        bytes
    };
    assert_eq!(read(&own), b"own bytes");
    own.write_all_at(b"more", 9).unwrap();
    assert_eq!(read(&own), b"own bytesmore");
    assert_eq!(own.metadata().unwrap().nlink(), 0);
    assert_eq!(read(&unchanged), b"g");
    assert_eq!(unchanged.metadata().unwrap().nlink(), 1);
    drop((own, unchanged));
    shows_the_source(&source, &mut mount);
    mount.unmount();
    let text = is_sound(&store);
    assert!(text.contains("0 nodes, 0 names, 0 hidden names"), "{text}");
}

#[test]
fn writing_goes_on_afterwards() {
    let (_place, source, store, mut mount) = mounted(&FILES);
    for _ in 0..3 {
        each_kind(mount.mnt());
        let before = diff(mount.mnt());
        leaves(mount.mnt(), &[], &[]);
        each_kind(mount.mnt());
        assert_eq!(diff(mount.mnt()), before);
        let shown = (listing(mount.mnt()), details(mount.mnt()));
        mount.remount();
        assert_eq!((listing(mount.mnt()), details(mount.mnt())), shown);
        leaves(mount.mnt(), &["-I", "*"], &[]);
    }
    shows_the_source(&source, &mut mount);
    mount.unmount();
    is_sound(&store);
}

#[test]
fn s81_only_the_user_who_mounted_it_and_root_may_do_it() {
    if !user::is_root() {
        return;
    }
    let (place, source, store) = place();
    let uid = user::ordinary();
    write(&source, &["f"]);
    mode(place.path().into(), 0o755);
    mode(source.clone(), 0o755);
    let mut mount = private(&source, &store, &["--allow-other"]);
    fs::write(mount.mnt().join("f"), "changed").unwrap();
    let mut as_user = user::as_user(uid, builder::binary());
    let output = tools::output_of(as_user.arg("discard").arg(mount.mnt()));
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("only root and the user who mounted it"),
        "{told}"
    );
    let names = [
        "system.mmfs.1.discard.7",
        "system.mmfs.1.status",
        "system.mmfs.x",
    ];
    for name in names {
        let mut setfattr = user::as_user(uid, "setfattr");
        let output = tools::output_of(setfattr.args(["-n", name, "-v", "x"]).arg(mount.mnt()));
        assert!(!output.status.success(), "{output:?}");
    }
    assert_eq!(diff(mount.mnt()), ["M f"]);
    leaves(mount.mnt(), &[], &[]);
    mount.unmount();
}

#[test]
fn s81_an_ordinary_user_gives_up_what_his_own_mount_has() {
    let uid = user::ordinary();
    user::let_users_mount();
    let place = tempfile::tempdir().unwrap();
    let (source, store) = (place.path().join("source"), place.path().join("store"));
    fs::create_dir(&source).unwrap();
    write(&source, &["f", "d/g"]);
    for path in ["", "source", "source/f", "source/d", "source/d/g"] {
        user::give_to(uid, &place.path().join(path));
    }
    let mut mount = Mount::builder()
        .over(&source)
        .inside(place.path())
        .as_user(uid)
        .options(["--private".as_ref(), store.as_os_str()])
        .mount();
    let mnt = mount.mnt().to_owned();
    let run = |words: &[&str]| {
        let mut command = user::as_user(uid, words[0]);
        tools::output_of(command.args(&words[1..]))
    };
    let text = |name: &str| mnt.join(name).to_str().unwrap().to_owned();
    let shell = |script: &str| run(&["sh", "-c", script, "sh", mnt.to_str().unwrap()]);
    assert!(
        shell("echo changed >\"$1/f\" && rm -r \"$1/d\" && mkdir \"$1/made\"")
            .status
            .success()
    );
    let binary = builder::binary();
    let discarded = run(&[
        binary.to_str().unwrap(),
        "discard",
        mnt.to_str().unwrap(),
        "f",
    ]);
    assert!(discarded.status.success(), "{discarded:?}");
    assert_eq!(run(&["cat", &text("f")]).stdout, b"f");
    // Root asks as the user.
    let output = mmfs("discard", &mnt, &[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(run(&["cat", &text("d/g")]).stdout, b"g");
    assert!(!run(&["ls", &text("made")]).status.success());
    mount.unmount();
}

#[test]
fn other_views_are_refused() {
    let (_place, source, store, mut mount) = mounted(&["f"]);
    fs::write(mount.mnt().join("f"), "changed").unwrap();
    mount.unmount();
    let mut mount = private(&source, &store, &["-r"]);
    refused(mount.mnt(), &[], &["is read-only"]);
    refused(mount.mnt(), &["f"], &["is read-only"]);
    mount.unmount();
    let mut shared = Mount::builder().over(&source).mount();
    let output = mmfs("discard", shared.mnt(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("only a private view has changes"), "{told}");
    shared.unmount();
}

#[test]
fn a_long_choice_is_refused_and_a_stopped_daemon_told() {
    let (_place, _source, _store, mut mount) = mounted(&["f"]);
    fs::write(mount.mnt().join("f"), "changed").unwrap();
    let long = "x".repeat(200);
    let mut words = vec!["f"];
    words.extend(std::iter::repeat_n(&*long, 400));
    let output = mmfs("discard", mount.mnt(), &words);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("name fewer at once"), "{told}");
    mount.signal(Signal::STOP);
    let began = Instant::now();
    let output = mmfs("discard", mount.mnt(), &[]);
    mount.signal(Signal::CONT);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && told.contains("did not answer"),
        "{told}"
    );
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(diff(mount.mnt()), ["M f"]);
    leaves(mount.mnt(), &[], &[]);
    mount.unmount();
}

#[test]
fn s82_programs_that_change_the_view_meanwhile_go_on() {
    let files = ["a/x", "a/y", "b/x", "b/y", "c"];
    let (_place, source, store, mut mount) = mounted(&files);
    let stop = AtomicBool::new(false);
    let mnt = mount.mnt().to_owned();
    let (mut done, mut refused) = (0, 0);
    mount.within(Duration::from_secs(120), || {
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (stop, mnt) = (&stop, &mnt);
                scope.spawn(move || {
                    let mut rng = Rng::new();
                    while !stop.load(Relaxed) {
                        change_at_random(mnt, &mut rng, worker % 2 == 0);
                    }
                });
            }
            let until = Instant::now() + survive::length(5);
            let mut rng = Rng::new();
            while Instant::now() < until {
                let words: &[&str] = match rng.below(4) {
                    0 => &[],
                    1 => &["-I", "a*"],
                    2 => &["-E", "b"],
                    _ => &["-I", "*"],
                };
                let output = mmfs("discard", &mnt, words);
                match output.status.code() {
                    Some(0) => done += 1,
                    Some(1) => refused += 1,
                    code => panic!("{code:?}: {output:?}"),
                }
            }
            stop.store(true, Relaxed);
        });
    });
    println!("{done} given up, {refused} refused");
    assert!(done > 5, "{done} given up, {refused} refused");
    let shown = (listing(&mnt), details(&mnt));
    let lines = diff(&mnt);
    mount.remount();
    assert_eq!((listing(&mnt), details(&mnt)), shown);
    assert_eq!(diff(&mnt), lines);
    leaves(&mnt, &[], &[]);
    shows_the_source(&source, &mut mount);
    mount.unmount();
    is_sound(&store);
}

#[test]
fn s82_a_kill_leaves_all_or_nothing() {
    let mut rng = Rng::new();
    let (mut all, mut nothing) = (0, 0);
    for round in 0..8 {
        let (_place, source, store, mut mount) = mounted(&FILES);
        each_kind(mount.mnt());
        for number in 0..50 {
            fs::write(mount.mnt().join(format!("made/{number}")), "x").unwrap();
        }
        let before = diff(mount.mnt());
        let words: &[&str] = match round % 2 {
            0 => &[],
            _ => &["-I", "made", "-I", "moved", "-I", "bytes"],
        };
        let mut command = Command::new(builder::binary());
        command
            .arg("discard")
            .arg(mount.mnt())
            .args(words)
            .stderr(Stdio::null());
        let mut discarding = command.spawn().unwrap();
        std::thread::sleep(Duration::from_micros(rng.below(60_000)));
        let pid = mount.daemon_pid();
        fuse::kill(pid, Signal::KILL);
        let done = discarding.wait().unwrap().success();
        mount.start_again();
        let after = diff(mount.mnt());
        match after == before {
            true => nothing += 1,
            false => all += 1,
        }
        assert!(!done || after != before);
        if after != before {
            let left = match round % 2 {
                0 => 0,
                _ => {
                    before.len()
                        - before
                            .iter()
                            .filter(|line| {
                                ["made", "moved", "bytes"]
                                    .iter()
                                    .any(|word| line.contains(word))
                            })
                            .count()
                }
            };
            assert_eq!(after.len(), left, "{after:?}");
        }
        leaves(mount.mnt(), &[], &[]);
        shows_the_source(&source, &mut mount);
        mount.unmount();
        is_sound(&store);
    }
    println!("{all} all, {nothing} nothing");
}

#[test]
fn many_changes_take_their_time() {
    let count = 4_000;
    let (_place, source, store, mut mount) = mounted(&["f"]);
    for directory in 0..20 {
        let directory = mount.mnt().join(format!("d{directory}"));
        fs::create_dir(&directory).unwrap();
        for number in 0..count / 20 {
            File::create(directory.join(format!("{number}"))).unwrap();
        }
    }
    let _ = details(mount.mnt());
    let began = Instant::now();
    leaves(
        mount.mnt(),
        &["-E", "d0"],
        &diff(mount.mnt())
            .iter()
            .map(String::as_str)
            .filter(|line| line.starts_with("A d0"))
            .collect::<Vec<_>>(),
    );
    println!("{:?} for {count} by a glob", began.elapsed());
    let began = Instant::now();
    leaves(mount.mnt(), &[], &[]);
    println!("{:?} for the rest", began.elapsed());
    shows_the_source(&source, &mut mount);
    mount.unmount();
    is_sound(&store);
}

fn change_at_random(root: &Path, rng: &mut Rng, moves: bool) {
    let names = ["a", "b", "c"];
    let mut path = root.to_path_buf();
    for _ in 0..=rng.below(3) {
        path.push(names[rng.below(3) as usize]);
    }
    let mut other = root.to_path_buf();
    for _ in 0..=rng.below(3) {
        other.push(names[rng.below(3) as usize]);
    }
    // Most of these fail now and then.
    let _ = match rng.below(if moves { 11 } else { 8 }) {
        0 => fs::create_dir(&path),
        1 => fs::write(&path, format!("{}", rng.below(3))),
        2 => fs::remove_file(&path),
        3 => fs::remove_dir_all(&path),
        4 => symlink("target", &path),
        5 => fs::set_permissions(&path, Permissions::from_mode(0o700 + rng.below(8) as u32)),
        6 => fs::write(&path, vec![b'x'; 5000 + rng.below(2) as usize]),
        8 => fs::hard_link(&path, &other),
        9 | 10 => fs::rename(&path, &other),
        _ => {
            let file = OpenOptions::new().write(true).open(&path);
            file.and_then(|file| file.write_all_at(b"y", rng.below(5000)))
        }
    };
}

/// As a discard of a copy of the store, which is not mounted.
#[test]
fn s79_a_random_choice_leaves_what_it_leaves_without_a_mount() {
    let cases = std::env::var("MMFS_CASES").map_or(6, |cases| cases.parse().unwrap());
    let mut rng = Rng::new();
    let (mut done, mut kept) = (0, 0);
    for case in 0..cases {
        let moves = case % 2 == 1;
        let (place, source, store) = place();
        for _ in 0..50 {
            change_at_random(&source, &mut rng, true);
        }
        let mut mount = private(&source, &store, &[]);
        for round in 0..4 {
            for _ in 0..1 + rng.below(25) {
                change_at_random(mount.mnt(), &mut rng, moves);
            }
            let lines = diff(mount.mnt());
            println!(
                "case {case}, round {round}: {lines:?}\n{}",
                details(mount.mnt())
            );
            let mut words: Vec<&str> = Vec::new();
            for _ in 0..rng.below(4) {
                if let Some(line) = lines.get(rng.below(lines.len().max(1) as u64) as usize) {
                    let paths: Vec<&str> = line[2..].split(" -> ").collect();
                    words.push(paths[rng.below(paths.len() as u64) as usize]);
                }
            }
            // What this makes durable is all there is.
            fs::write(mount.mnt().join("z"), "z").unwrap();
            let output = mmfs("discard", mount.mnt(), &["z"]);
            assert!(output.status.success(), "{output:?}");
            assert_eq!(diff(mount.mnt()), lines);
            let copy = place.path().join(format!("copy{round}"));
            tools::run(Command::new("cp").arg("-a").arg(&store).arg(&copy));
            let unmounted = mmfs("discard", &copy, &words);
            let live = mmfs("discard", mount.mnt(), &words);
            println!("discard {words:?}: {live:?}, unmounted: {unmounted:?}");
            assert_eq!(live.status.code(), unmounted.status.code());
            assert_eq!(live.stderr, unmounted.stderr);
            match live.status.success() {
                true => done += 1,
                false => kept += 1,
            }
            let expected = private_again(&source, &copy);
            assert_eq!(listing(mount.mnt()), expected.0);
            assert_eq!(details(mount.mnt()), expected.1);
            assert_eq!(diff(mount.mnt()), diff(&copy));
            let _ = std::io::stdout().flush();
        }
        let shown = (listing(mount.mnt()), details(mount.mnt()));
        mount.remount();
        assert_eq!((listing(mount.mnt()), details(mount.mnt())), shown);
        leaves(mount.mnt(), &[], &[]);
        shows_the_source(&source, &mut mount);
        mount.unmount();
        is_sound(&store);
    }
    println!("{done} given up, {kept} refused");
    assert!(done > kept / 4, "{done} given up, {kept} refused");
}

/// What a mount with the store shows.
fn private_again(source: &Path, store: &Path) -> (Listing, String) {
    let mut mount = private(source, store, &[]);
    let found = (listing(mount.mnt()), details(mount.mnt()));
    mount.unmount();
    found
}

#[test]
fn conflicts_are_left_if_that_is_asked_for() {
    let (_place, source, _store, mount) = mounted(&["a", "b"]);
    for name in ["a", "b"] {
        fs::write(mount.mnt().join(name), "of the view").unwrap();
    }
    fs::write(source.join("a"), "of the source").unwrap();
    leaves(mount.mnt(), &["--skip-conflicts"], &["C a"]);
    let read = |name: &str| fs::read_to_string(mount.mnt().join(name)).unwrap();
    assert_eq!((read("a"), read("b")), ("of the view".into(), "b".into()));
    leaves(mount.mnt(), &["a"], &[]);
}
