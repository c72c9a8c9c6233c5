//! `mmfs unmount`: what it takes down, and the sentence for what it does not.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::place::{MMFS, Place, eventually, refuses, said};
use crate::stopped::stop;

/// A process in the mount, until it is dropped.
struct Guest(Child);

impl Guest {
    /// A shell that runs `command` in the mount, and then waits.
    fn new(place: &Place, command: &str) -> Self {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("{command}; echo; read _"), "mount"])
            .current_dir(place.dir.path());
        let streams = shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = streams.env("M", place.mount()).spawn().unwrap();
        let mut line = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        Self(child)
    }

    fn words(&self) -> String {
        format!("sh (pid {})", self.0.id())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.stdin.take().unwrap().write_all(b"\n");
        let _ = self.0.wait();
    }
}

fn unmount(place: &Place, path: &str) -> std::process::Output {
    place.run(Command::new(MMFS).arg("unmount").arg(path))
}

/// Also one that has just ended.
fn is_fusermount(pid: Pid) -> bool {
    let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_pid()));
    name.map_or(true, |name| name == "fusermount3\n")
}

/// What it returns for is true at once: no mount, no daemon.
/// (proves: S51)
#[test]
fn a_mount_is_gone_and_its_daemon_has_ended() {
    let place = Place::new();
    fs::create_dir(place.path("elsewhere")).unwrap();
    symlink("../mount", place.path("elsewhere/link")).unwrap();
    for path in [
        place.mount().to_str().unwrap(),
        "mount",
        "./mount/",
        "elsewhere/../mount/.",
        "elsewhere/link",
    ] {
        for options in [&[][..], &["--subtype", "other"], &["--auto-unmount"]] {
            place.start(options);
            let daemon = place.processes();
            assert_eq!(
                said(&unmount(&place, path)),
                (Some(0), String::new()),
                "{path} {options:?}"
            );
            assert_eq!(place.layers(), 0, "{path} {options:?}");
            let mut left = place.processes();
            // That of --auto-unmount notices the daemon's end a moment later.
            left.retain(|pid| !is_fusermount(*pid));
            assert!(
                left.is_empty(),
                "{path} {options:?}: of {daemon:?} there are {left:?}"
            );
            eventually("fusermount3 ends, too", || place.is_quiet());
        }
    }
}

#[test]
fn as_root_no_mtab_is_needed() {
    let place = Place::new();
    let outcome = place.sh(
        r#"unshare --mount --propagation private sh -c '
        $MMFS $S $M && mkdir etc && mount --bind etc /etc && ! test -e /etc/mtab && PATH=/nowhere $MMFS unmount $M
        status=$?; umount /etc; exit $status'"#,
    );
    assert_eq!(said(&outcome), (Some(0), String::new()));
}

#[test]
fn a_busy_mount_stays_and_its_users_are_named() {
    let place = Place::new();
    fs::write(place.source().join("hello"), "hello\n").unwrap();
    fs::copy("/bin/sleep", place.source().join("sleep")).unwrap();
    place.start(&[]);
    for command in [
        "cd $M",
        "exec 3<$M/hello",
        "exec 3<$M",
        "$M/sleep 0.1; cd $M; cd .",
    ] {
        let guest = Guest::new(&place, command);
        let refused = unmount(&place, "mount");
        refuses(&refused, &format!("{} uses it", guest.words()));
        refuses(&refused, &format!("umount -l {}", place.mount().display()));
        assert_eq!(place.layers(), 1);
    }
    let guests = [
        Guest::new(&place, "cd $M"),
        Guest::new(&place, "exec 3<$M/hello"),
    ];
    let refused = unmount(&place, "mount");
    for guest in &guests {
        refuses(&refused, &guest.words());
    }
    refuses(&refused, " use it");
    drop(guests);
    // A program of the mount, and a mapping of a file that is open no more.
    let mut sleep = Command::new(place.mount().join("sleep"))
        .arg("60")
        .spawn()
        .unwrap();
    refuses(
        &unmount(&place, "mount"),
        &format!("sleep (pid {})", sleep.id()),
    );
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    let map = "import mmap; f = open(\"mount/hello\"); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()";
    // mmap.mmap() keeps a descriptor of its own.
    let only =
        "import os; [os.close(n) for n in range(3, 9) if os.path.exists(f\"/proc/self/fd/{n}\")]";
    let script = format!("exec python3 -c '{map}; {only}; print(flush=True); input()'");
    let thread = "import ctypes, os, threading; go = threading.Event(); at = threading.Event()\ndef work():\n \
                  ctypes.CDLL(None).unshare(0x200); os.chdir(\"mount\"); at.set(); go.wait()\n\
                  t = threading.Thread(target=work); t.start(); at.wait(); print(flush=True); input(); go.set()";
    for script in [script, format!("exec python3 -c '{thread}'")] {
        let guest = Guest::new(&place, &script);
        refuses(
            &unmount(&place, "mount"),
            &format!("python3 (pid {})", guest.0.id()),
        );
    }
    assert_eq!(said(&unmount(&place, "mount")), (Some(0), String::new()));
    assert!(place.is_quiet());
}

/// It leaves its working directory. Descriptors of the mount that it was started with are reported.
#[test]
fn the_command_itself_may_be_in_the_mount() {
    let place = Place::new();
    place.start(&[]);
    refuses(
        &place.sh("exec $MMFS unmount $M <$M/hello"),
        "busy: this command itself (pid ",
    );
    let inside = place.sh("cd $M && exec $MMFS unmount .");
    assert_eq!(said(&inside), (Some(0), String::new()));
    assert!(place.is_quiet());
}

#[test]
fn a_directory_without_a_path_here_is_no_mount() {
    let place = Place::new();
    let gone = place.sh("mkdir gone; cd gone; rmdir ../gone; $MMFS unmount .");
    refuses(&gone, "\".\" has no path here");
    // At the path that the other namespace's mount has, there is one here, too.
    place.start(&[]);
    let script = r#"unshare --mount --propagation private sh -c 'mount -t tmpfs other $M; echo; exec sleep 60' >ready &
        until [ -s ready ]; do sleep 0.02; done
        $MMFS unmount /proc/$!/root$M; status=$?; kill $!; wait $!; exit $status"#;
    let other = place.sh(script);
    let (code, text) = said(&other);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("has no path here"), "{text}");
    assert_eq!(place.layers(), 1);
    place.umount();
    eventually("it ends", || place.is_quiet());
}

/// What another program has unmounted meanwhile is unmounted.
#[test]
fn as_root_what_somebody_else_has_just_unmounted_is_no_failure() {
    let place = Place::new();
    let outcome = place.sh_as_user(
        "",
        r##"mkdir bin
        cat >bin/fusermount3 <<END
#!/bin/sh
$(command -v fusermount3) "\$@"
echo "fusermount3: failed to unmount: Device or resource busy" >&2
exit 1
END
        chmod 755 bin/fusermount3
        $USER $MMFS $S $M && PATH=$T/bin:$PATH $USER $MMFS unmount $M; echo $?
        grep -c $M /proc/self/mounts"##,
    );
    assert_eq!(said(&outcome), (Some(1), "0\n0\n".into()));
    assert!(place.is_quiet());
}

/// The directory that it lies in is renamed meanwhile.
#[test]
fn as_root_a_mount_that_was_moved_is_not_called_unmounted() {
    let place = Place::new();
    let outcome = place.sh_as_user(
        "",
        r##"mkdir -p bin own/up/point; chown -R 1000:1000 own
        cat >bin/fusermount3 <<END
#!/bin/sh
mv $T/own/up $T/own/moved
exit 1
END
        chmod 755 bin/fusermount3
        $USER $MMFS $S $T/own/up/point && PATH=$T/bin:$PATH $USER $MMFS unmount own/up/point; echo $?
        $USER $MMFS unmount own/moved/point; echo $?
        grep -c $T/own /proc/self/mounts"##,
    );
    let (out, err) = (
        String::from_utf8_lossy(&outcome.stdout),
        String::from_utf8_lossy(&outcome.stderr),
    );
    assert_eq!(out, "1\n0\n0\n", "{err}");
    let moved = format!(
        "was moved to {}; name that",
        place.path("own/moved/point").display()
    );
    assert!(err.contains(&moved), "{err}");
}

#[test]
fn a_daemon_that_cannot_be_found_is_not_waited_for() {
    let place = Place::new();
    let outcome = place.sh(
        r#"unshare --mount --propagation private sh -c '$MMFS $S $M || exit 9
        unshare --pid --fork sh -c "mount -t proc proc /proc && $MMFS unmount $M"; status=$?; umount /proc; exit $status'"#,
    );
    let (code, text) = said(&outcome);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("no daemon of it was found here"), "{text}");
    eventually("it ends", || place.is_quiet());
}

#[test]
fn who_is_busy_for_a_moment_only_is_waited_for() {
    let place = Place::new();
    place.start(&[]);
    let mut guest = Command::new("sleep")
        .arg("0.1")
        .current_dir(place.mount())
        .spawn()
        .unwrap();
    assert_eq!(said(&unmount(&place, "mount")), (Some(0), String::new()));
    guest.wait().unwrap();
}

/// A file is open in it, so that it is busy without a daemon, too.
/// (proves: S29)
#[test]
fn a_dead_mount_is_unmounted() {
    let place = Place::new();
    place.start(&[]);
    let guest = Guest::new(&place, "exec 3<$M/hello");
    let daemon = place.daemon();
    kill_process(daemon, Signal::KILL).unwrap();
    eventually("the daemon ends", || place.processes().is_empty());
    refuses(
        &unmount(&place, "mount/other"),
        "lies in a FUSE mount whose daemon has died",
    );
    refuses(&unmount(&place, "mount"), &guest.words());
    drop(guest);
    let (code, text) = said(&unmount(&place, "mount"));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("no daemon of it was found here"), "{text}");
    assert_eq!(place.layers(), 0);
}

/// A kernel that says which mount a /dev/fuse belongs to says nothing of one that belongs to none yet, as that of a mount that
/// somebody else is just making under the same name.
/// (proves: S29)
#[test]
fn who_is_about_to_mount_is_not_taken_for_the_daemon() {
    let place = Place::new();
    place.start(&[]);
    let _about_to_mount = Guest::new(&place, "exec 3<>/dev/fuse");
    let daemon = place.daemon();
    if !tells_of_its_mount(daemon) {
        return; // before Linux 6.17
    }
    kill_process(daemon, Signal::KILL).unwrap();
    eventually("the daemon ends", || place.processes().is_empty());
    let (code, text) = said(&unmount(&place, "mount"));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("no daemon of it was found here"), "{text}");
}

/// The kernel gives the device number of a mount that is gone to the next one. A daemon that has been stopped still has its
/// /dev/fuse open then.
/// (proves: S29)
#[test]
fn the_daemon_of_a_mount_that_is_gone_is_not_taken_for_another_one() {
    let (gone, place) = (Place::new(), Place::new());
    let device = |place: &Place| fs::metadata(place.mount()).unwrap().dev();
    for _ in 0..20 {
        gone.start(&[]);
        let (stopped, number) = (gone.daemon(), device(&gone));
        stop(stopped);
        assert!(gone.sh("umount -l $M").status.success());
        place.start(&[]);
        // Another test may have been given it.
        let same = device(&place) == number;
        let daemon = place.daemon();
        kill_process(daemon, Signal::KILL).unwrap();
        eventually("the daemon ends", || place.processes().is_empty());
        let (code, text) = said(&unmount(&place, "mount"));
        kill_process(stopped, Signal::CONT).unwrap();
        eventually("the other daemon ends", || gone.is_quiet());
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("no daemon of it was found here"), "{text}");
        if same {
            return;
        }
    }
    panic!("the number was never given again");
}

/// Its connection is cut, as by `umount -f`, which leaves a busy mount where it is. The daemon that has been stopped does not notice.
#[test]
fn the_daemon_of_a_mount_that_was_cut_off_is_waited_for_and_named() {
    let place = Place::new();
    for goes_on in [true, false] {
        place.start(&[]);
        let daemon = place.daemon();
        if !tells_of_its_mount(daemon) {
            return place.umount(); // before Linux 6.17
        }
        let guest = Guest::new(&place, "cd $M");
        stop(daemon);
        assert!(!place.sh("umount -f $M").status.success());
        drop(guest);
        let mut command = Command::new(MMFS);
        let command = command.arg("unmount").arg(place.mount());
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let unmount = command.spawn().unwrap();
        if goes_on {
            std::thread::sleep(Duration::from_millis(500));
            kill_process(daemon, Signal::CONT).unwrap();
        }
        let (code, text) = said(&unmount.wait_with_output().unwrap());
        assert_eq!((code, place.layers()), (Some(0), 0), "{text}");
        if goes_on {
            assert_eq!((text, place.processes()), (String::new(), vec![]));
        } else {
            let words = format!("found here but mmfs (pid {}),", daemon.as_raw_pid());
            assert!(text.contains(&words), "{text}");
            kill_process(daemon, Signal::CONT).unwrap();
            eventually("it ends", || place.is_quiet());
        }
    }
}

fn tells_of_its_mount(daemon: Pid) -> bool {
    let infos = fs::read_dir(format!("/proc/{}/fdinfo", daemon.as_raw_pid())).unwrap();
    let mut infos = infos.map(|info| fs::read_to_string(info.unwrap().path()).unwrap_or_default());
    infos.any(|info| info.contains("fuse_connection:"))
}

/// SIGSTOP has the daemon neither answer nor end.
#[test]
fn a_daemon_that_does_not_end_is_named() {
    let place = Place::new();
    place.start(&[]);
    let daemon = place.daemon();
    stop(daemon);
    let start = Instant::now();
    let refused = unmount(&place, "mount");
    let words = format!("is unmounted, but mmfs (pid {})", daemon.as_raw_pid());
    refuses(&refused, &words);
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(place.layers(), 0);
    kill_process(daemon, Signal::CONT).unwrap();
    eventually("it ends", || place.is_quiet());
}

#[test]
fn foreign_mounts_and_other_directories_stay() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    fs::create_dir(place.source().join("in")).unwrap();
    let second = said(&place.sh("$MMFS -q unmount mount")).1;
    assert!(
        second.contains("a verb is the first word: mmfs unmount"),
        "{second}"
    );
    let dash = said(&place.sh("$MMFS status -json")).1;
    assert!(
        dash.contains("options of the verb status have two dashes"),
        "{dash}"
    );
    for (path, words) in [
        ("missing", "\"missing\" does not exist"),
        ("file", "\"file\" is not a directory"),
        ("source", "nothing is mounted on"),
    ] {
        refuses(&unmount(&place, path), words);
    }
    assert!(place.sh("mount -t tmpfs lower $M").status.success());
    refuses(
        &unmount(&place, "mount"),
        "has the type tmpfs, and is not one of mmfs",
    );
    place.umount();
    place.start(&[]);
    refuses(
        &unmount(&place, "mount/in"),
        &format!(
            "lies in the mount at {}; name that mount point",
            place.mount().display()
        ),
    );
    refuses(&unmount(&place, "source"), place.mount().to_str().unwrap());
    assert!(place.sh("mount -t tmpfs nested $M/in").status.success());
    refuses(
        &unmount(&place, "mount"),
        &format!(
            "has other mounts in it; unmount these first: {}",
            place.mount().join("in").display()
        ),
    );
    assert!(place.sh("umount $M/in").status.success());
    assert!(place.sh("mount -t tmpfs upper $M").status.success());
    refuses(&unmount(&place, "mount"), "a mount of type tmpfs covers");
    assert_eq!(place.layers(), 2);
    place.umount();
    assert_eq!(said(&unmount(&place, "mount")), (Some(0), String::new()));
}

/// (proves: S28)
#[test]
fn what_lies_below_and_elsewhere_stays() {
    let place = Place::new();
    let setup = "mount -t tmpfs below $M && echo below >$M/below && mkdir other && $MMFS $S $M && mount --bind $M other";
    assert_eq!(said(&place.sh(setup)), (Some(0), String::new()));
    let (code, text) = said(&unmount(&place, "mount"));
    let other = place.path("other");
    assert_eq!(code, Some(0));
    assert!(
        text.ends_with(&format!(
            "the same filesystem is still mounted at {}\n",
            other.display()
        )),
        "{text}"
    );
    assert_eq!(fs::read(place.mount().join("below")).unwrap(), b"below\n");
    assert_eq!(fs::read(other.join("hello")).unwrap(), b"hello\n");
    assert_eq!(said(&unmount(&place, "other")), (Some(0), String::new()));
    assert!(place.processes().is_empty());
    place.umount();
}

#[test]
fn as_root_an_ordinary_user_unmounts_own_mounts_only() {
    let place = Place::new();
    let outcome = place.sh_as_user(
        "",
        r#"$MMFS $S $M && $USER $MMFS unmount $M; echo $?; $MMFS unmount $M
        $USER $MMFS $S $M || exit 9
        $USER sh -c "cd $M && exec sleep 60" &
        for i in $(seq 500); do read comm </proc/$!/comm; [ "$comm" = sleep ] && break; sleep 0.02; done
        $USER $MMFS unmount $M; echo $?; kill $!; wait $!
        $USER $MMFS unmount $M; echo $?
        $USER $MMFS $S $M && $MMFS unmount $M; echo $?
        $USER $MMFS $S $M; mkdir etc; cp /etc/passwd etc; mount --bind etc /etc
        $USER $MMFS unmount $M; echo $?; umount /etc; $USER $MMFS unmount $M; echo $?
        grep -c $M /proc/self/mounts"#,
    );
    let (out, err) = (
        String::from_utf8_lossy(&outcome.stdout),
        String::from_utf8_lossy(&outcome.stderr),
    );
    assert_eq!(out, "1\n1\n0\n0\n1\n0\n0\n", "{err}");
    assert!(
        err.contains("was mounted by user 0; only that user"),
        "{err}"
    );
    assert!(err.contains(" is busy: sleep (pid "), "{err}");
    assert!(err.contains("fusermount3 -uz"), "{err}");
    assert!(
        err.contains("fusermount3 needs it, ask the administrator for: ln -s"),
        "{err}"
    );
    assert!(place.is_quiet());
}
