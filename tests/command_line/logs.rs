//! Where log lines go. No journald and no syslog daemon runs here: a socket of the test stands in their place, in a mount
//! namespace in which the daemon runs.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::place::{NO_LOG, Place, eventually, refuses, said};

/// A place where `/run` is empty but for what is in `run`, and `/dev` but for the devices and what is in `dev`.
struct Machine {
    place: Place,
}

impl Machine {
    fn new() -> Self {
        let place = Place::new();
        fs::create_dir_all(place.path("run/systemd/journal")).unwrap();
        fs::create_dir(place.path("dev")).unwrap();
        Self { place }
    }

    /// Listens at `path` below the place, where the real daemon would listen.
    fn fake(&self, path: &str) -> UnixDatagram {
        let socket = UnixDatagram::bind(self.place.path(path)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        socket
    }

    /// Runs shell lines in the machine; what was printed.
    fn run(&self, script: &str) -> String {
        self.run_by("sh -c", script)
    }

    /// The same on a terminal of its own.
    fn run_on_a_terminal(&self, script: &str) -> String {
        let printed = self.run_by("script --quiet --return /dev/null --command", script);
        printed.replace('\r', "")
    }

    /// Runs [`REPORT`] until `hear` returns: what that has heard. Nothing is printed.
    fn report<T: Send>(&self, script: &str, hear: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let hearing = scope.spawn(|| {
                let heard = std::panic::catch_unwind(std::panic::AssertUnwindSafe(hear));
                fs::write(self.place.path("heard"), "").unwrap();
                heard
            });
            assert_eq!(self.run(script), "");
            hearing.join().unwrap().expect("a report")
        })
    }

    fn run_by(&self, shell: &str, script: &str) -> String {
        let script = format!(
            r#"set -e
            mount -t tmpfs dev $T/dev; cp -a /dev/null /dev/zero /dev/urandom /dev/fuse $T/dev
            ln -s $T/log $T/dev/log
            mount --bind $T/dev /dev; mount --bind $T/run /run
            {script}"#
        );
        fs::write(self.place.path("script"), script).unwrap();
        let output = self.place.sh(&format!(
            "{shell} 'exec unshare --mount --propagation private sh $T/script' </dev/null"
        ));
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}");
        eventually("it ends", || self.place.is_quiet());
        text
    }
}

fn hear(socket: &UnixDatagram) -> String {
    let mut datagram = vec![0; 1 << 16];
    let length = socket.recv(&mut datagram).expect("a line");
    String::from_utf8_lossy(&datagram[..length]).into_owned()
}

/// The daemon lives until there is a file `heard`.
const REPORT: &str = "$MMFS --pidfile $T/pid $S $M; kill -USR1 $(cat $T/pid)
    timeout 20 sh -c 'until [ -e $T/heard ]; do sleep 0.02; done'; $MMFS unmount $M";

/// journald is a socket of ours.
#[test]
fn a_mount_in_the_background_logs_to_the_journal_with_fields() {
    let machine = Machine::new();
    let journald = machine.fake("run/systemd/journal/socket");
    let entry = machine.report(REPORT, || hear(&journald));
    let [source, point] = ["source", "mount"].map(|name| machine.place.path(name));
    for field in [
        "PRIORITY=6".into(),
        "SYSLOG_IDENTIFIER=mmfs".into(),
        "SYSLOG_FACILITY=3".into(),
        "MMFS_MODULE=mmfs::report".into(),
        format!("MMFS_SOURCE={}", source.display()),
        format!("MMFS_MOUNT_POINT={}", point.display()),
    ] {
        assert!(
            entry.lines().any(|line| line == field),
            "{field} in {entry}"
        );
    }
    assert!(entry.contains("\nMESSAGE=status: mount "), "{entry}");
}

/// The syslog daemon is a socket of ours.
#[test]
fn without_a_journal_it_logs_to_syslog() {
    let machine = Machine::new();
    let syslog = machine.fake("log");
    let line = machine.report(REPORT, || hear(&syslog));
    assert!(
        line.starts_with("<30>mmfs[") && line.contains("]: status: mount "),
        "{line}"
    );
}

#[test]
fn with_neither_it_says_so_unless_there_is_a_log_file_or_quiet_is_asked_for() {
    let machine = Machine::new();
    fs::write(machine.place.path("heard"), "").unwrap();
    assert_eq!(machine.run(REPORT), NO_LOG);
    for option in ["-q", "-qq", "--log $T/file"] {
        let machine = Machine::new();
        let script = REPORT.replace("--pid", &format!("{option} --pid"));
        let written = || fs::read_to_string(machine.place.path("file")).unwrap_or_default();
        let is_written = || written().contains("status: ");
        machine.report(&script, || match option.starts_with("--log") {
            true => eventually("it is in the file", is_written),
            false => assert!(!is_written()),
        });
    }
}

/// A terminal sees sentences. From the background it sees nothing after the mount answers.
#[test]
fn a_terminal_sees_sentences_of_its_own_daemon_only() {
    let machine = Machine::new();
    fs::remove_file(machine.place.path("source/hello")).unwrap();
    fs::write(machine.place.path("mount/below"), "").unwrap();
    fs::write(machine.place.path("heard"), "").unwrap();
    let printed = machine.run_on_a_terminal(REPORT);
    let empty = printed
        .strip_suffix(NO_LOG)
        .unwrap_or_else(|| panic!("{printed}"));
    assert!(
        empty.starts_with("mmfs: source ") && empty.contains(" is empty and hides"),
        "{printed}"
    );
    assert_eq!(empty.lines().count(), 1, "{printed}");
    let machine = Machine::new();
    let printed = machine.run_on_a_terminal(
        "$MMFS -f -v $S $M & timeout 20 sh -c 'until mountpoint -q $M; do sleep 0.02; done'; kill $!; wait",
    );
    let mounted = format!("mmfs: {:?} is mounted on", machine.place.source());
    assert!(
        printed.starts_with(&mounted) && printed.contains("\nmmfs: unmounted"),
        "{printed}"
    );
}

#[test]
fn three_times_verbose_logs_each_request_and_its_answer_and_twice_none() {
    let place = Place::new();
    let log = || fs::read_to_string(place.path("log")).unwrap();
    let requests = [
        "LOOKUP name \"hello\"",
        "OPEN flags",
        "READ fh",
        "RELEASE fh",
        "lookup of node 0x1 answered after",
        "read of node",
        " us: success",
    ];
    for (verbose, logged) in [("-vv", false), ("-vvv", true)] {
        place.start(&[verbose, "--log", "log"]); // which reads the file
        if logged {
            eventually("each request is logged", || {
                requests.iter().all(|request| log().contains(request))
            });
        }
        place.umount();
        eventually("it ends", || place.is_quiet());
        assert!(
            requests
                .iter()
                .all(|request| log().contains(request) == logged),
            "{verbose}: {}",
            log()
        );
        for line in log().lines() {
            // [2026-11-27T02:18:51Z DEBUG mmfs::session] text
            let told = line.starts_with("[20") && line.get(20..22) == Some("Z ");
            assert!(told && line.contains("] "), "{line}");
        }
    }
}

/// It wins over -v and -q. Where it is malformed, a sentence of ours says so, and they hold.
#[test]
fn rust_log_wins_over_verbose_and_quiet_unless_it_is_malformed() {
    let place = Place::new();
    let status = "status: mount ";
    let mounted = " is mounted on ";
    for (variable, option, logged, not_logged) in [
        ("info", "-qq", vec![mounted, status], vec!["ignored"]),
        ("info", "-q", vec![mounted, status], vec!["ignored"]),
        ("warn", "-vvv", vec![status], vec![mounted, "LOOKUP"]),
        ("off", "-vvv", vec![], vec![mounted, status, "LOOKUP"]),
        ("", "-v", vec![mounted, status], vec!["ignored"]),
        (
            "mmfs=loud",
            "-v",
            vec!["RUST_LOG is ignored: ", "'loud'", mounted],
            vec!["warning: "],
        ),
        ("mmfs=loud", "-qq", vec![], vec!["ignored", status]),
    ] {
        // What is not to be there has half a second to come.
        let (last, tries) = logged.last().map_or((".", 25), |last| (last, 500));
        let script = format!(
            r#"export RUST_LOG={variable}
            $MMFS -f --log $T/log {option} $S $M & until mountpoint -q $M && grep -q . $M/hello; do sleep 0.02; done; kill -USR1 $!
            for try in $(seq {tries}); do ! grep -q "{last}" $T/log || break; sleep 0.02; done
            kill $!; wait"#
        );
        assert_eq!(said(&place.sh(&script)), (Some(0), String::new()));
        let log = fs::read_to_string(place.path("log")).unwrap_or_default();
        for (words, is_logged) in [(logged, true), (not_logged, false)] {
            for words in words {
                let is_there = log.contains(words);
                assert_eq!(is_there, is_logged, "{variable} {option}, {words}: {log}");
            }
        }
        fs::remove_file(place.path("log")).unwrap();
    }
    // On the terminal before the mount answers, and nowhere after that.
    let start = place.sh("RUST_LOG=mmfs=$(printf '\\033[2J') $MMFS $S $M");
    let (code, text) = said(&start);
    assert_eq!(code, Some(0), "{text:?}");
    let text = text.strip_suffix(NO_LOG).unwrap_or(&text);
    assert!(
        text.starts_with("mmfs: the variable RUST_LOG is ignored: "),
        "{text:?}"
    );
    assert_eq!(text.matches(char::is_control).count(), 1, "{text:?}");
    place.umount();
}

/// A start with it, and SIGHUP: neither waits for a reader.
/// (proves: S27)
#[test]
fn a_log_that_is_a_fifo_without_a_reader_holds_nobody_up() {
    let place = Place::new();
    assert!(place.sh("mkfifo $T/fifo").status.success());
    let start = place.sh("timeout --kill-after=1 20 $MMFS --log $T/fifo $S $M");
    refuses(&start, "it is a FIFO without a reader");
    let mut daemon = place.foreground(&["--log", "log"]);
    assert!(place.sh("mv $T/fifo $T/log").status.success());
    for signal in [Signal::HUP, Signal::HUP, Signal::TERM] {
        daemon.signal(signal);
    }
    daemon.ends_well();
}
