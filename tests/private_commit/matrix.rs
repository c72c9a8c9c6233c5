//! Each kind of change over each kind of thing that the source has there.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FallocateFlags, FileType, Mode};

use crate::committed::{
    assert_committed, bytes, changed_and_committed, commit, commit_view, diff, done, left_alone,
    place, remove, set_times, set_xattr, write_at, write_files, write_large,
};
use crate::common::snapshot::{assert_same, snapshot, untouched};
use crate::common::{loopfs::LoopFs, private::private, tools, user};

/// What the source has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    Nothing,
    Directory,
    File,
    Large,
    Symlink,
    Linked,
}

pub const THERE: [There; 6] = [
    There::Nothing,
    There::Directory,
    There::File,
    There::Large,
    There::Symlink,
    There::Linked,
];

/// What the view does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Directory,
    Hidden,
    File,
    InPlace,
    Saved,
    Pages,
    Cut,
    Longer,
    Punched,
    Symlink,
    Fifo,
    Socket,
    Link,
    NewLinks,
    Mode,
    Xattr,
    Acl,
    Times,
    Owner,
    /// A directory of which some names are changed.
    Inside,
}

pub const CHANGES: [Change; 20] = [
    Change::Directory,
    Change::Hidden,
    Change::File,
    Change::InPlace,
    Change::Saved,
    Change::Pages,
    Change::Cut,
    Change::Longer,
    Change::Punched,
    Change::Symlink,
    Change::Fifo,
    Change::Socket,
    Change::Link,
    Change::NewLinks,
    Change::Mode,
    Change::Xattr,
    Change::Acl,
    Change::Times,
    Change::Owner,
    Change::Inside,
];

fn name(change: Change, there: There) -> String {
    format!("{change:?}-over-{there:?}").to_lowercase()
}

impl There {
    /// Makes it in the source. `anchor` is a file that gets further names.
    pub fn make(self, path: &Path) {
        fs::write(path.with_extension("anchor"), "anchor").unwrap();
        match self {
            Self::Nothing => {}
            Self::Directory => {
                let parent = path.parent().unwrap();
                let name = path.file_name().unwrap().to_str().unwrap();
                let paths = ["f", "e/g", "e/h", "same"].map(|below| format!("{name}/{below}"));
                write_files(parent, &paths.each_ref().map(String::as_str));
                fs::set_permissions(path, Permissions::from_mode(0o750)).unwrap();
                set_xattr(path, "user.source", b"directory");
            }
            Self::File => {
                fs::write(path, "the source's").unwrap();
                set_xattr(path, "user.source", b"file");
            }
            Self::Large => write_large(path),
            Self::Symlink => symlink("the source's", path).unwrap(),
            Self::Linked => {
                write_large(path);
                let other = path.with_extension("other");
                fs::create_dir(&other).unwrap();
                fs::hard_link(path, other.join("name")).unwrap();
            }
        }
    }

    fn is_file(self) -> bool {
        matches!(self, Self::File | Self::Large | Self::Linked)
    }
}

impl Change {
    /// Whether it can be made over such a thing.
    pub fn can_be(self, there: There) -> bool {
        match self {
            Self::Directory | Self::File | Self::Symlink | Self::Fifo | Self::Socket => true,
            Self::Link | Self::NewLinks => true,
            Self::Saved => there != There::Directory,
            Self::InPlace | Self::Pages | Self::Cut | Self::Longer | Self::Punched => {
                there.is_file()
            }
            Self::Hidden | Self::Times => there != There::Nothing,
            Self::Owner => there != There::Nothing && user::is_root(),
            Self::Inside => there == There::Directory,
            Self::Mode | Self::Xattr | Self::Acl => there.is_file() || there == There::Directory,
        }
    }

    /// Makes it in the view.
    pub fn make(self, path: &Path) {
        if matches!(
            self,
            Self::Directory
                | Self::File
                | Self::Symlink
                | Self::Fifo
                | Self::Socket
                | Self::Link
                | Self::NewLinks
                | Self::Hidden
        ) {
            remove(path);
        }
        match self {
            Self::Directory => {
                fs::create_dir(path).unwrap();
                fs::write(path.join("f"), "the view's").unwrap();
                fs::write(path.join("same"), "same").unwrap();
                fs::create_dir_all(path.join("d/e")).unwrap();
                write_large(&path.join("d/e/large"));
                symlink("../f", path.join("d/link")).unwrap();
                // The source may have a directory here.
                fs::write(path.join("e"), "a file").unwrap();
                set_times(path, 900_000_000);
                fs::set_permissions(path, Permissions::from_mode(0o1711)).unwrap();
            }
            Self::Hidden => {}
            Self::File => write_large(path),
            Self::InPlace => fs::write(path, "the view's").unwrap(),
            Self::Saved => {
                let saved = path.with_extension("saved");
                fs::write(&saved, bytes("saved", 70_000)).unwrap();
                fs::set_permissions(&saved, Permissions::from_mode(0o640)).unwrap();
                fs::rename(saved, path).unwrap();
            }
            Self::Pages => {
                let file = fs::OpenOptions::new().write(true).open(path).unwrap();
                let at = file.metadata().unwrap().len() / 2;
                file.write_all_at(b"the view's", at).unwrap();
                file.write_all_at(b"the view's", 0).unwrap();
            }
            Self::Cut => {
                let file = fs::OpenOptions::new().write(true).open(path).unwrap();
                file.set_len(5).unwrap();
                file.set_len(50_000).unwrap();
            }
            Self::Longer => {
                let file = fs::OpenOptions::new().write(true).open(path).unwrap();
                file.set_len(3_000_000).unwrap();
                file.write_all_at(b"the view's", 2_000_000).unwrap();
            }
            Self::Punched => {
                let file = fs::OpenOptions::new().write(true).open(path).unwrap();
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&file, flags, 0, 90_000).unwrap();
            }
            Self::Symlink => symlink("/nowhere/the view's", path).unwrap(),
            Self::Fifo => make_node(path, FileType::Fifo),
            Self::Socket => make_node(path, FileType::Socket),
            Self::Link => fs::hard_link(path.with_extension("anchor"), path).unwrap(),
            Self::NewLinks => {
                fs::create_dir(path).unwrap();
                write_large(&path.join("a"));
                fs::hard_link(path.join("a"), path.join("b")).unwrap();
                fs::hard_link(path.join("a"), path.with_extension("link")).unwrap();
            }
            Self::Mode => fs::set_permissions(path, Permissions::from_mode(0o4701)).unwrap(),
            Self::Xattr => {
                set_xattr(path, "user.view", b"value\0");
                let _ = rustix::fs::removexattr(path, "user.source");
            }
            Self::Acl => set_acl(path),
            Self::Times => set_times(path, 800_000_000),
            Self::Owner => std::os::unix::fs::lchown(path, Some(12), Some(34)).unwrap(),
            Self::Inside => {
                write_at(&path.join("e/g"), 0, b"G");
                fs::remove_file(path.join("e/h")).unwrap();
                fs::write(path.join("e/new"), "new").unwrap();
                fs::rename(path.join("f"), path.join("e/f")).unwrap();
            }
        }
    }
}

fn make_node(path: &Path, kind: FileType) {
    let mode = Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

fn set_acl(path: &Path) {
    let mut command = Command::new("setfacl");
    let more: &[&str] = match path.is_dir() {
        true => &["-m", "d:u:12:rx"],
        false => &[],
    };
    tools::run(command.args(["-m", "u:12:rw,g:34:r"]).args(more).arg(path));
}

/// All combinations below one source.
fn each(mut with: impl FnMut(Change, There, &str)) {
    for change in CHANGES {
        for there in THERE {
            if change.can_be(there) {
                with(change, there, &name(change, there));
            }
        }
    }
}

fn all_at_once(source: &Path, store: &Path) {
    each(|_, there, name| there.make(&source.join(name)));
    let mount = private(source, store, &[]);
    each(|change, _, name| change.make(&mount.mnt().join(name)));
    commit_view(mount, store, &[]);
}

#[test]
fn each_change_over_each_thing_is_committed() {
    let (_place, source, store) = place();
    all_at_once(&source, &store);
}

#[test]
fn as_root_each_change_is_committed_on_other_filesystems() {
    for fs_type in ["xfs", "btrfs"] {
        let fs = LoopFs::new(fs_type, 512 << 20);
        let (source, store) = (fs.path().join("source"), fs.path().join("store"));
        fs::create_dir(&source).unwrap();
        all_at_once(&source, &store);
    }
}

#[test]
fn as_root_each_change_is_committed_from_another_filesystem() {
    let fs = LoopFs::new("xfs", 512 << 20);
    let (_place, _, store) = place();
    let source = fs.path().join("source");
    fs::create_dir(&source).unwrap();
    all_at_once(&source, &store);
}

/// XFS shows root the source's ACLs by a second name each.
#[test]
fn as_root_acls_of_the_source_are_changed_on_xfs() {
    let fs = LoopFs::new("xfs", 512 << 20);
    let (_place, _, store) = place();
    let source = fs.path().join("source");
    write_files(&source, &["changed", "removed", "attribute", "d/f"]);
    for name in ["changed", "removed", "attribute", "d"] {
        set_acl(&source.join(name));
    }
    changed_and_committed(&source, &store, |view| {
        let setfacl = |words: &[&str], name: &str| {
            tools::run(Command::new("setfacl").args(words).arg(view.join(name)));
        };
        setfacl(&["-m", "u:12:r,u:13:rw"], "changed");
        setfacl(&["-b"], "removed");
        set_xattr(&view.join("attribute"), "user.a", b"b");
        setfacl(&["-k", "-m", "u:14:rwx"], "d");
    });
}

/// One by one, so that no other change covers what is missing.
#[test]
fn each_change_is_committed_alone() {
    each(|change, there, name| {
        println!("{name}");
        let (_place, source, store) = place();
        fs::create_dir(source.join("d")).unwrap();
        there.make(&source.join("d").join(name));
        set_times(&source.join("d"), 700_000_000);
        set_times(&source, 600_000_000);
        changed_and_committed(&source, &store, |view| {
            change.make(&view.join("d").join(name))
        });
    });
}

/// All of one file's attributes at once, and of the root.
#[test]
fn attributes_of_all_kinds_are_committed_together() {
    let (_place, source, store) = place();
    write_files(&source, &["f", "d/f"]);
    changed_and_committed(&source, &store, |view| {
        for path in ["f", "d", "d/f", ""] {
            let path = view.join(path);
            Change::Acl.make(&path);
            Change::Xattr.make(&path);
            if user::is_root() {
                chown(&path, Some(12), Some(34)).unwrap();
            }
            fs::set_permissions(&path, Permissions::from_mode(0o2755)).unwrap();
            set_times(&path, 500_000_000);
        }
    });
}

/// What a default ACL of its directory and a set-group-ID bit would give a new file is not what the view shows.
#[test]
fn what_is_made_has_only_the_attributes_that_the_view_shows() {
    let (_place, source, store) = place();
    write_files(&source, &["d/f"]);
    changed_and_committed(&source, &store, |view| {
        fs::write(view.join("d/before"), "before").unwrap();
        fs::create_dir(view.join("d/e")).unwrap();
        set_acl(&view.join("d"));
        fs::write(view.join("d/after"), "after").unwrap();
        fs::create_dir(view.join("d/g")).unwrap();
        fs::write(view.join("d/g/h"), "h").unwrap();
        fs::write(view.join("d/bare"), "bare").unwrap();
        tools::run(Command::new("setfacl").arg("-b").arg(view.join("d/bare")));
        fs::set_permissions(view.join("d/bare"), Permissions::from_mode(0o000)).unwrap();
    });
    // The source has the default ACL now.
    changed_and_committed(&source, &store, |view| {
        fs::write(view.join("d/more"), "more").unwrap();
        fs::create_dir(view.join("d/i")).unwrap();
        fs::write(view.join("moved"), "moved").unwrap();
        fs::rename(view.join("moved"), view.join("d/moved")).unwrap();
    });
}

#[test]
fn as_root_devices_and_capabilities_are_committed() {
    let (_place, source, store) = place();
    write_files(&source, &["program", "other"]);
    changed_and_committed(&source, &store, |view| {
        let mode = Mode::from_raw_mode(0o600);
        for (name, kind) in [
            ("char", FileType::CharacterDevice),
            ("block", FileType::BlockDevice),
        ] {
            let device = rustix::fs::makedev(7, 200);
            rustix::fs::mknodat(rustix::fs::CWD, view.join(name), kind, mode, device).unwrap();
        }
        for name in ["program", "new"] {
            fs::write(view.join(name), "other bytes").unwrap();
            chown(view.join(name), Some(12), Some(34)).unwrap();
            tools::run(
                Command::new("setcap")
                    .arg("cap_net_raw+ep")
                    .arg(view.join(name)),
            );
        }
        tools::run(
            Command::new("setcap")
                .arg("cap_net_raw+ep")
                .arg(view.join("other")),
        );
        symlink("target", view.join("link")).unwrap();
        set_xattr(&view.join("link"), "trusted.x", b"y");
    });
}

/// Modes that keep even the owner out.
#[test]
fn what_its_owner_may_not_change_any_more_is_committed() {
    let (_place, source, store) = place();
    write_files(&source, &["f", "d/f"]);
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let mount = private(&source, &store, &[]);
    let at = |name: &str| mount.mnt().join(name);
    set_xattr(&at("f"), "user.a", b"b");
    mode(&at("f"), 0o444);
    fs::create_dir_all(at("new/e")).unwrap();
    fs::write(at("new/e/f"), "f").unwrap();
    set_xattr(&at("new/e/f"), "user.a", b"b");
    mode(&at("new/e/f"), 0o444);
    mode(&at("new/e"), 0o555);
    fs::write(at("d/g"), "g").unwrap();
    mode(&at("d"), 0o555);
    commit_view(mount, &store, &[]);
    for path in ["d", "new/e"] {
        mode(&source.join(path), 0o755);
    }
}

/// As is done with the module cache of Go. In the source, only root may write to the directory as it is.
#[test]
fn a_directory_that_was_opened_to_be_changed_is_refused_to_users() {
    let (_place, source, store) = place();
    write_files(&source, &["closed/f", "closed/g"]);
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(&source.join("closed"), 0o555);
    let mut mount = private(&source, &store, &[]);
    let closed = mount.mnt().join("closed");
    mode(&closed, 0o755);
    fs::remove_file(closed.join("f")).unwrap();
    fs::write(closed.join("h"), "h").unwrap();
    mode(&closed, 0o555);
    let view = snapshot(mount.mnt());
    mount.unmount();
    if !user::is_root() {
        left_alone(&source, &store, (1, "closed cannot be committed"));
        mode(&source.join("closed"), 0o755);
    }
    done(&commit(&store, &[]));
    assert_committed(&view, &source, &store);
    mode(&source.join("closed"), 0o755);
}

#[test]
fn a_dry_run_prints_what_is_done_and_does_nothing() {
    let (_place, source, store) = place();
    write_files(&source, &["f", "gone"]);
    let mut mount = private(&source, &store, &[]);
    fs::write(mount.mnt().join("f"), "other").unwrap();
    fs::remove_file(mount.mnt().join("gone")).unwrap();
    File::create(mount.mnt().join("new")).unwrap();
    mount.unmount();
    let before = untouched(&source);
    for option in ["-n", "--dry-run"] {
        let output = commit(&store, &[option]);
        done(&output);
        assert_eq!(output.stdout, b"M f\nD gone\nA new\n");
    }
    assert_eq!(diff(&store), ["M f", "D gone", "A new"]);
    let now = untouched(&source);
    assert_same(&before, &now, "a dry run touched the source");
}

#[test]
fn nothing_to_commit_is_no_error() {
    let (_place, source, store) = place();
    write_files(&source, &["d/f"]);
    changed_and_committed(&source, &store, |_| {});
    changed_and_committed(&source, &store, |view| {
        fs::write(view.join("d/f"), "f").unwrap();
        fs::write(view.join("d/g"), "g").unwrap();
        fs::remove_file(view.join("d/g")).unwrap();
    });
}
