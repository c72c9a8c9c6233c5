//! The life of a mount: how it starts, and the ways it ends.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use crate::place::{MMFS, Place, eventually, refuses, said};
use crate::stopped::stop;

#[test]
fn the_parent_exits_when_the_mount_answers_and_nothing_is_printed() {
    let place = Place::new();
    place.start(&[]);
    assert_eq!(place.kind(), "fuse.mmfs");
    let daemon = place.daemon();
    let link = |name| fs::read_link(format!("/proc/{}/{name}", daemon.as_raw_pid())).unwrap();
    assert_eq!(link("cwd"), Path::new("/"));
    for stream in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(stream), Path::new("/dev/null"));
    }
    kill_process(daemon, Signal::TERM).unwrap();
    eventually("a signal unmounts", || place.is_quiet());
}

#[test]
fn closed_standard_streams_are_no_obstacle() {
    let place = Place::new();
    assert_eq!(place.sh("$MMFS $S $M <&- >&- 2>&-").status.code(), Some(0));
    assert_eq!(fs::read(place.mount().join("hello")).unwrap(), b"hello\n");
    place.umount();
    eventually("it ends", || place.is_quiet());
    assert_eq!(
        place.sh("$MMFS -f missing $M <&- >&- 2>&-").status.code(),
        Some(1)
    );
}

/// (proves: S27)
#[test]
fn signals_and_outside_unmounts_end_it_with_exit_code_0() {
    let place = Place::new();
    for signal in [Signal::INT, Signal::TERM, Signal::QUIT] {
        let mut daemon = place.foreground(&[]);
        daemon.signal(signal);
        daemon.ends_well();
        assert_eq!(place.layers(), 0);
    }
    for program in [&["umount"][..], &["fusermount3", "-u"], &["umount", "-l"]] {
        let mut daemon = place.foreground(&[]);
        // Another program of this machine may be looking at the mount just now.
        eventually(&format!("{program:?} succeeds"), || {
            let mut unmount = Command::new(program[0]);
            unmount.args(&program[1..]).arg(place.mount());
            place.run(&mut unmount).status.success()
        });
        daemon.ends_well();
    }
}

#[test]
fn an_aborted_connection_ends_it_and_leaves_no_dead_mount() {
    let place = Place::new();
    let mut daemon = place.foreground(&[]);
    let device = fs::metadata(place.mount()).unwrap().dev();
    let abort =
        format!("mkdir $T/ctl; mount -t fusectl ctl $T/ctl; echo 1 > $T/ctl/{device}/abort");
    assert!(
        place
            .sh(&format!("unshare --mount sh -c '{abort}'"))
            .status
            .success()
    );
    daemon.ends_well();
    assert_eq!(place.layers(), 0);
}

/// (proves: S27)
#[test]
fn a_busy_mount_is_detached_and_its_open_files_are_served() {
    let place = Place::new();
    let mut daemon = place.foreground(&["--direct-io"]);
    let mut file = File::open(place.mount().join("hello")).unwrap();
    daemon.signal(Signal::TERM);
    eventually("the mount is detached", || place.layers() == 0);
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(
        (text.as_str(), daemon.child.try_wait().unwrap()),
        ("hello\n", None)
    );
    drop(file);
    daemon.ends_well();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    let mut daemon = place.foreground(&[]);
    let _file = File::open(place.mount().join("hello")).unwrap();
    daemon.signal(Signal::INT);
    eventually("the mount is detached", || place.layers() == 0);
    daemon.signal(Signal::TERM);
    daemon.ends_well();
}

/// (proves: S28)
#[test]
fn what_lies_below_stays() {
    let place = Place::new();
    assert!(
        place
            .sh("mount -t tmpfs below $M && echo below > $M/below")
            .status
            .success()
    );
    for end in [
        "umount $M",
        "fusermount3 -u $M",
        "umount -l $M",
        "kill $P",
        "kill -INT $P",
    ] {
        let mut daemon = place.foreground(&[]);
        assert!(
            place
                .sh(&format!("P={}; {end}", daemon.child.id()))
                .status
                .success(),
            "{end}"
        );
        daemon.ends_well();
        assert_eq!(
            (
                place.layers(),
                fs::read(place.mount().join("below")).unwrap()
            ),
            (1, b"below\n".into())
        );
    }
    place.umount();
    // Two of ours on each other, and the lower one's end leaves the upper one alone.
    place.start(&[]);
    let lower = place.daemon();
    let upper = place.sh("mkdir other && $MMFS $S other && mount --bind other $M");
    assert_eq!(said(&upper), (Some(0), String::new()));
    kill_process(lower, Signal::TERM).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(place.layers(), 2);
    assert!(place.sh("umount $M && umount other").status.success());
    assert_eq!(place.layers(), 1);
    kill_process(lower, Signal::TERM).unwrap();
    eventually("the second signal ends the lower one too", || {
        place.is_quiet()
    });
}

#[test]
fn a_directory_can_be_mounted_on_itself_and_inside_itself() {
    let place = Place::new();
    for source in [place.mount(), place.dir.path().into(), "/".into()] {
        let output = place.run(Command::new(MMFS).arg(&source).arg(place.mount()));
        assert_eq!(said(&output), (Some(0), String::new()), "{source:?}");
        assert!(fs::metadata(place.mount()).unwrap().is_dir());
        place.umount();
        eventually("it ends", || place.is_quiet());
    }
}

#[test]
fn sighup_opens_the_log_file_anew() {
    let place = Place::new();
    place.start(&["-vv", "--log", "log"]);
    let log = place.path("log");
    assert!(!fs::read(&log).unwrap().is_empty());
    fs::rename(&log, place.path("log.1")).unwrap();
    kill_process(place.daemon(), Signal::HUP).unwrap();
    eventually("the new log file appears", || log.exists());
    place.umount();
    eventually("it ends", || place.is_quiet());
    assert!(
        fs::read_to_string(&log)
            .unwrap()
            .contains("the session has ended")
    );
}

/// Each of these once killed the daemon and left a dead mount.
/// (proves: S27)
#[test]
fn sigusr1_writes_the_state_to_the_log_and_sigusr2_is_ignored() {
    let place = Place::new();
    let log = || fs::read_to_string(place.path("log")).unwrap();
    for quiet in [&["--log", "log"][..], &["--log", "log", "-q"]] {
        place.start(quiet);
        let daemon = place.daemon();
        assert_eq!(log(), "", "{quiet:?}");
        kill_process(daemon, Signal::USR2).unwrap();
        kill_process(daemon, Signal::USR1).unwrap();
        let source = format!("{}", place.source().display());
        let says = |what: &str, text: &str| {
            let log = log();
            let mut lines = log.lines().filter(|line| line.contains(what));
            lines.any(|line| line.contains(text))
        };
        eventually("the state is written", || says("status: source", &source));
        // The lines come one by one.
        let pid = format!("pid {}", daemon.as_raw_pid());
        eventually("its process is named", || says("status: daemon", &pid));
        assert_eq!(fs::read(place.mount().join("hello")).unwrap(), b"hello\n");
        kill_process(daemon, Signal::USR1).unwrap();
        eventually("the last requests are written", || {
            says("trace:", " open node")
        });
        kill_process(daemon, Signal::TERM).unwrap();
        eventually("it ends", || place.is_quiet());
        fs::remove_file(place.path("log")).unwrap();
    }
}

/// The file is there before the mount answers, and goes with it, however it ends.
#[test]
fn a_pid_file_names_the_daemon_while_it_lives() {
    let place = Place::new();
    let (file, base) = (place.path("pid"), place.dir.path().to_owned());
    let names = |pid: i32| assert_eq!(fs::read_to_string(&file).unwrap(), format!("{pid}\n"));
    let mut daemon = place.foreground(&["--pidfile", "pid"]);
    names(daemon.child.id() as i32);
    place.umount();
    daemon.ends_well();
    assert!(!file.exists());
    fs::write(&file, "1\n").unwrap();
    for signals in [1, 2] {
        place.start(&["-o", "pidfile=pid"]);
        names(place.daemon().as_raw_pid());
        // With it open, the first signal detaches the mount and the second one exits.
        let open = (signals == 2).then(|| File::open(place.mount().join("hello")).unwrap());
        let daemon = place.daemon();
        for _ in 0..signals {
            kill_process(daemon, Signal::TERM).unwrap();
            eventually("the mount is detached", || place.layers() == 0);
        }
        eventually("it ends", || place.is_quiet());
        assert!(!file.exists());
        drop(open);
    }
    refuses(
        &place.mmfs(&["--pidfile", "no/pid"]),
        "cannot write the PID file",
    );
    // A refusal that comes after it was written removes it.
    let script = "mount --bind /dev/null /dev/fuse; $MMFS --pidfile $T/pid $S $M";
    let refused = place.sh(&format!(
        "unshare --mount --propagation private sh -c '{script}'"
    ));
    assert_eq!(said(&refused).0, Some(1), "{refused:?}");
    let left = fs::read_dir(&base).unwrap().flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().contains("pid"));
    assert_eq!(left.count(), 0);
}

/// The path may be a slip: /dev/null was replaced by a file once.
#[test]
fn what_is_no_pid_file_is_not_replaced() {
    let place = Place::new();
    fs::write(place.path("notes"), "1 is a number\n").unwrap();
    assert!(
        place
            .sh("mkfifo $T/fifo; mknod $T/null c 1 3")
            .status
            .success()
    );
    for (name, words) in [
        ("notes", "the existing file is not a PID file"),
        ("fifo", "the existing file is not a regular file"),
        ("null", "the existing file is not a regular file"),
    ] {
        refuses(&place.mmfs(&["--pidfile", name]), words);
    }
    let notes = fs::read_to_string(place.path("notes")).unwrap();
    assert_eq!(notes, "1 is a number\n");
    assert!(!fs::metadata(place.path("null")).unwrap().is_file());
}

/// A relative name would lead elsewhere once the daemon has left its directory.
#[test]
fn a_file_in_a_removed_directory_is_refused() {
    let place = Place::new();
    for option in ["--pidfile", "--log"] {
        let script = format!("mkdir gone; cd gone; rmdir ../gone; $MMFS {option} ../file $S $M");
        refuses(&place.sh(&script), "file \"../file\": No such file");
        assert!(!place.path("file").exists());
    }
}

/// After a start that fails, no process is named in it.
#[test]
fn the_pid_file_of_a_living_daemon_outlives_a_start_that_fails() {
    let place = Place::new();
    place.start(&["--pidfile", "pid"]);
    let daemon = place.daemon();
    let script =
        "mkdir $T/other; mount --bind /dev/null /dev/fuse; $MMFS --pidfile $T/pid $S $T/other";
    let refused = place.sh(&format!(
        "unshare --mount --propagation private sh -c '{script}'"
    ));
    assert_eq!(said(&refused).0, Some(1), "{refused:?}");
    let text = fs::read_to_string(place.path("pid")).unwrap();
    assert_eq!(text, format!("{}\n", daemon.as_raw_pid()));
    place.umount();
    eventually("it ends", || place.is_quiet());
}

/// (proves: S27)
#[test]
fn a_pid_file_on_a_filesystem_that_does_not_answer_keeps_no_daemon() {
    let (hung, place) = (Place::new(), Place::new());
    hung.start(&[]);
    let server = hung.daemon();
    let file = hung.mount().join("pid");
    let mut daemon = place.foreground(&["--pidfile", file.to_str().unwrap()]);
    assert!(file.exists());
    let open = File::open(place.mount().join("hello")).unwrap();
    stop(server);
    daemon.signal(Signal::TERM);
    eventually("the mount is detached", || place.layers() == 0);
    daemon.signal(Signal::TERM);
    let mut ended = false;
    for _ in 0..3000 {
        ended = ended || daemon.child.try_wait().unwrap().is_some();
        std::thread::sleep(Duration::from_millis(if ended { 0 } else { 10 }));
    }
    kill_process(server, Signal::CONT).unwrap();
    assert!(ended);
    drop(open);
    daemon.end();
    // Unmounting alone would not end it while another test has a mount namespace with a copy of the mount.
    kill_process(server, Signal::TERM).unwrap();
    eventually("the other mount is gone", || hung.layers() == 0);
    let _ = kill_process(server, Signal::TERM); // it may have ended
    eventually("the other one ends", || hung.is_quiet());
}

/// Nothing that a start needs lies behind the mount that it makes.
#[test]
fn the_directory_of_the_log_daemon_can_be_mounted_on() {
    let place = Place::new();
    let script = "mkdir -p /run; timeout --kill-after=1 20 $MMFS $S /run 2>/dev/null; echo $?; cat /run/hello; umount /run";
    let output = place.sh(&format!(
        "unshare --mount --propagation private sh -c '{script}'"
    ));
    assert_eq!(said(&output), (Some(0), "0\nhello\n".into()));
    eventually("it ends", || place.is_quiet());
}

#[test]
fn signals_that_the_parent_ignores_or_blocks_reach_the_daemon() {
    let place = Place::new();
    let started =
        place.sh("env --block-signal=USR1,QUIT --ignore-signal=USR1,QUIT $MMFS --log $T/log $S $M");
    assert_eq!(said(&started), (Some(0), String::new()));
    kill_process(place.daemon(), Signal::USR1).unwrap();
    let log = || fs::read_to_string(place.path("log")).unwrap();
    eventually("the state is written", || log().contains("status: "));
    kill_process(place.daemon(), Signal::QUIT).unwrap();
    eventually("it ends", || place.is_quiet());
}

/// A process that ignores SIGCHLD cannot learn how its children end, and mmfs asks a child what may hang.
#[test]
fn a_parent_that_ignores_sigchld_is_no_obstacle() {
    let place = Place::new();
    let started = place.sh("env --ignore-signal=CHLD $MMFS $S $M");
    assert_eq!(said(&started), (Some(0), String::new()));
    let ended = place.sh("env --ignore-signal=CHLD $MMFS unmount $M");
    assert_eq!(said(&ended), (Some(0), String::new()));
}

#[test]
fn help_needs_no_proc_and_says_when_it_is_lost() {
    let place = Place::new();
    for command in ["$MMFS --help", "$MMFS help unmount", "$MMFS --version"] {
        let script = format!("mount -t tmpfs none /proc; {command}");
        let output = place.sh(&format!(
            "unshare --mount --propagation private sh -c '{script}'"
        ));
        let (code, text) = said(&output);
        assert_eq!(code, Some(0), "{command}: {text}");
        assert_eq!(
            place.sh(&format!("{command} >/dev/full")).status.code(),
            Some(1)
        );
        assert_eq!(place.sh(&format!("{command} >&-")).status.code(), Some(0));
    }
}

/// A lock that the parent's shell holds is free when the shell has let it go, however long the mount lives.
/// (proves: S27)
#[test]
fn the_background_keeps_no_descriptor_of_its_parent() {
    let place = Place::new();
    let started = place.sh(r#"exec 8>$T/lock 7<$S/hello
        flock 8; $MMFS $S $M; exec 8>&- 7<&-; flock --nonblock $T/lock true"#);
    assert_eq!(said(&started), (Some(0), String::new()));
    let files = format!("/proc/{}/fd", place.daemon().as_raw_pid());
    let open = |name: &str| {
        let links = fs::read_dir(&files).unwrap().flatten();
        let mut links = links.filter_map(|link| fs::read_link(link.path()).ok());
        links.any(|file| file == place.path(name))
    };
    assert!(!open("lock") && !open("source/hello"));
    place.umount();
    eventually("it ends", || place.is_quiet());
    // What systemd passes stays, and what the command line names. (Without it there would be no such log.)
    fs::write(place.path("socket"), "").unwrap();
    let started = place.sh(r#"exec 3<$T/socket 6>>$T/log; export LISTEN_FDS=1
        sh -c 'LISTEN_PID=$$ exec $MMFS --log /dev/fd/6 $S $M' 4<$T/lock"#);
    assert_eq!(said(&started), (Some(0), String::new()));
    let daemon = place.daemon();
    let fd = |number| fs::read_link(format!("/proc/{}/fd/{number}", daemon.as_raw_pid()));
    assert_eq!(
        (fd(3).unwrap(), fd(6).unwrap()),
        (place.path("socket"), place.path("log"))
    );
    assert_ne!(fd(4).ok(), Some(place.path("lock")));
    // The log is opened anew by that name.
    kill_process(daemon, Signal::HUP).unwrap();
    kill_process(daemon, Signal::USR1).unwrap();
    let log = || fs::read_to_string(place.path("log")).unwrap();
    eventually("the state is written", || log().contains("status: "));
    assert!(!log().contains("cannot open"), "{}", log());
    kill_process(daemon, Signal::TERM).unwrap();
    eventually("it ends", || place.is_quiet());
}

#[test]
fn auto_unmount_clears_up_after_a_killed_daemon() {
    let place = Place::new();
    for access in [&[][..], &["--allow-other"]] {
        let mut daemon = place.foreground(&[&["--auto-unmount"], access].concat());
        assert_eq!(place.kind(), "fuse.mmfs");
        daemon.signal(Signal::KILL);
        daemon.end();
        eventually("fusermount3 unmounts", || place.is_quiet());
        let mut daemon = place.foreground(&[&["-o", "auto_unmount"], access].concat());
        daemon.signal(Signal::TERM);
        daemon.ends_well();
        eventually("fusermount3 ends too", || place.is_quiet());
    }
}

/// Flags of mount(8) that the kernel enforces, and what `user` implies.
#[test]
fn generic_flags_reach_the_kernel() {
    let place = Place::new();
    std::os::unix::fs::symlink("hello", place.source().join("link")).unwrap();
    place.start(&["-o", "user,nosymfollow,nonempty,x-systemd.automount"]);
    let error = fs::read(place.mount().join("link")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    assert_eq!(
        fs::read_link(place.mount().join("link")).unwrap(),
        Path::new("hello")
    );
    let flags = place.sh("grep \" $M \" /proc/mounts | cut -d' ' -f4");
    let (_, flags) = said(&flags);
    for flag in ["noexec", "nosuid", "nodev", "nosymfollow"] {
        assert!(
            flags.split(',').any(|other| other == flag),
            "{flag}: {flags}"
        );
    }
    place.umount();
}

#[test]
fn mount_fuse3_can_start_it() {
    let place = Place::new();
    let path = format!("PATH={}:$PATH", Path::new(MMFS).parent().unwrap().display());
    for options in [
        "rw,noatime,nofail,x-y",
        "drop_privileges,default_permissions,allow_other",
        "drop_privileges",
    ] {
        let mount = format!("{path} mount.fuse3 mmfs#$S $M -o {options}");
        assert_eq!(
            said(&place.sh(&mount)),
            (Some(0), String::new()),
            "{options}"
        );
        assert_eq!(fs::read(place.mount().join("hello")).unwrap(), b"hello\n");
        place.umount();
        eventually("it ends", || place.processes().is_empty());
    }
}

/// A mount that another program has made without `default_permissions`, in a mount namespace that shows it or not.
/// The kernel checks permissions all the same.
#[test]
fn as_root_permissions_of_an_adopted_mount_are_checked() {
    let unseen = "unshare --mount --propagation private sh -c 'umount -l $M; ";
    for namespace in [unseen, "sh -c '"] {
        let place = Place::new();
        let script = r#"exec 3<>/dev/fuse; chmod 755 $T $S; chmod 600 $S/hello
            mount -i -t fuse.mmfs -o fd=3,rootmode=40000,user_id=0,group_id=0,allow_other $S $M
            NAMESPACE exec $MMFS -f --allow-other $S /dev/fd/3' &
            exec 3<&-
            cat $M/hello
            setpriv --reuid=1000 --regid=1000 --clear-groups sh -c 'cat $M/hello; rm -f $M/hello; : > $M/made'
            umount $M; wait; ls $S"#;
        let said = place.sh(&script.replace("NAMESPACE", namespace));
        let (out, err) = (
            String::from_utf8_lossy(&said.stdout),
            String::from_utf8_lossy(&said.stderr),
        );
        assert!(
            out.starts_with("hello\n") && out.ends_with("hello\n"),
            "{said:?}"
        );
        assert!(!out.contains("made"), "{said:?}");
        assert_eq!(err.matches("ermission denied").count(), 3, "{said:?}");
    }
}

/// Of a mount that was given another name, a user who may not ask it gets no path rather than a wrong one.
#[test]
fn as_root_check_names_no_path_that_it_was_not_told() {
    let place = Place::new();
    let outcome = place.sh_as_user(
        "",
        r#"$MMFS --fsname /tmp --allow-other $S $M && rm -r $S || exit 9
        $USER $MMFS --check $M; echo $?; $MMFS --check $M; echo $?; umount $M"#,
    );
    let err = String::from_utf8_lossy(&outcome.stderr);
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), "1\n1\n", "{err}");
    assert!(err.contains("still shows a directory that was removed;"));
    assert!(err.contains(&format!("the old source {:?}", place.source())));
    assert!(!err.contains("/tmp\""), "{err}");
    eventually("it ends", || place.is_quiet());
}
