//! Command lines that are refused: the sentence and the exit code of each.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;

use crate::place::{MMFS, Place, eventually, refuses, said};

#[test]
fn paths_that_cannot_be_used_are_refused() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    let table = [
        (
            "missing",
            "mount",
            "source \"missing\" does not exist; check the spelling (the order is mmfs SRC MNT)",
        ),
        (
            "source",
            "missing",
            "mount point \"missing\" does not exist; make it with: mkdir",
        ),
        ("file", "mount", "source \"file\" is not a directory; name"),
        (
            "source",
            "file",
            "mount point \"file\" is not a directory; name",
        ),
        ("file/x", "mount", "source \"file/x\" is not a directory"),
        (
            "source",
            "/dev/fd/987",
            "\"/dev/fd/987\" is not a mounted /dev/fuse: Bad file descriptor",
        ),
        (
            "source",
            "/dev/fd/0",
            "\"/dev/fd/0\" is not a mounted /dev/fuse: the descriptor is another file",
        ),
    ];
    for (source, mount, words) in table {
        refuses(
            &place.run(Command::new(MMFS).args(["--", source, mount])),
            words,
        );
        refuses(
            &place.run(Command::new(MMFS).args(["-f", "--", source, mount])),
            words,
        );
    }
    refuses(
        &place.mmfs(&["--log", "no/file"]),
        "cannot open the log file",
    );
}

/// Whatever the path of a directory leads to now, nothing else is served or covered.
#[test]
fn a_directory_that_its_path_does_not_lead_to_is_refused() {
    let place = Place::new();
    for name in ["gone", "gone (deleted)"] {
        fs::create_dir(place.path(name)).unwrap();
    }
    fs::write(place.path("gone (deleted)/other"), "").unwrap();
    for (source, mount) in [(".", "../mount"), ("../source", ".")] {
        fs::create_dir_all(place.path("gone")).unwrap();
        let script = r#"cd gone && rmdir ../gone && exec "$@""#;
        let args = ["-c", script, "sh", MMFS, source, mount];
        let output = place.run(Command::new("sh").args(args));
        refuses(&output, "\".\" has no path here");
    }
}

#[test]
fn as_root_a_directory_of_another_mount_namespace_is_refused() {
    let place = Place::new();
    fs::create_dir(place.path("source/in")).unwrap();
    let script = r#"
        mkfifo go
        unshare --mount --propagation private sh -c 'mount -t tmpfs tmpfs source/in && echo mounted >go && exec sleep 60' &
        read -r _ <go
        "$0" "/proc/$!/root$PWD/source/in" mount; status=$?
        kill $!
        exit $status"#;
    let output = place.run(Command::new("sh").args(["-c", script, MMFS]));
    refuses(&output, "has no path here");
}

/// What a refusal proposes does, pasted into a shell, what it says: whatever is in the path.
#[test]
fn a_proposed_command_can_be_pasted_into_a_shell() {
    for name in [
        &b"a b"[..],
        b"it's $(touch hacked) \"x\"",
        b"-x\ny\x1b[2J",
        b"caf\xe9",
    ] {
        let place = Place::new();
        let name = OsStr::from_bytes(name);
        let mount = || {
            let mut command = Command::new(MMFS);
            said(&place.run(command.args(["--", "source"]).arg(name)))
        };
        let paste = |sentence: &str, before: &str| {
            let (_, command) = sentence.split_once(before).expect("a command");
            let command = command
                .trim_end()
                .trim_end_matches(" (the order is mmfs SRC MNT)");
            let command = command.replace("mmfs ", &format!("{MMFS} "));
            let output = place.run(Command::new("bash").args(["-c", &command]));
            assert_eq!(said(&output), (Some(0), String::new()), "{command}");
        };
        let (code, text) = mount();
        assert_eq!(code, Some(1), "{text}");
        paste(&text, "make it with: ");
        assert!(place.path("").join(name).is_dir(), "{text}");
        assert_eq!(mount(), (Some(0), String::new()));
        let (code, text) = mount();
        assert_eq!(code, Some(1), "{text}");
        paste(&text, "unmount it first with: ");
        assert!(!place.path("hacked").exists());
        eventually("it ends", || place.is_quiet());
    }
}

/// Escape sequences and newlines of an argument do not reach the terminal, also where the parser words the error.
#[test]
fn an_error_is_one_line_without_control_characters() {
    let place = Place::new();
    let evil = "\x1b[2J\n\u{9b}\u{202e}x\r";
    let flag = format!("--{evil}");
    let table: [&[&str]; 10] = [
        &[&flag],
        &["-o", evil, "source", "mount"],
        &["--threads", evil, "source", "mount"],
        &["--threads", &flag, "source", "mount"],
        &["source", "mount", evil],
        &["help", evil],
        &["status", &flag],
        &["trace", "--slow", evil, "mount"],
        &["unmount", evil],
        &[evil, "mount"],
    ];
    for args in table {
        let (code, text) = said(&place.run(Command::new(MMFS).args(args)));
        assert!(matches!(code, Some(1 | 2)), "{args:?}: {text:?}");
        let line = text.strip_suffix('\n').expect("a line");
        let is_clean = |char: char| !char.is_control() && char != '\u{202e}';
        assert!(line.chars().all(is_clean), "{args:?}: {text:?}");
        assert!(line.starts_with("mmfs: "), "{args:?}: {text:?}");
    }
}

#[test]
fn hidden_options_are_not_named() {
    let place = Place::new();
    for (args, words) in [
        (&["-o", "exec=1"][..], "-o exec: it takes no value"),
        (&["-o", "rw=yes"], "-o rw: it takes no value"),
        (
            &["-o", "allow_other=1"],
            "-o allow_other: it takes no value",
        ),
        (&["-o", "attr_timeout"], "-o attr_timeout: give it a value"),
        (&["--mount-fla=exec"], "unexpected argument '--mount-fla'"),
        (&["--generat"], "unexpected argument '--generat'"),
        (&["--read-writ"], "unexpected argument '--read-writ'"),
    ] {
        let mut command = Command::new(MMFS);
        let (code, text) = said(&place.run(command.args(args).args(["source", "mount"])));
        assert_eq!(code, Some(2), "{args:?}: {text}");
        assert!(text.contains(words), "{args:?}: {text}");
        for hidden in ["--mount-flag", "--read-write", "--generate"] {
            assert!(!text.contains(&format!("{hidden}'")), "{args:?}: {text}");
            assert!(!text.contains(&format!("{hidden} ")), "{args:?}: {text}");
        }
    }
}

/// mount(8) passes the code of its helper on, so it is one of those that its manual page has.
/// It also has the helper ignore, with -s, what that does not know.
#[test]
fn a_helper_of_mount_has_its_exit_codes_and_its_sloppy_option() {
    let place = Place::new();
    assert!(place.sh("ln -s $MMFS mount.mmfs").status.success());
    for (line, wanted, words) in [
        ("./mount.mmfs", 1, "are missing"),
        ("./mount.mmfs $S $M -o fancy", 1, "-o fancy"),
        ("./mount.mmfs $S $M -N /proc/1/ns/mnt", 1, "nsenter"),
        ("./mount.mmfs $S $M -s -o remount", 1, "-o remount"),
        ("./mount.mmfs $S $M -s -o setuid=x", 1, "-o setuid"),
        ("./mount.mmfs $S $M -s -o exec=1", 1, "-o exec"),
        (
            "ulimit -n 20; ./mount.mmfs $S $M -o threads=16",
            2,
            "ulimit",
        ),
        ("./mount.mmfs $S missing", 32, "does not exist"),
        ("./mount.mmfs $S $M -o log=no/file", 32, "log file"),
        ("./mount.mmfs --help >&-", 0, ""),
        ("$MMFS $S missing", 1, "does not exist"),
        ("$MMFS $S $M -o fancy", 2, "-o fancy"),
    ] {
        let (code, text) = said(&place.sh(line));
        assert_eq!(code, Some(wanted), "{line}: {text}");
        assert!(text.contains(words), "{line}: {text}");
    }
    let line = "./mount.mmfs $S $M -s -o ro,fancy,uid=5,x=y,nosuid";
    assert_eq!(said(&place.sh(line)), (Some(0), String::new()));
    assert!(fs::write(place.mount().join("new"), "").is_err());
    place.umount();
}

#[test]
fn usage_errors_exit_2_and_help_exits_0() {
    let place = Place::new();
    for (args, words) in [
        (&["source"][..], "<MNT>"),
        (&["source", "mount", "-o", "fancy"], "-o fancy"),
        (&["source", "mount", "-o", "remount"], "-o remount"),
        (&["source", "mount", "--window-size", "1K"], "--window-size"),
    ] {
        let output = place.run(Command::new(MMFS).args(args));
        let (code, text) = said(&output);
        assert_eq!(code, Some(2), "{args:?}: {text}");
        assert!(
            output.stdout.is_empty() && text.contains(words),
            "{args:?}: {text}"
        );
        let is_sentence = text.starts_with("mmfs: ") && text.lines().count() == 1;
        assert!(is_sentence, "{args:?}: {text}");
    }
    for option in ["--help", "--version"] {
        let output = place.run(Command::new(MMFS).arg(option));
        assert!(output.status.success() && output.stderr.is_empty() && !output.stdout.is_empty());
    }
    assert_eq!(
        place.sh("$MMFS --help >&-").status.code(),
        Some(0),
        "a closed stream is no reason"
    );
}

/// The note is for a user who meant the directory. Helpers of mount(8) get the directory.
#[test]
fn a_source_named_like_a_verb_is_written_with_a_dot() {
    let place = Place::new();
    let help = place.run(Command::new(MMFS).arg("help"));
    assert!(help.status.success() && help.stderr.is_empty(), "{help:?}");
    fs::rename(place.source(), place.path("help")).unwrap();
    let note = "mmfs: help is a verb here; write the directory of that name as ./help\n";
    let noted = place.run(Command::new(MMFS).arg("help"));
    assert_eq!(String::from_utf8_lossy(&noted.stderr), note);
    assert_eq!((noted.status.code(), noted.stdout), (Some(0), help.stdout));
    let path = format!("PATH={}:$PATH", Path::new(MMFS).parent().unwrap().display());
    for mount in [
        "$MMFS ./help $M",
        "$MMFS help $M -o ro",
        "ln -sf $MMFS mount.mmfs && ./mount.mmfs help $M",
        &format!("{path} mount.fuse3 mmfs#help $M"),
        &format!("{path} mount.fuse3 help $M -t mmfs -o ro"),
    ] {
        assert_eq!(said(&place.sh(mount)), (Some(0), String::new()), "{mount}");
        assert_eq!(fs::read(place.mount().join("hello")).unwrap(), b"hello\n");
        place.umount();
        eventually("it ends", || place.is_quiet());
    }
}

#[test]
fn a_verb_that_is_misspelt_is_proposed() {
    let place = Place::new();
    let (code, text) = said(&place.run(Command::new(MMFS).args(["umount", "mount"])));
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.starts_with("mmfs: did you mean the verb: mmfs unmount?\n"),
        "{text}"
    );
    // A path is none, nor is a word whose file is there.
    fs::write(place.path("umount"), "").unwrap();
    let lines = [
        "$MMFS umount mount",
        "$MMFS ./unmoun mount",
        "$MMFS stat/us mount",
        "$MMFS $T/status mount",
        "$MMFS --log no/file umoun mount",
        "$MMFS $S $M statu",
    ];
    for line in lines {
        let (code, text) = said(&place.sh(line));
        assert_ne!(code, Some(0), "{line}");
        assert!(!text.contains("did you mean"), "{line}: {text}");
    }
}

#[test]
fn a_background_process_that_dies_early_is_reported() {
    let place = Place::new();
    fs::create_dir(place.path("bin")).unwrap();
    let helper = place.path("bin/fusermount3");
    let table = [
        (
            "kill -9 $PPID",
            "killed by signal 9 before the mount answered",
        ),
        (
            "echo 'fusermount3: too many FUSE mounts' >&2; exit 1",
            "refused to mount: too many FUSE",
        ),
        ("exit 1", "fusermount3 refused to mount: it gave no reason"),
    ];
    for (body, words) in table {
        fs::write(&helper, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        refuses(&place.sh("PATH=$T/bin $MMFS --auto-unmount $S $M"), words);
    }
    refuses(
        &place.sh("PATH=/nowhere $MMFS --auto-unmount $S $M"),
        "fusermount3 is not installed",
    );
}

/// (proves: S29)
#[test]
fn a_dead_mount_of_ours_is_cleared_and_a_foreign_one_refused() {
    let place = Place::new();
    for _ in 0..2 {
        assert!(place.sh("mount -t tmpfs below $M").status.success());
        let mut dead = place.foreground(&[]);
        dead.signal(Signal::KILL);
        dead.end();
    }
    assert_eq!(place.layers(), 4);
    let (code, text) = said(&place.mmfs(&[]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("cleared a dead mount of mmfs at"), "{text}");
    assert_eq!(place.layers(), 4, "what lay below is still there");
    (0..4).for_each(|_| place.umount());

    drop(foreign_mount(&place));
    refuses(&place.mmfs(&[]), "clear it with: mmfs unmount");
    let below = Command::new(MMFS)
        .arg(place.source())
        .arg(place.mount().join("x"))
        .output();
    let way_out = format!(
        "clear that mount with: mmfs unmount {}",
        place.mount().display()
    );
    refuses(&below.unwrap(), &way_out);
    refuses(&place.sh("$MMFS $M $S"), "source");
    let way_out = format!("clear it with: mmfs unmount {}", place.mount().display());
    refuses(&place.sh("$MMFS --check $M"), &way_out);
    refuses(&place.sh("$MMFS --check mount"), &way_out);
    place.umount();
}

/// A FUSE mount of another program, which calls itself `fuse.mmfs`. It is dead once its device is closed.
fn foreign_mount(place: &Place) -> fs::File {
    let device = fs::File::options().read(true).write(true).open("/dev/fuse");
    let device = device.unwrap();
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions\0",
        device.as_raw_fd()
    );
    let data = std::ffi::CStr::from_bytes_with_nul(data.as_bytes()).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount(place.source(), place.mount(), "fuse.mmfs", flags, data).unwrap();
    device
}

/// "A dead mount that is provably mmfs's own is cleared, a live one is refused": whatever `--subtype` calls it.
/// (proves: S29)
#[test]
fn a_mount_of_any_subtype_is_known_as_ours() {
    let place = Place::new();
    let mut dead = place.foreground(&["--subtype", "other"]);
    dead.signal(Signal::KILL);
    dead.end();
    let (code, text) = said(&place.mmfs(&["--subtype", "third"]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("cleared a dead mount of mmfs at"), "{text}");
    assert_eq!(place.kind(), "fuse.third");
    refuses(&place.mmfs(&[]), "unmount it first with: mmfs unmount");
    assert_eq!(place.layers(), 1);
    place.umount();
}

/// (proves: S29)
#[test]
fn a_live_mount_is_not_covered_by_another() {
    let place = Place::new();
    place.start(&[]);
    for source in [place.source(), place.mount(), "/".into()] {
        refuses(
            &place.run(Command::new(MMFS).arg(source).arg("mount")),
            &format!(
                "unmount it first with: mmfs unmount {}",
                place.mount().display()
            ),
        );
    }
    assert_eq!(place.layers(), 1);
    assert_eq!(fs::read(place.mount().join("hello")).unwrap(), b"hello\n");
    place.umount();
}

/// What is hidden by an empty source is most often what was to be shown: there is a word of it.
#[test]
fn an_empty_source_over_a_full_directory_is_warned_of() {
    let place = Place::new();
    let unmount = || {
        let unmount = place.run(Command::new("umount").arg(place.source()));
        assert!(unmount.status.success(), "{unmount:?}");
    };
    let turned = || said(&place.run(Command::new(MMFS).args(["mount", "source"])));
    let (code, words) = turned();
    assert!(
        code == Some(0) && words.contains("the order is mmfs SRC MNT"),
        "{words}"
    );
    unmount();
    fs::remove_file(place.source().join("hello")).unwrap();
    assert_eq!(turned(), (Some(0), String::new()));
    unmount();
    assert_eq!(
        said(&place.sh("echo >$M/file; $MMFS $M $M")),
        (Some(0), String::new())
    );
    place.umount();
}

/// Mounts a FUSE server on `mount` that answers INIT, and reads one more request without answering:
/// the process that sent that waits in the kernel, beyond the reach of SIGKILL, until the result is dropped.
fn mute_server(mount: &Path) -> Arc<File> {
    let device = Arc::new(
        File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .unwrap(),
    );
    let fd = device.as_raw_fd();
    let data = CString::new(format!("fd={fd},rootmode=40000,user_id=0,group_id=0")).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("mute", mount, "fuse.mute", flags, data.as_c_str()).unwrap();
    let mut request = vec![0; 1 << 17];
    assert!((&*device).read(&mut request).unwrap() >= 16);
    // fuse_out_header (length, error, the request's number), fuse_init_out (version, max_write).
    let mut reply = [0_u8; 80];
    reply[0] = 80;
    reply[8..16].copy_from_slice(&request[8..16]);
    (reply[16], reply[20], reply[37]) = (7, 31, 0x10);
    (&*device).write_all(&reply).unwrap();
    let reader = Arc::clone(&device);
    std::thread::spawn(move || (&*reader).read(&mut request));
    device
}

#[test]
fn a_mount_point_that_does_not_answer_is_refused() {
    let place = Place::new();
    let device = mute_server(&place.mount());
    refuses(
        &place.mmfs(&[]),
        "lies on a filesystem that does not answer",
    );
    assert_eq!((place.layers(), place.kind()), (1, "fuse.mute".into()));
    // The server dies, so requests that still wait for it get an error, and its mount can be unmounted.
    drop(device);
    place.run(Command::new("umount").arg("-l").arg(place.mount()));
}

/// The mount table is read as bytes: an answering mount is found there, and a dead one is cleared.
#[test]
fn a_mount_point_need_not_be_utf_8() {
    let place = Place::new();
    let script = r#"
        M=$T/$(printf "caf\351 x"); mkdir "$M"
        $MMFS "$S" "$M" && $MMFS --check "$M" || exit 1
        ! $MMFS "$S" "$M" 2>"$T/again" && grep -q "is in use" "$T/again" || exit 2
        umount "$M"
        $MMFS -f "$S" "$M" & daemon=$!
        until $MMFS --check "$M" 2>"$T/check"; do sleep 0.05; done
        kill -9 $daemon; wait $daemon
        $MMFS "$S" "$M" 2>"$T/cleared" && grep -q "cleared a dead mount" "$T/cleared" || exit 3
        umount "$M""#;
    // In a mount namespace of its own: other tests read the table as UTF-8.
    let script = format!("unshare --mount --propagation private sh -c '{script}'");
    let (code, text) = said(&place.sh(&script));
    assert_eq!(code, Some(0), "{text}");
    eventually("nothing is left", || place.processes().is_empty());
}
