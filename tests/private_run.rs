//! `mmfs run`: a command in a private view of its working directory.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::sleep;
use std::time::Duration;

use common::fuse::kill;
use common::private::place;
use common::tools::{output_of, text_of, tool, wait_until};
use common::{Mount, builder, fuse, sh, user};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);
/// How long a program may run that is started here, in all.
const RUN: Duration = Duration::from_secs(120);
/// For env(1). Whoever started the tests may ignore signals, and a shell cannot trap what is ignored when it begins.
const DEFAULT_SIGNALS: &str = "--default-signal=HUP,INT,QUIT";

/// A source with a few files, and who runs commands in it.
struct Place {
    _base: TempDir,
    source: PathBuf,
    /// `$XDG_STATE_HOME`.
    state: PathBuf,
    user: u32,
}

/// A place of each kind of user that can be had.
fn places() -> Vec<Place> {
    user::let_users_mount();
    let mut users = vec![user::ordinary()];
    if user::is_root() {
        users.push(0);
    }
    users.into_iter().map(Place::of).collect()
}

impl Place {
    fn of(user: u32) -> Self {
        let (base, source, _) = place();
        let source = source.canonicalize().unwrap();
        let state = source.with_file_name("state");
        fs::create_dir(&state).unwrap();
        fs::create_dir(source.join("d")).unwrap();
        for name in ["f", "d/g", "d/h"] {
            fs::write(source.join(name), name).unwrap();
        }
        symlink("f", source.join("link")).unwrap();
        sh(
            "chown -Rh \"$1:$1\" \"$2\"",
            &[user.to_string().as_ref(), base.path().as_ref()],
        );
        Self {
            _base: base,
            source,
            state,
            user,
        }
    }

    /// `mmfs run OPTIONS -- sh -c SCRIPT`.
    fn command(&self, options: &[&str], script: &str) -> Command {
        self.command_of(options, &["sh", "-c", script])
    }

    fn command_of(&self, options: &[&str], words: &[&str]) -> Command {
        self.command_under(&[], options, words)
    }

    /// As `command_of`, started by a program that is given the words of the command line.
    fn command_under(&self, program: &[&str], options: &[&str], words: &[&str]) -> Command {
        let mut command = user::as_user(self.user, tool("env"));
        command.arg(DEFAULT_SIGNALS).args(program);
        command.arg(builder::binary()).arg("run").args(options);
        command.arg("--").args(words).current_dir(&self.source);
        command.env("XDG_STATE_HOME", &self.state);
        command.env_remove("RUST_LOG").env("PATH", "/usr/bin:/bin");
        command
    }

    fn run(&self, options: &[&str], script: &str) -> Done {
        Done::of(output_of(&mut self.command(options, script)))
    }

    /// Starts it, and waits until the script has written `ready` to its output.
    fn start(&self, script: &str) -> Running {
        let mut command = self.command(&[], script);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = Running::new(command.stdout(Stdio::piped()));
        let mut word = [0; 5];
        let out = child.stdout.as_mut().unwrap();
        out.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"ready");
        child
    }

    fn stores(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.state.join("mmfs"));
        let entries = entries.into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// All there is in the source, without what reading it changes.
    fn listed(&self) -> String {
        let script = r#"cd "$1"; find . -printf '%p %y %i %m %U %s %T@ %C@ %l\n'; find . -type f -printf '%p %A@\n'"#;
        sh(script, &[self.source.as_ref()])
    }
}

/// A program that is killed if it runs for too long, so that no test waits for ever.
struct Running {
    child: Child,
    _limit: Sender<()>,
}

impl Running {
    fn new(command: &mut Command) -> Self {
        let child = command.spawn().unwrap();
        let (limit, ended) = channel();
        let pid = child.id();
        std::thread::spawn(move || {
            if ended.recv_timeout(RUN) == Err(RecvTimeoutError::Timeout) {
                kill(pid, Signal::KILL);
            }
        });
        let _limit = limit;
        Self { child, _limit }
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
struct Done {
    code: i32,
    out: String,
    told: Vec<String>,
}

impl Done {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let told = text(output.stderr);
        Self {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            told: told.lines().map(Into::into).collect(),
        }
    }

    /// The lines that are no notes.
    fn changes(&self) -> Vec<&str> {
        let lines = self.told.iter().map(String::as_str);
        lines.filter(|line| !line.starts_with("mmfs: ")).collect()
    }

    #[track_caller]
    fn tells(&self, words: &str) {
        let told = self.told.join("\n");
        assert!(told.contains(words), "{words:?} is not in {told}");
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let text = text_of(Path::new(&format!("/proc/{pid}/task/{pid}/children")));
    let numbers = text.split_whitespace();
    numbers.map(|number| number.parse().unwrap()).collect()
}

/// Whether a process has ended. Its new parent may not have asked for its status yet.
fn has_ended(pid: u32) -> bool {
    let stat = text_of(Path::new(&format!("/proc/{pid}/stat")));
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// The tests change nothing that is mounted.
fn mounts() -> String {
    text_of(Path::new("/proc/self/mountinfo"))
        .lines()
        .filter(|line| line.contains("fuse.mmfs"))
        .collect()
}

#[test]
fn s68_a_command_sees_a_view_at_the_same_path_and_the_source_does_not_change() {
    for place in places() {
        let before = place.listed();
        let script = r#"echo $PWD; pwd -P; stat -fc %T . .. ; cat f; echo new > f; chmod 600 d/h; rm d/g; mkdir n; cat "$PWD/f"
            id -u; mv link l; echo told >&2; grep -c ' /proc' /proc/self/mountinfo >/dev/null"#;
        let done = place.run(&["--discard"], script);
        assert_eq!(done.code, 0, "{:?}", done.told);
        let path = place.source.to_str().unwrap();
        let lines: Vec<_> = done.out.lines().collect();
        assert_eq!(
            lines[..3],
            [path, path, "fuseblk"].map(|word| match word {
                "fuseblk" => lines[2],
                word => word,
            })
        );
        assert_ne!(lines[2], lines[3], "the directory above is no view");
        assert_eq!(lines[4..], ["fnew", &place.user.to_string()]);
        assert_eq!(
            done.changes(),
            ["told", "D d/g", "P d/h", "M f", "R link -> l", "A n"]
        );
        assert_eq!(place.listed(), before);
        assert_eq!(place.stores(), [""; 0].map(PathBuf::from));
    }
}

#[test]
fn s69_the_exit_code_is_the_commands() {
    for place in places() {
        let code = |words: &[&str]| {
            let done = Done::of(output_of(&mut place.command_of(&[], words)));
            (done.code, done.told)
        };
        for expected in [0, 1, 42, 125, 255] {
            assert_eq!(code(&["sh", "-c", &format!("exit {expected}")]).0, expected);
        }
        assert_eq!(code(&["sh", "-c", "kill -9 $$"]).0, 137);
        assert_eq!(code(&["sh", "-c", "kill -TERM $$"]).0, 143);
        let (missing, told) = code(&["mmfs-no-such-command"]);
        assert_eq!(missing, 127, "{told:?}");
        assert!(told[0].starts_with("mmfs: the command mmfs-no-such-command cannot be run"));
        assert_eq!(code(&["./f"]).0, 126);
        assert_eq!(code(&["d"]).0, 127);
        assert_eq!(code(&["./d"]).0, 126);
        let of_mmfs = |words: &[&str]| {
            let mut command = Command::new(builder::binary());
            let done = Done::of(output_of(command.arg("run").args(words).current_dir("/")));
            assert_eq!(done.told.len(), 1, "{:?}", done.told);
            done.code
        };
        assert_eq!(of_mmfs(&["--no-such-option", "--", "true"]), 125);
        assert_eq!(of_mmfs(&["--keep", "--discard", "--", "true"]), 125);
        assert_eq!(of_mmfs(&["--"]), 125);
        assert_eq!(of_mmfs(&["--", "true"]), 125, "of /");
        // A run without changes leaves nothing.
        assert!(place.stores().is_empty());
    }
}

#[test]
fn a_store_that_is_kept_is_a_store_as_any_other() {
    for place in places() {
        let done = place.run(&["--keep"], "echo new > f; echo more > more");
        let stores = place.stores();
        let [store] = &stores[..] else {
            panic!("{stores:?}");
        };
        let mode = store.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        done.tells(&format!("the changes are in {}", store.display()));
        let mut diff = user::as_user(place.user, builder::binary());
        let diff = output_of(diff.arg("diff").arg(store));
        assert_eq!(String::from_utf8_lossy(&diff.stdout), "M f\nA more\n");
        let view = Mount::builder().over(&place.source).as_user(place.user);
        let mut view = view.option("--private").option(store).mount();
        let read = output_of(user::as_user(place.user, "cat").arg(view.mnt().join("f")));
        assert_eq!(read.stdout, b"new\n");
        view.unmount();
        // Without a terminal, changes are kept without the option.
        assert_eq!(place.run(&[], "rm f").changes(), ["D f"]);
        assert_eq!(place.stores().len(), 2);
        // The next run goes on with it.
        let path = store.to_str().unwrap();
        let done = place.run(&["--store", path], "cat f; rm more");
        assert_eq!((&done.out[..], done.changes()), ("new\n", vec!["M f"]));
        let refused = place.run(&["--store", path, "--discard"], "touch /tmp/never");
        assert_eq!(refused.code, 125);
        refused.tells("was there before");
        assert!(store.exists() && !Path::new("/tmp/never").exists());
    }
}

#[test]
fn a_named_store_lies_elsewhere_and_goes_only_if_it_is_new() {
    for place in places() {
        let store = place.state.join("named");
        let named = ["--store", store.to_str().unwrap()];
        let done = place.run(&[&named[..], &["--discard"]].concat(), "touch n");
        assert_eq!((done.code, done.changes()), (0, vec!["A n"]));
        assert!(!store.exists());
        let done = place.run(
            &[&named[..], &["--store-limit", "64K"]].concat(),
            "head -c 1M /dev/zero > n",
        );
        assert_ne!(done.code, 0);
        done.tells("No space left");
        assert!(store.join("format").exists());
        let inside = place.source.join("store");
        let refused = place.run(&["--store", inside.to_str().unwrap()], "true");
        assert_eq!(refused.code, 125);
        refused.tells("must not lie in");
        assert!(!inside.exists() && place.stores().is_empty());
    }
}

#[test]
fn s70_a_store_that_mmfs_chose_in_the_source_is_an_empty_directory() {
    for mut place in places() {
        place.state = place.source.join("d/state");
        let script = "cd d/state/mmfs/*; ls -A; touch x 2>/dev/null || echo refused; rmdir $PWD 2>/dev/null || echo busy
            rm -f ../../../../f; test -e d/state && echo wrong; true";
        let done = place.run(&["--keep"], script);
        assert_eq!((done.code, &done.out[..]), (0, "refused\nbusy\n"));
        assert_eq!(done.changes(), ["D f"]);
        let stores = place.stores();
        assert!(stores[0].join("format").exists());
        done.tells("move the store out of");
        assert_eq!(place.run(&["--discard"], "rm f").code, 0);
        assert_eq!(place.stores(), stores);
    }
}

#[test]
fn removing_everything_leaves_the_source_whole() {
    for place in places() {
        let script = r#"cd "$1"; for n in $(seq 300); do mkdir -p "$((n % 7))/deep"; echo $n > "$((n % 7))/deep/$n"; done
            chown -R "$2:$2" ."#;
        let user = place.user.to_string();
        sh(script, &[place.source.as_ref(), user.as_ref()]);
        let before = place.listed();
        let done = place.run(&["--discard"], "rm -rf * && ls -A | wc -l");
        assert_eq!((done.code, &done.out[..]), (0, "0\n"), "{:?}", done.told);
        let paths = before.lines().filter(|line| line.split(' ').count() > 2);
        assert_eq!(done.changes().len(), paths.count() - 1);
        assert!(done.changes().iter().all(|line| line.starts_with("D ")));
        assert_eq!(place.listed(), before);
    }
}

#[test]
fn s71_signals_reach_the_command() {
    for place in places() {
        for (signal, name) in [
            (Signal::TERM, "TERM"),
            (Signal::HUP, "HUP"),
            (Signal::USR1, "USR1"),
        ] {
            let script = format!("trap 'exit 9' {name}; echo ready; while :; do sleep 0.02; done");
            let mut child = place.start(&script);
            kill_process(pid_of(&child), signal).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(9), "{name}");
            let mut child = place.start("echo ready; exec sleep 1000");
            kill_process(pid_of(&child), signal).unwrap();
            let code = child.wait().unwrap().code();
            assert_eq!(code, Some(128 + signal.as_raw()), "{name}");
        }
        // As nohup(1) does it.
        let nohup = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"];
        let script = "kill -HUP $$; kill -HUP $PPID; echo alive";
        let mut command = place.command_under(&nohup, &[], &["sh", "-c", script]);
        assert_eq!(Done::of(output_of(&mut command)).out, "alive\n");
    }
}

#[test]
fn s72_nothing_stays_when_mmfs_or_the_daemon_is_killed() {
    for place in places() {
        let before = mounts();
        let mut child = place.start("echo new > f; echo ready; exec sleep 1000");
        let all = children(child.id());
        assert_eq!(all.len(), 2, "the command and the daemon");
        assert_eq!(mounts(), before, "nobody else sees the view");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(wait_until(LIMIT, || all.iter().all(|pid| has_ended(*pid))));
        assert_eq!(mounts(), before);
        assert_eq!(fs::read(place.source.join("f")).unwrap(), b"f");
        // What was changed until then is in the store.
        let mut diff = user::as_user(place.user, builder::binary());
        let diff = output_of(diff.arg("diff").arg(&place.stores()[0]));
        assert_eq!(String::from_utf8_lossy(&diff.stdout), "M f\n");

        let mut child = place.start("echo ready; while cat f; do sleep 0.02; done >/dev/null 2>&1");
        let daemon = children(child.id()).into_iter().find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(4).any(|word| word == b"mmfs")
        });
        fuse::kill(daemon.expect("the daemon"), Signal::KILL);
        assert_eq!(child.wait().unwrap().code(), Some(125));
        assert_eq!((mounts(), place.stores().len()), (before, 2));
    }
}

#[test]
fn s73_what_the_command_leaves_behind_is_ended() {
    for place in places() {
        let script =
            "(trap '' TERM; echo > stubborn; while :; do sleep 0.05; done) & setsid sleep 1000 &
            while ! test -e stubborn; do sleep 0.02; done; echo $! >&2; exit 3";
        let done = place.run(&["--discard"], script);
        assert_eq!((done.code, done.changes().len()), (3, 2), "{:?}", done.told);
        let left = done.told[0].parse().unwrap();
        assert!(wait_until(LIMIT, || has_ended(left)));
        // What the shell had started that became mmfs is not the command's.
        let run = place.command(&["--discard"], "true");
        let mut command = Command::new("sh");
        let script = "sleep 1000 >&2 & echo $!; exec \"$@\"";
        command.args(["-c", script, "sh"]).arg(run.get_program());
        command.args(run.get_args()).current_dir(&place.source);
        command.env("XDG_STATE_HOME", &place.state);
        let done = command.stderr(Stdio::null()).output().unwrap();
        let own = String::from_utf8(done.stdout).unwrap().trim().parse();
        assert!(!has_ended(own.clone().unwrap()));
        fuse::kill(own.unwrap(), Signal::KILL);
    }
}

#[test]
fn a_command_may_run_mmfs() {
    for place in places() {
        let mmfs = builder::binary();
        let mmfs = mmfs.display();
        let script = format!(
            "echo outer > f; {mmfs} run --discard -- sh -c 'cat f; echo inner > f; rm d/g; {mmfs} status . | grep -c inner'
             cat f d/g; XDG_STATE_HOME=$PWD/d {mmfs} run --keep -- rm d/h; ls d"
        );
        let done = place.run(&["--discard"], &script);
        assert_eq!(done.code, 0, "{:?}", done.told);
        assert_eq!(done.out, "outer\n0\nouter\nd/gg\nh\nmmfs\n");
    }
}

#[test]
fn without_the_right_to_make_namespaces_there_is_a_sentence() {
    let place = Place::of(user::ordinary());
    let mut command = Command::new(tool("unshare"));
    let run = place.command_of(&[], &["true"]);
    let script = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"";
    // Root of that namespace, without the right to mount in it.
    command.args(["-Ur", "sh", "-c", script, "sh", "setpriv"]);
    command.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"]);
    command.arg(builder::binary()).args(["run", "--", "true"]);
    command.current_dir(run.get_current_dir().unwrap());
    fs::set_permissions(&place.state, fs::Permissions::from_mode(0o777)).unwrap();
    command.env("XDG_STATE_HOME", &place.state);
    let done = Done::of(output_of(&mut command));
    assert_eq!(done.code, 125, "{:?}", done.told);
    done.tells("no mount namespace can be made");
    assert_eq!(done.told.len(), 1);
    assert!(place.stores().is_empty());
}

#[test]
fn as_root_filesystems_below_are_shown_and_do_not_change() {
    let place = Place::of(0);
    let below = place.source.join("d");
    sh(
        "mount -t tmpfs none \"$1\"; echo below > \"$1/below\"",
        &[below.as_ref()],
    );
    let done = place.run(&["--discard"], "cat d/below; rm d/below; ls d");
    assert_eq!(
        (&done.out[..], done.changes()),
        ("below\n", vec!["D d/below"])
    );
    assert_eq!(fs::read(below.join("below")).unwrap(), b"below\n");
    common::tools::unmount_idle(&below).unwrap();
}

/// A terminal in which words are typed.
struct Terminal {
    child: Running,
    shown: String,
}

impl Terminal {
    /// Runs a command, in a shell's words, in a terminal and in the directory of a place. The command takes the shell's
    /// place, or the exit code is the shell's own idea after a Ctrl-C: bash and dash differ.
    fn run(place: &Place, words: &str) -> Self {
        let mut command = user::as_user(place.user, tool("env"));
        command.arg(DEFAULT_SIGNALS).arg(tool("script"));
        command.args(["-qefc", &format!("exec {words}"), "/dev/null"]);
        command.env("SHELL", "/bin/sh");
        command.current_dir(&place.source);
        command.env("XDG_STATE_HOME", &place.state);
        command
            .env("MMFS", builder::binary())
            .env_remove("RUST_LOG");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self {
            child: Running::new(&mut command),
            shown: String::new(),
        }
    }

    /// Waits until the terminal shows some words after those that were waited for before.
    #[track_caller]
    fn await_words(&mut self, words: &str) {
        let mut bytes = [0; 4096];
        let out = self.child.stdout.as_mut().unwrap();
        while !self.shown.contains(words) {
            let length = out.read(&mut bytes).unwrap();
            assert!(length > 0, "{words:?} is not in {:?}", self.shown);
            self.shown += &String::from_utf8_lossy(&bytes[..length]);
        }
        let end = self.shown.find(words).unwrap() + words.len();
        self.shown.drain(..end);
    }

    fn type_in(&mut self, text: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
    }

    /// The exit code.
    fn end(mut self) -> Option<i32> {
        let mut rest = Vec::new();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_end(&mut rest)
            .unwrap();
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_terminal_is_asked() {
    for place in places() {
        let mut terminal = Terminal::run(&place, "$MMFS run -- sh -c 'echo new > f; exit 5'");
        terminal.await_words("M f\r\n");
        terminal.await_words("keep, commit or discard these changes? [k/c/d] ");
        terminal.type_in("what\n");
        terminal.await_words("keep, commit or discard these changes? [k/c/d] ");
        terminal.type_in("d\n");
        assert_eq!(terminal.end(), Some(5));
        assert!(place.stores().is_empty());
        for (answer, kept) in [("k\n", 1), ("\x03", 2), ("\x04", 3)] {
            let mut terminal = Terminal::run(&place, "$MMFS run -- rm f");
            terminal.await_words("[k/c/d] ");
            terminal.type_in(answer);
            terminal.await_words("the changes are in ");
            assert_eq!(terminal.end(), Some(0));
            assert_eq!(place.stores().len(), kept, "{answer:?}");
        }
        // Nothing to ask.
        let terminal = Terminal::run(&place, "$MMFS run -- true");
        assert_eq!(terminal.end(), Some(0));
    }
}

#[test]
fn changes_are_committed_if_the_command_succeeds() {
    for place in places() {
        let all = "echo new > f; rm d/g; mv d e; touch made";
        let done = place.run(&["--commit"], &format!("{all}; exit 3"));
        assert_eq!(done.code, 3, "{done:?}");
        assert_eq!(place.stores().len(), 1, "it is kept: {done:?}");
        assert!(
            done.told.iter().any(|line| line.contains("mmfs commit")),
            "{done:?}"
        );
        assert_eq!(fs::read(place.source.join("f")).unwrap(), b"f");

        let done = place.run(&["--commit"], all);
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(place.stores().len(), 1, "{done:?}");
        assert_eq!(fs::read(place.source.join("f")).unwrap(), b"new\n");
        assert!(place.source.join("made").exists());
        let names = fs::read_dir(place.source.join("e")).unwrap().flatten();
        let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["h"]);

        let mut terminal = Terminal::run(&place, "$MMFS run -- rm f");
        terminal.await_words("[k/c/d] ");
        terminal.type_in("c\n");
        assert_eq!(terminal.end(), Some(0));
        assert_eq!(place.stores().len(), 1);
        assert!(!place.source.join("f").exists());
    }
}

/// What the directory has changed, too, is not overwritten.
#[test]
fn changes_are_kept_if_the_directory_has_changed_too() {
    for place in places() {
        let script = "echo view > f; echo ready; while [ ! -e ../go ]; do sleep 0.02; done";
        let mut command = place.command(&["--commit"], script);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Running::new(command.stderr(Stdio::null()));
        let mut word = [0; 5];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut word)
            .unwrap();
        fs::write(place.source.join("f"), "somebody's").unwrap();
        fs::write(place.source.with_file_name("go"), "").unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(125));
        assert_eq!(place.stores().len(), 1);
        assert_eq!(fs::read(place.source.join("f")).unwrap(), b"somebody's");
    }
}

#[test]
fn keys_of_the_terminal_reach_the_command() {
    for place in places() {
        let script = "$MMFS run --discard -- sh -c 'trap \"echo caught; exit 4\" INT; echo ready; while :; do sleep 0.02; done'";
        let mut terminal = Terminal::run(&place, script);
        terminal.await_words("ready");
        terminal.type_in("\x03");
        terminal.await_words("caught");
        assert_eq!(terminal.end(), Some(4));

        let mut terminal = Terminal::run(&place, "env PS1='prompt ' bash --norc -i");
        terminal.await_words("prompt ");
        terminal.type_in("$MMFS run -- sh -c 'touch n; echo re''ady; cat; echo do''ne'\n");
        terminal.await_words("ready");
        terminal.type_in("\x1a");
        terminal.await_words("Stopped");
        terminal.await_words("prompt ");
        // The kernel throws typed text away that comes just after Ctrl-Z: it signals first, and then empties its buffers.
        sleep(Duration::from_millis(300));
        terminal.type_in("fg\n");
        // The shell says what goes on. From then on the command has the terminal.
        terminal.await_words("cat; echo do''ne'\r\n");
        terminal.type_in("line\n\x04");
        terminal.await_words("done");
        terminal.await_words("[k/c/d] ");
        terminal.type_in("d\n");
        terminal.await_words("prompt ");
        // A command that only stops itself stops mmfs, too.
        terminal.type_in("$MMFS run -- sh -c 'kill -TSTP $$; echo awa''ke'\n");
        terminal.await_words("Stopped");
        terminal.type_in("fg\n");
        terminal.await_words("awake");
        terminal.await_words("prompt ");
        terminal.type_in("exit\n");
        terminal.end();
        assert!(place.stores().is_empty());
    }
}
