//! Which mounts are dead: not those whose daemon lives, whatever their source answers.

use std::fs;
use std::process::Command;

use rustix::process::{Signal, kill_process};

use crate::place::{MMFS, Place, eventually, refuses, said};

/// `mmfs $T/inner $M`, where $T/inner is a mount of `$S` that has died.
struct DeadSource {
    place: Place,
}

impl Drop for DeadSource {
    fn drop(&mut self) {
        self.place.sh("umount -l $M; umount -l $T/inner");
    }
}

fn with_a_dead_source(options: &str) -> DeadSource {
    let place = Place::new();
    let started = |script: &str| assert_eq!(said(&place.sh(script)), (Some(0), String::new()));
    started("mkdir inner && $MMFS $S $T/inner");
    let daemon = place.daemon();
    started(&format!("$MMFS {options} $T/inner $M"));
    kill_process(daemon, Signal::KILL).unwrap();
    // Its connection ends a moment after it.
    for path in [place.path("inner"), place.mount()] {
        eventually("the mount says so", || {
            let answer = fs::metadata(&path);
            answer.is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
        });
    }
    DeadSource { place }
}

fn take_down(place: &Place) {
    for path in ["mount", "inner"] {
        let (code, text) = said(&place.sh(&format!("$MMFS unmount {path}")));
        assert_eq!(code, Some(0), "{text}");
    }
    assert!(place.is_quiet());
}

/// Its daemon hands on the ENOTCONN of its source, and can still be asked.
/// (proves: S29)
#[test]
fn a_living_mount_with_a_dead_source_stays() {
    let dead = with_a_dead_source("");
    let place = &dead.place;
    let other = |source: &str| place.run(Command::new(MMFS).args([source, "mount"]));
    refuses(
        &other("source"),
        "is in use: a mount of mmfs is there already, and its own source lies in a dead mount",
    );
    assert_eq!(place.layers(), 1);
    let lives = format!(
        "the daemon of the mount at {:?} lives, but its own source lies in a dead mount",
        place.mount()
    );
    refuses(&place.sh("$MMFS --check $M"), &lives);
    refuses(&place.sh("$MMFS $M other"), &lives);
    refuses(&place.sh("$MMFS mount/deeper other"), &lives);
    refuses(&place.sh("$MMFS $S mount/deeper"), &lives);
    assert_eq!(said(&place.sh("$MMFS status mount")).0, Some(0));
    assert_eq!(place.layers(), 1);
    take_down(place);
}

/// The daemon answers EPERM to who may not ask it, so it lives.
/// (proves: S29)
#[test]
fn as_root_a_living_mount_of_another_user_is_in_use() {
    let dead = with_a_dead_source("--allow-other");
    let place = &dead.place;
    let tried = place.sh("setpriv --reuid=1000 --regid=1000 --clear-groups $MMFS $S $M");
    refuses(
        &tried,
        "is in use: a mount of mmfs is there already, and its",
    );
    assert_eq!(place.layers(), 1);
    take_down(place);
}

/// strace holds up the call that follows the one that found the mount dead.
#[test]
fn a_dead_mount_that_somebody_else_has_just_unmounted_is_no_obstacle() {
    let place = Place::new();
    let mut dead = place.foreground(&[]);
    dead.signal(Signal::KILL);
    dead.end();
    let outcome = place.sh(
        "strace -o trace -e trace=?open,openat -P $M -e inject=?open,openat:delay_enter=3000000:when=1 $MMFS $S $M &
        sleep 1.2; umount $M; wait $!",
    );
    assert_eq!(said(&outcome), (Some(0), String::new()));
    let trace = fs::read_to_string(place.path("trace")).unwrap();
    assert!(trace.contains("DELAYED"), "{trace}");
    place.umount();
    eventually("it ends", || place.is_quiet());
}
