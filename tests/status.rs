//! `mmfs status` and `mmfs trace`: what people, scripts and Prometheus get to see of a mount.

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use common::builder::binary;
use common::{Mount, fuse, tools, user};
use mmfs::report::Status;
use rustix::process::Signal;

fn mmfs(words: &[&str], mount: Option<&Mount>) -> Output {
    let mut command = Command::new(binary());
    command.args(words);
    command.args(mount.map(Mount::mnt));
    tools::output_of(&mut command)
}

#[track_caller]
fn said(words: &[&str], mount: Option<&Mount>) -> String {
    let output = mmfs(words, mount);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{words:?}: {errors}"
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[track_caller]
fn refused(words: &[&str], mount: Option<&Mount>) -> String {
    let output = mmfs(words, mount);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{words:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn use_a_little(mount: &Mount) {
    fs::write(mount.mnt().join("file"), vec![b'x'; 100_000]).expect("written");
    let file = File::open(mount.mnt().join("file")).expect("a file");
    file.read_at(&mut [0; 4096], 0).expect("read");
    assert!(fs::metadata(mount.mnt().join("missing")).is_err());
}

#[test]
fn a_mount_says_all_in_words() {
    let mount = Mount::builder().options(["--threads", "3"]).mount();
    use_a_little(&mount);
    let text = said(&["status"], Some(&mount));
    for words in [
        format!("mount       {}", mount.mnt().display()),
        format!("source      {}", mount.src().display()),
        format!("pid {}", mount.daemon_pid()),
        "threads 3".into(),
        "passthrough: ".into(),
        "2 inodes known".into(),
        "waiting     no requests".into(),
        "requests ".into(),
        "lookup ".into(),
    ] {
        assert!(text.contains(&words), "{words}: {text}");
    }
    let lines = said(&["status"], None);
    let start = format!(
        "{}  shows {}, pid ",
        mount.mnt().display(),
        mount.src().display()
    );
    assert_eq!(
        lines
            .lines()
            .filter(|line| line.starts_with(&start))
            .count(),
        1
    );
}

#[test]
fn json_is_the_answer_itself() {
    let mount = Mount::new();
    use_a_little(&mount);
    let one: Status =
        serde_json::from_str(&said(&["status", "--json"], Some(&mount))).expect("JSON");
    assert_eq!((one.protocol, one.pid), (1, mount.daemon_pid()));
    assert!(
        one.requests
            .iter()
            .any(|one| one.kind == "lookup" && one.errors > 0)
    );
    let list = said(&["status", "--json"], None);
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let point = mount.mnt().to_str().expect("UTF-8");
    let found = list.as_array().expect("a list").iter();
    let mut found = found.filter(|one| one["mount_point"]["text"] == point);
    let found = found.next().expect("the mount");
    assert_eq!(found["status"]["pid"], mount.daemon_pid());
    assert!(found["error"].is_null());
}

/// What promtool(1) checks, as far as it can be seen from here; and promtool itself, where it is installed. scripts/test does not
/// install it: Debian has it in the package of the Prometheus server only, which takes 96 MB and starts that server.
#[test]
fn metrics_are_prometheus_own_format() {
    let mount = Mount::new();
    use_a_little(&mount);
    let text = said(&["status", "--prometheus"], Some(&mount));
    let mut family = String::new();
    let mut families = std::collections::HashSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect("a name and words");
            assert!(words.ends_with('.'), "{line}");
            assert!(families.insert(name.to_owned()), "{line}: twice");
            family = name.into();
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            assert_eq!(name, family);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            continue;
        }
        let (name, rest) = line.split_once('{').expect("labels");
        let (labels, value) = rest.rsplit_once("} ").expect("a value");
        let plain = name.trim_end_matches("_sum").trim_end_matches("_count");
        assert_eq!(plain, family, "{line}");
        assert!(labels.starts_with("mount=\""), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(families.len() > 20, "{families:?}");
    assert!(text.contains("mmfs_request_duration_seconds_count{"));
    if let Some(promtool) = tools::find_tool("promtool") {
        let file = mount.scratch().join("metrics");
        fs::write(&file, text).expect("a file");
        let mut check = Command::new(promtool);
        check
            .args(["check", "metrics"])
            .stdin(File::open(&file).expect("the file"));
        let output = check.output().expect("promtool runs");
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
    }
}

#[test]
fn what_does_not_answer_is_named_with_its_reason() {
    let mount = Mount::new();
    let base = mount.scratch().to_str().expect("UTF-8");
    for (path, sentence) in [
        (base, "not a mount of mmfs"),
        ("/proc", "not a mount of mmfs"),
        ("/nowhere/at/all", "No such file"),
    ] {
        for verb in ["status", "trace"] {
            let text = refused(&[verb, path], None);
            assert!(
                text.starts_with("mmfs: ") && text.contains(sentence),
                "{text}"
            );
        }
    }
    let stopped = Mount::new();
    stopped.signal(Signal::STOP);
    let text = refused(&["status"], Some(&stopped));
    let line = said(&["status"], None);
    stopped.signal(Signal::CONT);
    assert!(text.contains("did not answer within"), "{text}");
    let start = format!("{}  its daemon did not answer", stopped.mnt().display());
    assert!(line.lines().any(|line| line.starts_with(&start)), "{line}");
}

#[test]
fn hostile_names_stay_on_their_line_and_send_the_terminal_nothing() {
    let place = tempfile::tempdir().expect("a directory");
    let hostile = place.path().join("a b\n\x1b[2J\"\\$(id)");
    let source = place.path().join("src\x1b]0;title\x07");
    for path in [&hostile, &source] {
        fs::create_dir(path).expect("a directory");
    }
    let mount = Mount::builder().over(&source).at(&hostile).mount();
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["status", "--prometheus"],
    ] {
        for named in [None, Some(&mount)] {
            let text = said(words, named);
            assert!(
                text.chars().all(|char| char == '\n' || !char.is_control()),
                "{text:?}"
            );
        }
    }
    let list = said(&["status"], None);
    let of_mount: Vec<_> = list.lines().filter(|line| line.contains("$(id)")).collect();
    assert_eq!(of_mount.len(), 1, "{list}");
}

/// In every form. Whether another directory is at its path here says nothing: that may be a path of another container's.
#[test]
fn a_source_that_was_removed_is_told_and_one_that_was_moved_is_none() {
    let place = tempfile::tempdir().expect("a directory");
    let (source, old) = (place.path().join("src"), place.path().join("old"));
    fs::create_dir(&source).expect("a directory");
    let mount = Mount::builder().over(&source).mount();
    let point = mount.mnt().to_str().expect("UTF-8");
    let tells = || {
        let one: Status =
            serde_json::from_str(&said(&["status", "--json"], Some(&mount))).expect("JSON");
        let list = said(&["status"], None);
        let list = list.lines().find(|line| line.starts_with(point));
        let removed = format!("mmfs_source_removed{{mount=\"{point}\"}} 1");
        [
            one.source.removed,
            said(&["status"], Some(&mount)).contains("was removed"),
            list.expect("the mount").contains("(removed)"),
            said(&["status", "--prometheus"], None).contains(&removed),
        ]
    };
    assert_eq!(tells(), [false; 4]);
    fs::rename(&source, &old).expect("moved");
    assert_eq!(tells(), [false; 4]);
    fs::create_dir(&source).expect("a directory");
    assert_eq!(tells(), [false; 4]);
    fs::remove_dir(&old).expect("removed");
    assert_eq!(tells(), [true; 4]);
}

#[test]
fn requests_are_traced_in_order_those_that_took_long_alone() {
    let mount = Mount::new();
    use_a_little(&mount);
    let text = said(&["trace"], Some(&mount));
    let missing = text
        .lines()
        .find(|line| line.contains("lookup node 1: No such file"));
    assert!(missing.is_some(), "{text}");
    let times: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(times.iter().all(|time| time.ends_with('Z')), "{text}");
    assert_eq!(said(&["trace", "--slow", "1000s"], Some(&mount)), "");
    let usage = mmfs(&["trace", "--slow", "1000"], Some(&mount));
    assert_eq!(usage.status.code(), Some(2));
}

/// A program whose lines are read until it ends.
/// Behind the mount the file is cut off. Its length is then read before its bytes.
#[test]
fn reads_beyond_an_end_that_has_moved_fault_once() {
    let mount = Mount::builder().options(["--direct-io"]).mount();
    fs::write(mount.src().join("file"), vec![b'x'; 1 << 20]).expect("written");
    let file = File::open(mount.mnt().join("file")).expect("a file");
    let read = |at| file.read_at(&mut [0; 4096], at).expect("read");
    for _ in 0..4 {
        assert_eq!(read(1 << 19), 4096);
    }
    fs::write(mount.src().join("file"), "short").expect("written");
    for _ in 0..100 {
        assert_eq!(read(1 << 19), 0);
    }
    let status = said(&["status", "--json"], Some(&mount));
    let status: Status = serde_json::from_str(&status).expect("JSON");
    let faults = status.usage.view.faults;
    assert!(faults <= 1, "{faults} faults");
}

fn started(words: &[&str], mount: &Mount) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new(binary());
    command.args(words).arg(mount.mnt()).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("mmfs starts");
    let lines = BufReader::new(child.stdout.take().expect("a pipe"));
    (child, lines)
}

#[test]
fn followers_see_what_comes_and_end_with_the_mount() {
    let mut mount = Mount::new();
    let (mut trace, lines) = started(&["trace", "--follow"], &mount);
    let (mut watch, screens) = started(&["status", "--watch"], &mount);
    let seen = thread::spawn(move || {
        let lines: Vec<String> = lines.lines().map_while(Result::ok).collect();
        lines
            .iter()
            .filter(|line| line.contains("No such file"))
            .count()
    });
    let screens = thread::spawn(move || {
        let lines = screens.lines().map_while(Result::ok);
        lines.filter(|line| line.starts_with("mount ")).count()
    });
    for n in 0..20 {
        assert!(fs::metadata(mount.mnt().join(format!("missing{n}"))).is_err());
        thread::sleep(Duration::from_millis(120));
    }
    assert!(mount.unmount().success());
    assert!(seen.join().expect("a reader") >= 20);
    assert!(screens.join().expect("a reader") >= 2);
    for child in [&mut trace, &mut watch] {
        assert!(child.wait().expect("our child").success());
    }
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let mount = Mount::new();
    use_a_little(&mount);
    for words in ["status", "status --json", "status --prometheus", "trace"] {
        let line = format!("\"$1\" {words} \"$2\" 2>&1 > /dev/full || echo $?");
        let binary = binary();
        let said = common::sh(&line, &[binary.as_os_str(), mount.mnt().as_os_str()]);
        assert!(
            said.contains("standard output") && said.ends_with("\n1\n"),
            "{words}: {said}"
        );
    }
}

#[test]
fn nobody_reading_is_no_error() {
    let mount = Mount::new();
    use_a_little(&mount);
    for words in [
        "status",
        "status --watch",
        "trace --follow",
        "status --json",
    ] {
        let line = format!("\"$1\" {words} \"$2\" | head -c 0; echo ${{PIPESTATUS[0]}}");
        let binary = binary();
        let arguments = [binary.as_os_str(), mount.mnt().as_os_str()];
        // The next line that is printed finds no reader.
        let look = || fs::metadata(mount.mnt().join("missing")).is_err();
        let looking = thread::scope(|scope| {
            let ended = scope.spawn(|| common::sh(&line, &arguments));
            while !ended.is_finished() {
                assert!(look());
                thread::sleep(Duration::from_millis(50));
            }
            ended.join().expect("a shell")
        });
        assert_eq!(looking.trim(), "0", "{words}");
    }
}

#[test]
fn as_root_users_ask_their_own_mounts_and_no_others() {
    user::let_users_mount();
    let owner = user::ordinary();
    let theirs = Mount::builder().as_user(owner).mount();
    let ours = Mount::builder().option("--allow-other").mount();
    let ask = |mount: &Mount| {
        let mut command = user::as_user(owner, binary());
        tools::output_of(command.args(["status", "--json"]).arg(mount.mnt()))
    };
    assert!(ask(&theirs).status.success());
    let refused = ask(&ours);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        text.contains("only root and the user who mounted it"),
        "{text}"
    );
    let status: Status =
        serde_json::from_str(&said(&["status", "--json"], Some(&theirs))).expect("JSON");
    assert_eq!(status.uid, owner);
    let mounts = [&theirs, &ours].map(|mount| fuse::mount_at(mount.mnt()).is_some());
    assert_eq!(mounts, [true, true]);
}

/// The unit's command leaves a whole file, and nothing else.
#[test]
fn the_timer_writes_a_file_for_the_collector() {
    let mount = Mount::new();
    let unit = include_str!("../scripts/systemd/mmfs-metrics.service");
    let command = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/bin/sh -c '"));
    let command = command
        .and_then(|command| command.strip_suffix('\''))
        .expect("a command");
    let directory = mount.scratch().join("collector");
    fs::create_dir(&directory).expect("a directory");
    let path = binary().parent().expect("a directory").to_owned();
    let path = format!(
        "{}:{}",
        path.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", command])
        .current_dir(&directory)
        .env("PATH", path);
    tools::run(&mut shell);
    let names: Vec<_> = fs::read_dir(&directory)
        .expect("a directory")
        .flatten()
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let text = fs::read_to_string(directory.join("mmfs.prom")).expect("the file");
    assert!(
        text.contains(&format!("mmfs_up{{mount=\"{}\"}} 1", mount.mnt().display())),
        "{text}"
    );
}

/// As a volume's `subPath` is in a container.
/// (proves: S54)
#[test]
fn as_root_a_directory_of_a_mount_that_is_mounted_elsewhere_is_asked_there() {
    let mount = Mount::new();
    let place = mount.scratch().join("place");
    fs::create_dir(&place).expect("a directory");
    fs::create_dir(mount.mnt().join("sub")).expect("a directory");
    let place = place.to_str().expect("UTF-8");
    let script = r#"mount --bind "$1/sub" "$2"
trap 'umount "$2"' EXIT
"$3" status "$2""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script, "sh"]);
    let output = tools::run(command.arg(mount.mnt()).arg(place).arg(binary()));
    let said = String::from_utf8_lossy(&output.stdout);
    let source = mount.src().to_str().expect("UTF-8");
    assert!(said.contains(source), "{said}");
}
