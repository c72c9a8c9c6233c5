//! Who owns what is made on the mount, and who may do what there: owners, groups, umask, ACLs, attributes.

mod common;
mod stage;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::tools;
use common::user::{as_user, give_to, ordinary};
use common::{Builder, Mount};
use rustix::process::Signal;
use stage::{Stage, compile, disk, on, printed, shared, tree};

/// A line for each entry: path, type and permissions, user and group, extended attributes (ACLs among them).
fn made(directory: &Path) -> Vec<String> {
    let line = |(path, entry): (PathBuf, tree::Entry)| {
        let attributes = entry
            .attributes
            .iter()
            .map(|(name, value)| format!(" {name:?}={}", bytes_of(value)));
        let attributes: String = attributes.collect();
        format!(
            "{} {:o} {:?}{attributes}",
            path.display(),
            entry.mode,
            entry.owner
        )
    };
    tree::tree(directory).into_iter().map(line).collect()
}

fn bytes_of(value: &[u8]) -> String {
    value.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes one of everything below the directory, as that user and with that umask.
fn make_everything(uid: u32, umask: &str, directory: &Path) -> String {
    let script = r#"umask "$1"; cd "$2"
        touch file; mkdir directory; ln -s file link; mkfifo pipe; ln file other; mkdir -m 2770 group
        touch group/file; mkdir group/below; (umask 777; : > none); cp -p file copied; chmod 4711 file"#;
    let output = tools::output_of(
        as_user(uid, "bash")
            .args(["-ec", script, "bash", umask])
            .arg(directory),
    );
    format!(
        "{} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )
}

/// "new files belong to the caller (setgid directories included); umask and default ACLs as on the source": for root
/// and an ordinary user, three umasks, and four kinds of directories. On the mount and in the source alike.
/// (proves: S24)
#[test]
fn as_root_new_files_are_what_they_are_natively() {
    on(shared(), new_files_are_what_they_are_natively);
}

fn new_files_are_what_they_are_natively(stage: &Stage) {
    for (directory, prepare) in kinds_of_directories() {
        for uid in [0, ordinary()] {
            for umask in ["000", "027", "077"] {
                let name = format!("{directory}-{uid}-{umask}");
                stage.twins(&name, |dir| {
                    let path = dir.join(&name);
                    fs::create_dir(&path).unwrap();
                    prepare(&path);
                    let said = make_everything(uid, umask, &path);
                    (said.replace(dir.to_str().unwrap(), ""), made(&path))
                });
                stage.expect_same(
                    &name,
                    &made(&stage.source(&name)),
                    &made(&stage.mount(&name)),
                );
            }
        }
    }
}

type Prepare = fn(&Path);

/// Directories by what new entries in them inherit.
fn kinds_of_directories() -> [(&'static str, Prepare); 4] {
    let open: fn(&Path) = |path| fs::set_permissions(path, Permissions::from_mode(0o1777)).unwrap();
    let setgid: fn(&Path) = |path| {
        chown(path, Some(0), Some(4321)).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o2777)).unwrap();
    };
    let default_acl: fn(&Path) = |path| {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
        set_acl(
            path,
            &[
                "-d",
                "-m",
                "u::rwx,g::r-x,o::---,u:4321:rwx,g:4322:r-x,m::rwx",
            ],
        );
    };
    let both: fn(&Path) = |path| {
        chown(path, Some(0), Some(4321)).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o2777)).unwrap();
        set_acl(path, &["-d", "-m", "g:4322:rw-"]);
    };
    [
        ("open", open),
        ("setgid", setgid),
        ("default-acl", default_acl),
        ("both", both),
    ]
}

fn set_acl(path: &Path, arguments: &[&str]) {
    tools::run(
        Command::new(tools::tool("setfacl"))
            .args(arguments)
            .arg(path),
    );
}

/// "files are never chowned afterwards": a new file is the caller's from the first moment anybody behind the mount can
/// see it. Watched in the source while an ordinary user makes 500 of them.
/// (proves: S24)
#[test]
fn as_root_a_new_file_is_never_anybody_elses() {
    on(shared(), |stage| {
        let user = ordinary();
        fs::set_permissions(stage.source(""), Permissions::from_mode(0o777)).unwrap();
        let script = "for n in $(seq 500); do : > $n; mkdir d$n; done";
        let mut maker = as_user(user, "bash")
            .args(["-ec", script])
            .current_dir(stage.mount(""))
            .spawn()
            .unwrap();
        let mut others = Vec::new();
        while maker.try_wait().unwrap().is_none() {
            for entry in fs::read_dir(stage.source("")).unwrap().map(Result::unwrap) {
                let meta = entry.metadata().unwrap();
                others
                    .extend(((meta.uid(), meta.gid()) != (user, user)).then(|| entry.file_name()));
            }
        }
        assert!(maker.wait().unwrap().success());
        assert!(
            others.is_empty(),
            "not the caller's when first seen: {others:?}"
        );
    });
}

/// What access(2) answers a user about reading, writing, executing, listing and entering.
fn allowed(uid: u32, directory: &Path) -> Vec<String> {
    let script = r#"cd "$1"
        for what in read write exec; do for name in *; do
            case $what in
                read) cat "$name" >/dev/null 2>&1;;
                write) if [ -d "$name" ]; then : > "$name/new"; else : >> "$name"; fi 2>/dev/null;;
                exec) if [ -d "$name" ]; then cd "$name" && cd ..; else test -x "$name"; fi 2>/dev/null;;
            esac && echo "$what $name yes" || echo "$what $name no"
        done; done; ls -d * | while read -r name; do ls "$name" >/dev/null 2>&1 && echo "list $name"; done"#;
    printed(
        as_user(uid, "bash")
            .args(["-c", script, "bash"])
            .arg(directory),
    )
    .lines()
    .map(str::to_owned)
    .collect()
}

/// "POSIX ACLs, enforced", and plain permissions: what they let an ordinary user, another one and root do is what they
/// let them do natively.
/// (proves: S25)
#[test]
fn as_root_permissions_and_acls_are_enforced() {
    let user = ordinary();
    let acls = [
        "u:USER:r--",
        "u:USER:---",
        "g:USER:rw-",
        "u:USER:rwx,m::r--",
        "o::rwx",
        "u:USER:--x,o::rw-",
        "",
    ];
    on(shared(), |stage| {
        for uid in [user, 4321, 0] {
            stage.twins(&format!("user {uid}"), |dir| {
                let base = dir.join(format!("acl-{uid}"));
                fs::create_dir(&base).unwrap();
                fs::set_permissions(&base, Permissions::from_mode(0o755)).unwrap();
                for (number, acl) in acls.into_iter().enumerate() {
                    for (kind, mode) in [("file", 0o640), ("open", 0o666), ("directory", 0o750)] {
                        let path = base.join(format!("{kind}-{number}"));
                        if kind == "directory" {
                            fs::create_dir(&path)
                        } else {
                            fs::write(&path, "#!/bin/true")
                        }
                        .unwrap();
                        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
                        if !acl.is_empty() {
                            set_acl(&path, &["-m", &acl.replace("USER", &user.to_string())]);
                        }
                    }
                }
                allowed(uid, &base)
            });
        }
    });
}

/// An ordinary user may change what is his, and is refused what is not, with the errors of the source.
/// (proves: S25)
#[test]
fn as_root_changes_of_owner_and_mode_are_answered_as_natively() {
    let script = r#"cd "$1"; for name in mine theirs group; do
        for try in "chmod 600" "chmod 2755" "chmod 4755" "chown 4321" "chgrp 4321" "touch -d @1000000000" "touch" \
                   "setfattr -n user.x -v y" "setfacl -m u:4321:r" "truncate -s 10" "ln -t links" "mv -t links"; do
            $try "$name" 2>/dev/null && echo "$try $name: done" || echo "$try $name: refused"
        done; done"#;
    on(shared(), |stage| {
        let user = ordinary();
        stage.twins("an ordinary user", |dir| {
            let base = dir.join("changes");
            fs::create_dir_all(base.join("links")).unwrap();
            for (name, owner, mode) in [
                ("mine", user, 0o644),
                ("theirs", 0, 0o644),
                ("group", 0, 0o666),
            ] {
                fs::write(base.join(name), "bytes").unwrap();
                give_to(owner, &base.join(name));
                fs::set_permissions(base.join(name), Permissions::from_mode(mode)).unwrap();
            }
            for path in [&base, &base.join("links")] {
                fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
            }
            let answers = printed(
                as_user(user, "bash")
                    .args(["-c", script, "bash"])
                    .arg(&base),
            );
            (
                answers.lines().map(str::to_owned).collect::<Vec<_>>(),
                made(&base),
            )
        });
    });
}

/// Without `--allow-other` nobody but the mounting user enters, root's mount not excepted.
/// (proves: S25)
#[test]
fn as_root_nobody_else_enters_a_private_mount() {
    on(Mount::builder(), |stage| {
        fs::write(stage.source("file"), "x").unwrap();
        let output = tools::output_of(as_user(ordinary(), "cat").arg(stage.mount("file")));
        assert!(
            !output.status.success(),
            "an ordinary user read root's private mount"
        );
    });
}

/// A mount whose daemon gets EPERM from these system calls.
fn on_without(calls: &[&str], builder: Builder, test: impl FnOnce(&Stage)) {
    let programs = tempfile::Builder::new().tempdir_in(disk()).unwrap();
    let program = programs.path().join("refuse_calls");
    compile("refuse_calls", &program);
    let mut words = vec![program.to_str().unwrap()];
    words.extend(calls);
    words.push("--");
    on(builder.by(words), test);
}

/// Container engines refuse unshare(2) to a process without CAP_SYS_ADMIN. What is made is what it is natively all the same.
/// (proves: S24)
#[test]
fn as_root_without_unshare_new_files_are_what_they_are_natively() {
    on_without(&["unshare"], shared(), new_files_are_what_they_are_natively);
}

/// Without unshare(2) the umask is one for all threads: many callers make files at once, each under its own.
/// (proves: S24)
#[test]
fn as_root_without_unshare_everybody_has_a_umask_of_their_own() {
    on_without(&["unshare"], shared(), |stage| {
        fs::set_permissions(stage.source(""), Permissions::from_mode(0o777)).unwrap();
        let umasks = ["000", "002", "022", "027", "077", "777"];
        let script =
            r#"umask $1; for n in $(seq 200); do : > file-$1-$n; mkdir directory-$1-$n; done"#;
        let makers = umasks.map(|umask| {
            let mut maker = as_user(ordinary(), "bash");
            maker
                .args(["-ec", script, "bash", umask])
                .current_dir(stage.mount(""));
            maker.spawn().unwrap()
        });
        let ended = makers.map(|mut maker| maker.wait().unwrap().success());
        assert_eq!(ended, [true; 6]);
        for entry in fs::read_dir(stage.source("")).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let umask = u32::from_str_radix(name.split('-').nth(1).unwrap(), 8).unwrap();
            let all = if name.starts_with('f') { 0o666 } else { 0o777 };
            assert_eq!(
                entry.metadata().unwrap().mode() & 0o7777,
                all & !umask,
                "{name}"
            );
        }
    });
}

/// The log file is the daemon's own: opened anew, it is made under the daemon's umask and not under the last caller's.
#[test]
fn as_root_without_unshare_the_log_has_no_callers_umask() {
    let logs = tempfile::Builder::new().tempdir_in(disk()).unwrap();
    let log = logs.path().join("log");
    let option = format!("--log={}", log.display());
    on_without(&["unshare"], shared().option(option), |stage| {
        let mode = fs::metadata(&log).unwrap().mode();
        printed(
            Command::new("sh")
                .args(["-c", "umask 0; : > $0"])
                .arg(stage.mount("open to all")),
        );
        assert_eq!(
            fs::metadata(stage.source("open to all")).unwrap().mode() & 0o777,
            0o666
        );
        fs::rename(&log, logs.path().join("old")).unwrap();
        common::fuse::kill(stage.pid(), Signal::HUP);
        stage::eventually("a new log", || log.exists());
        assert_eq!(fs::metadata(&log).unwrap().mode(), mode);
    });
}

/// Who needs no privilege needs none of the calls that change identities: an ordinary user's daemon, and root's own
/// requests.
#[test]
fn as_root_whoever_acts_as_themselves_needs_none_of_the_refused_calls() {
    let all = ["unshare", "setfsuid", "setfsgid", "capset"];
    for user in [None, Some(ordinary())] {
        // setpriv, which makes the daemon the user's, needs capset itself.
        let calls = if user.is_some() { &all[..3] } else { &all };
        let builder = match user {
            Some(uid) => Mount::builder().as_user(uid),
            None => shared(),
        };
        on_without(calls, builder, |stage| {
            let script = r#"umask 027; cd "$1"; echo one > file; echo two >> file; mkdir dir; mv file dir/file; ln -s x link
                chmod 4751 dir/file; touch -d 2001-01-01 dir/file; truncate -s 100 dir/file; stat -c '%a %s %u' dir/file dir"#;
            let uid = user.unwrap_or(0);
            let said = printed(
                as_user(uid, "bash")
                    .args(["-ec", script, "bash"])
                    .arg(stage.mount("")),
            );
            let mode = if uid == 0 { 4751 } else { 751 };
            assert_eq!(
                said,
                format!(
                    "{mode} 100 {uid}\n750 {} {uid}",
                    said.split(' ').nth(3).unwrap()
                )
            );
        });
    }
}

/// Where nobody can be acted for, an ordinary user's changes through root's daemon are refused: what they made would be
/// root's, suid bits and all. Reading needs no identity.
#[test]
fn as_root_without_setfsuid_nobody_makes_files_of_root() {
    for refused in [&["setfsuid", "setfsgid"][..], &["capset"]] {
        on_without(refused, shared(), |stage| {
            fs::set_permissions(stage.source(""), Permissions::from_mode(0o777)).unwrap();
            fs::write(stage.mount("readable"), "bytes").unwrap();
            fs::set_permissions(stage.mount("readable"), Permissions::from_mode(0o666)).unwrap();
            let script = r#"cd "$1"; (: > made) 2>/dev/null && echo made; mkdir directory 2>/dev/null && echo directory
                (: >> readable) 2>/dev/null && echo opened
                cat readable"#;
            let said = printed(
                as_user(ordinary(), "bash")
                    .args(["-c", script, "bash"])
                    .arg(stage.mount("")),
            );
            assert_eq!(said, "bytes", "without {refused:?}");
            fs::write(stage.mount("by root"), "again").unwrap();
            assert_eq!(fs::metadata(stage.source("by root")).unwrap().uid(), 0);
            assert_eq!(
                tree::names_in(&stage.source("")).len(),
                2,
                "without {refused:?}"
            );
        });
    }
}
