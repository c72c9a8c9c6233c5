//! The control channel: a mount says what it does, to root and to the mounting user only, and whatever its source does.

mod common;
mod survive;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Mount, fuse, sh, tools, user};
use mmfs::ask::{self, NoAnswer};
use mmfs::report::{Question, Status, Trace};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use rustix::process::Signal;
use serde::de::DeserializeOwned;
use survive::faulty::{self, Faulty};

const MODES: [&[&str]; 4] = [
    &[],
    &["--direct-io"],
    &["--passthrough"],
    &["--threads", "1"],
];

fn status(mount: &Mount) -> Status {
    asked(mount.mnt(), Question::Status)
        .unwrap_or_else(|why| panic!("{}: {why}", mount.mnt().display()))
}

/// On a thread, which may become the mounting user. The program itself asks in a child process, for which a test has too many threads.
fn asked<T: DeserializeOwned>(path: &Path, question: Question) -> Result<T, NoAnswer> {
    let path = path.to_owned();
    let asking = thread::spawn(move || ask::answer(&path, question));
    let answer = asking.join().expect("no panic")?;
    Ok(serde_json::from_slice(&answer).expect("JSON"))
}

fn trace(mount: &Mount, from: u64) -> Trace {
    asked(mount.mnt(), Question::Trace(from)).expect("an answer")
}

fn count(status: &Status, kind: &str) -> u64 {
    let found = status.requests.iter().find(|one| one.kind == kind);
    found.map_or(0, |one| one.count)
}

// ---- counts

/// The numbers of linux/fuse.h.
const OPCODES: [(u32, &str); 34] = [
    (1, "lookup"),
    (3, "getattr"),
    (4, "setattr"),
    (5, "readlink"),
    (6, "symlink"),
    (8, "mknod"),
    (9, "mkdir"),
    (10, "unlink"),
    (11, "rmdir"),
    (12, "rename"),
    (13, "link"),
    (14, "open"),
    (15, "read"),
    (16, "write"),
    (17, "statfs"),
    (18, "release"),
    (20, "fsync"),
    (21, "setxattr"),
    (22, "getxattr"),
    (23, "listxattr"),
    (24, "removexattr"),
    (25, "flush"),
    (27, "opendir"),
    (28, "readdir"),
    (29, "releasedir"),
    (30, "fsyncdir"),
    (35, "create"),
    (39, "ioctl"),
    (40, "poll"),
    (43, "fallocate"),
    (44, "readdirplus"),
    (45, "rename"), // with flags
    (46, "lseek"),
    (47, "copy_file_range"),
];

/// A load with as many kinds of requests as a shell can make.
const LOAD: &str = r#"
cd "$1"
for n in 1 2 3 4 5 6 7 8; do echo "$n" > "file$n"; cat "file$n" > /dev/null; done
head -c 3000000 /dev/urandom > big
cat big > /dev/null
dd if=big of=copy bs=64K conv=fsync 2> /dev/null
cp --reflink=never --sparse=never big third
dd if=/dev/zero of=big bs=4K count=3 seek=5 conv=notrunc 2> /dev/null
truncate -s 1000 copy
fallocate -l 8192 space
mkdir -p a/b
ln -s ../big a/link
readlink a/link > /dev/null
ln big hard
mkfifo pipe
mv a/b a/c
rmdir a/c
setfattr -n user.name -v value big
getfattr -d big > /dev/null
setfattr -x user.name big
chmod 600 big
touch -d 2001-01-01 big
ls -laR . > /dev/null
ls missing 2> /dev/null || true
stat -f . > /dev/null
lsattr big > /dev/null || true
rm -r a pipe file* hard third
sync big
"#;

/// The requests that the daemon reads are counted each once, under its kind, in every mode.
/// (proves: S54)
#[test]
fn counts_are_those_of_the_kernel() {
    for mode in MODES {
        if mode.contains(&"--passthrough") && !user::is_root() {
            continue; // the same as without it
        }
        let mount = Mount::builder().options(mode.iter().copied()).mount();
        let log = mount.scratch().join("strace");
        let strace = Reads::attach(mount.daemon_pid(), &log);
        let (before, after) = mount.within(Duration::from_secs(60), || {
            let before = quiet(&mount);
            sh(LOAD, &[mount.mnt().as_os_str()]);
            (before, quiet(&mount))
        });
        let read = strace.detach();
        let between = between_questions(&read, before.1, after.1);
        assert!(between.len() > 15, "{mode:?}: {between:?}");
        for (_, kind) in OPCODES {
            let counted = count(&after.0, kind) - count(&before.0, kind);
            let read = between.get(kind).copied().unwrap_or(0);
            assert_eq!(counted, read, "{mode:?}: {kind}");
        }
        assert!(
            after.0.requests.iter().any(|one| one.errors > 0),
            "a missing name"
        );
        for one in &after.0.requests {
            assert!(
                one.p50_us <= one.p99_us && one.p99_us <= one.max_us,
                "{one:?}"
            );
            assert!(one.max_us <= one.total_us || one.max_us <= 1, "{one:?}");
        }
    }
}

/// What the mount says once nothing more comes, and how many questions had been asked up to then.
fn quiet(mount: &Mount) -> (Status, u64) {
    let counted = |status: &Status| {
        let others = status.requests.iter().filter(|one| one.kind != "control");
        others.map(|one| one.count).sum::<u64>()
    };
    let mut last = status(mount);
    loop {
        thread::sleep(Duration::from_millis(300));
        let now = status(mount);
        if counted(&now) == counted(&last) && now.waiting.requests == 0 {
            let questions = count(&now, "control");
            return (now, questions);
        }
        last = now;
    }
}

/// Requests by kind that were read between two questions, counted from 1. Nothing else comes around those.
fn between_questions(read: &[Read], from: u64, to: u64) -> BTreeMap<&'static str, u64> {
    let (mut questions, mut counts) = (0, BTreeMap::new());
    for one in read {
        if one.is_question {
            questions += 1;
            continue;
        }
        let kind = OPCODES.iter().find(|(opcode, _)| *opcode == one.opcode);
        if let (true, Some((_, kind))) = (questions >= from && questions < to, kind) {
            *counts.entry(*kind).or_default() += 1;
        }
    }
    assert!(questions >= to, "{questions} questions of {to} were seen");
    counts
}

/// A request as the daemon has read it.
struct Read {
    opcode: u32,
    is_question: bool,
}

/// strace(1), attached to a daemon to see what it reads from the kernel.
struct Reads(Child, std::path::PathBuf);

impl Reads {
    fn attach(pid: u32, log: &Path) -> Self {
        let messages = log.with_extension("messages");
        let mut command = Command::new(tools::tool("strace"));
        command.args([
            "-f",
            "-e",
            "trace=read",
            "-e",
            "signal=none",
            "-xx",
            "-s",
            "80",
        ]);
        command.arg("-o").arg(log).args(["-p", &pid.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&messages).expect("a file for messages"));
        let this = Reads(command.spawn().expect("strace starts"), log.to_owned());
        let attached = || tools::text_of(&messages).contains("attached");
        assert!(tools::wait_until(Duration::from_secs(10), attached));
        // The event loops are attached one after the other.
        thread::sleep(Duration::from_millis(300));
        this
    }

    fn detach(mut self) -> Vec<Read> {
        fuse::kill(self.0.id(), Signal::INT);
        self.0.wait().expect("our own child");
        tools::text_of(&self.1)
            .lines()
            .filter_map(read_of)
            .collect()
    }
}

/// `1234 read(5, "\x38\x00..."..., 16842752) = 56`, or the same resumed.
fn read_of(line: &str) -> Option<Read> {
    let (text, rest) = line.split_once('"')?.1.split_once('"')?;
    let length: u32 = rest.rsplit_once(" = ")?.1.trim().parse().ok()?;
    let bytes: Option<Vec<u8>> = text
        .split("\\x")
        .skip(1)
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    let bytes = bytes?;
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    // fuse_in_header begins with the length of the request, and has 40 bytes; fuse_getxattr_in has 8.
    let opcode = word(4).filter(|_| length >= 40 && word(0) == Some(length))?;
    let name = bytes.get(48..).unwrap_or_default();
    Some(Read {
        opcode,
        is_question: opcode == 22 && name.starts_with(b"system.mmfs."),
    })
}

// ---- a source that does not answer

#[test]
#[ignore = "no test: the process that `Faulty::mount` starts"]
fn stopped_server() {
    faulty::serve_if_asked();
}

/// (proves: S54)
#[test]
fn questions_are_answered_while_the_source_does_not_answer() {
    const READERS: u64 = 64;
    for mode in [
        &[][..],
        &["--direct-io"],
        &["--threads", "1"],
        &["--threads", "2"],
    ] {
        let source = Faulty::mount("stopped_server");
        let mount = Mount::builder()
            .over(source.path())
            .options(mode.iter().copied())
            .expect_log("reply")
            .mount();
        let open = |n: u64| {
            let name = format!("good{}", n % 8);
            File::open(mount.mnt().join(name)).expect("a file")
        };
        let files: Vec<File> = (0..READERS).map(open).collect();
        source.stop();
        let readers: Vec<_> = files
            .into_iter()
            .zip(0..)
            .map(|(file, n)| {
                thread::spawn(move || file.read_at(&mut [0; 4096], (n / 8) << 17).is_ok())
            })
            .collect();
        let mut longest = Duration::ZERO;
        let waiting = mount.within(Duration::from_secs(30), || {
            let hang = |status: &Status| status.waiting.requests >= READERS / 2;
            assert!(
                tools::wait_until(Duration::from_secs(10), || hang(&status(&mount))),
                "{mode:?}: {:?}",
                status(&mount).waiting
            );
            for _ in 0..20 {
                let began = Instant::now();
                let status = status(&mount);
                longest = longest.max(began.elapsed());
                assert!(hang(&status), "{mode:?}: {:?}", status.waiting);
                thread::sleep(Duration::from_millis(20));
            }
            let waiting: Trace = asked(mount.mnt(), Question::Waiting).expect("an answer");
            waiting.requests
        });
        eprintln!("{mode:?}: answered within {longest:?}");
        // 100 ms on a machine that has a processor left.
        assert!(longest < Duration::from_secs(2), "{mode:?}: {longest:?}");
        assert!(waiting.iter().any(|one| one.kind == "read"), "{waiting:?}");
        assert!(
            waiting
                .windows(2)
                .all(|two| two[0].took_us >= two[1].took_us)
        );
        source.cut();
        readers
            .into_iter()
            .for_each(|reader| _ = reader.join().expect("a reader"));
        let none = || status(&mount).waiting.requests == 0;
        assert!(tools::wait_until(Duration::from_secs(10), none), "{mode:?}");
    }
}

/// Ten seconds after a request came that is not answered, the log has it, and the requests before it; once.
/// (proves: S54)
#[test]
fn what_does_not_answer_for_ten_seconds_is_written_to_the_log() {
    let source = Faulty::mount("stopped_server");
    let mount = Mount::builder()
        .over(source.path())
        .expect_log("reply")
        .mount();
    let file = File::open(mount.mnt().join("good0")).expect("a file");
    source.stop();
    let reader = thread::spawn(move || file.read_at(&mut [0; 4096], 0).is_ok());
    let lines = |what: &str| {
        let log = mount.log();
        let lines = log.lines().filter(|line| line.contains(what));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let told = || !lines("waiting:").is_empty();
    assert!(
        tools::wait_until(Duration::from_secs(60), told),
        "{}",
        mount.log()
    );
    assert!(lines("waiting:")[0].contains(" read node"));
    assert!(lines("trace:").iter().any(|line| line.contains(" open ")));
    thread::sleep(Duration::from_secs(5));
    assert_eq!(lines("requests are not answered").len(), 1);
    source.cut();
    reader.join().expect("a reader");
    let answered = || !lines("are answered now").is_empty();
    assert!(tools::wait_until(Duration::from_secs(30), answered));
}

/// The kernel counts as many requests that wait as the mount does.
#[test]
fn as_root_what_waits_is_what_the_kernel_waits_for() {
    let source = Faulty::mount("stopped_server");
    let mount = Mount::builder()
        .over(source.path())
        .expect_log("reply")
        .mount();
    let fusectl = mount.scratch().join("fusectl");
    fs::create_dir(&fusectl).expect("a directory");
    tools::run(
        Command::new("mount")
            .args(["-t", "fusectl", "none"])
            .arg(&fusectl),
    );
    let minor = mount.info().expect("a mount").minor;
    let of_kernel = || {
        let text = tools::text_of(&fusectl.join(minor.to_string()).join("waiting"));
        text.trim().parse::<u64>().expect("a number")
    };
    let files: Vec<File> = (0..8)
        .map(|n| File::open(mount.mnt().join(format!("good{n}"))).expect("a file"))
        .collect();
    source.stop();
    let readers: Vec<_> = files
        .into_iter()
        .map(|file| thread::spawn(move || file.read_at(&mut [0; 4096], 0).is_ok()))
        .collect();
    let same = || {
        let ours = status(&mount).waiting.requests;
        ours >= 8 && ours == of_kernel()
    };
    let agreed = tools::wait_until(Duration::from_secs(10), same);
    let last = (status(&mount).waiting, of_kernel());
    source.cut();
    readers
        .into_iter()
        .for_each(|reader| _ = reader.join().expect("a reader"));
    tools::unmount_idle(&fusectl).expect("umount");
    assert!(agreed, "{last:?}");
}

// ---- who may ask, and what

/// (proves: S54)
#[test]
fn as_root_only_root_and_the_mounting_user_are_answered() {
    user::let_users_mount();
    let (owner, other) = (user::ordinary(), 4242);
    for sharing in [&[][..], &["--allow-other"], &["--allow-root"]] {
        let mount = Mount::builder()
            .as_user(owner)
            .options(sharing.iter().copied())
            .mount();
        let status = status(&mount);
        assert_eq!((status.uid, status.pid), (owner, mount.daemon_pid()));
        let answer = |uid| thread_as(uid, mount.mnt(), "system.mmfs.1.status").map(|_| ());
        assert_eq!(answer(owner), Ok(()), "{sharing:?}");
        assert_eq!(answer(0), Ok(()), "{sharing:?}");
        let refused = answer(other).expect_err("a stranger");
        assert!([Errno::PERM, Errno::ACCESS].contains(&refused), "{refused}");
        for name in [
            "system.mmfs.1.trace.0",
            "system.mmfs.1.waiting",
            "system.mmfs.9.x",
        ] {
            let refused = thread_as(other, mount.mnt(), name).expect_err("a stranger");
            assert!([Errno::PERM, Errno::ACCESS].contains(&refused), "{refused}");
        }
    }
    let mount = Mount::builder().option("--allow-other").mount();
    assert_eq!(
        thread_as(other, mount.mnt(), "system.mmfs.1.status"),
        Err(Errno::PERM)
    );
}

/// Asks on a thread that has become this user.
fn thread_as(uid: u32, path: &Path, name: &str) -> Result<usize, Errno> {
    let (path, name) = (path.to_owned(), name.to_owned());
    let ask = move || {
        let (user, group) = (
            rustix::process::Uid::from_raw(uid),
            rustix::process::Gid::from_raw(uid),
        );
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
        get(&path, name.as_bytes(), 1 << 16)
    };
    thread::spawn(ask).join().expect("no panic")
}

fn get(path: &Path, name: &[u8], room: usize) -> Result<usize, Errno> {
    rustix::fs::getxattr(path, OsStr::from_bytes(name), &mut vec![0; room][..])
}

/// (proves: S54)
#[test]
fn hostile_names_get_an_errno_and_no_name_reaches_the_source() {
    let mount = Mount::new();
    let root = mount.mnt();
    let mut long = b"system.mmfs.1.".to_vec();
    long.resize(255, b'x');
    for (name, errno) in [
        (&b"system.mmfs."[..], Errno::OPNOTSUPP),
        (b"system.mmfs.1", Errno::OPNOTSUPP),
        (b"system.mmfs.2.status", Errno::OPNOTSUPP),
        (b"system.mmfs.1.\xff\xfe\x1b[2J", Errno::OPNOTSUPP),
        (b"system.mmfs.1.trace.-1", Errno::INVAL),
        (b"system.mmfs.1.trace.99999999999999999999", Errno::INVAL),
        (b"system.mmfs.1.status.status", Errno::INVAL),
        (&long, Errno::OPNOTSUPP),
    ] {
        assert_eq!(get(root, name, 1 << 16), Err(errno), "{name:?}");
    }
    let name = Question::Status.name();
    let length = rustix::fs::getxattr_query(root, name.as_str()).expect("a length");
    assert!(length > 1000, "{length}");
    // What is asked for meanwhile makes the answer longer.
    fs::create_dir(root.join("made")).expect("a directory");
    fs::rename(root.join("made"), root.join("moved")).expect("a rename");
    fs::remove_dir(root.join("moved")).expect("no directory");
    assert!(get(root, name.as_bytes(), length).is_ok());
    assert_eq!(get(root, name.as_bytes(), 1), Err(Errno::RANGE));
    // Fewer requests where there is less room for them.
    (0..200).for_each(|n| assert!(fs::metadata(root.join(format!("missing{n}"))).is_err()));
    let trace = Question::Trace(0).name();
    assert!(get(root, trace.as_bytes(), 2000).expect("an answer") <= 2000);
    // Not even for one: an empty list would say that there are no more.
    assert_eq!(get(root, trace.as_bytes(), 100), Err(Errno::RANGE));
    // A file may be what is mounted elsewhere.
    let file = root.join("file");
    File::create(&file).expect("a file");
    assert!(get(&file, name.as_bytes(), 1 << 16).is_ok());
    let other = b"system.mmfs.other";
    assert_eq!(get(&file, other, 1 << 16), Err(Errno::OPNOTSUPP));
    for name in ["system.mmfs.1.status", "system.mmfs.anything"] {
        for path in [root.to_owned(), root.join("file")] {
            let none = XattrFlags::empty();
            let set = rustix::fs::setxattr(&path, name, b"x", none);
            assert_eq!(set, Err(Errno::PERM), "{path:?}");
            let removed = rustix::fs::removexattr(&path, name);
            assert_eq!(removed, Err(Errno::PERM), "{path:?}");
        }
    }
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::listxattr(root, &mut names[..]).expect("a list");
    assert!(!names[..length].windows(4).any(|four| four == b"mmfs"));
}

// ---- what it says

/// (proves: S54)
#[test]
fn a_mount_says_how_it_is_meant_and_what_it_uses() {
    let mount = Mount::builder()
        .options([
            "--threads",
            "3",
            "--attr-timeout",
            "0.5",
            "--map-budget",
            "1G",
        ])
        .mount();
    let first = status(&mount);
    assert_eq!(first.protocol, 1);
    assert_eq!(first.pid, mount.daemon_pid());
    assert_eq!(first.source.path.path().as_deref(), Some(mount.src()));
    assert_eq!(first.mount_point.path().as_deref(), Some(mount.mnt()));
    let (options, usage) = (&first.options, &first.usage);
    assert_eq!((options.threads, options.attr_timeout), (3, 0.5));
    assert_eq!(options.map_budget, Some(1 << 30));
    assert_eq!(usage.view.mapped.limit, 1 << 30);
    assert!(usage.page_tables > 0 && usage.resident > 0);
    for name in ["passthrough", "clone", "handles", "read-ahead"] {
        let found = first.kernel.features.iter().find(|one| one.name == name);
        let found = found.unwrap_or_else(|| panic!("{name}"));
        assert!(found.in_use || !found.note.is_empty(), "{found:?}");
    }
    let write = |n: u32| fs::write(mount.mnt().join(format!("file{n}")), vec![b'x'; 1 << 20]);
    (0..10).for_each(|n| write(n).expect("written"));
    let open = |n: u32| File::open(mount.mnt().join(format!("file{n}"))).expect("a file");
    let files: Vec<File> = (0..10).map(open).collect();
    for file in &files {
        file.read_at(&mut vec![0; 1 << 20], 0).expect("read");
    }
    let listing = fs::read_dir(mount.mnt()).expect("a directory");
    let inodes = || status(&mount).usage;
    let many = tools::wait_until(Duration::from_secs(5), || {
        let usage = inodes();
        // What was written is closed by and by.
        usage.open_files == 10 && usage.open_directories == 1 && usage.known_nodes == 11
    });
    assert!(many, "{:?}", inodes());
    let passes = std::env::var("MMFS_TEST_OPTIONS").is_ok_and(|all| all.contains("passthrough"));
    let mapped = inodes().view;
    assert!(
        passes || (mapped.windows.used >= 1 && mapped.mapped.used >= 1 << 20),
        "{mapped:?}"
    );
    assert!(mapped.file_descriptors.used >= 10, "{mapped:?}");
    drop((files, listing));
    let none = || {
        let usage = inodes();
        usage.open_files == 0 && usage.open_directories == 0 && usage.view.windows.used == 0
    };
    assert!(
        tools::wait_until(Duration::from_secs(5), none),
        "{:?}",
        inodes()
    );
}

/// (proves: S54)
#[test]
fn the_last_requests_are_told_in_order_page_by_page() {
    let mount = Mount::new();
    const LAST: u64 = 4096;
    let missing = |n: u64| fs::metadata(mount.mnt().join(format!("missing{n}"))).is_err();
    assert!((0..LAST + 500).all(missing));
    let (mut from, mut numbers, mut pages) = (0, Vec::new(), 0);
    loop {
        let page = trace(&mount, from);
        assert!(page.next >= from);
        if page.requests.is_empty() {
            break;
        }
        for one in &page.requests {
            numbers.push(one.number);
            if one.kind == "lookup" {
                assert_eq!((one.node, one.errno), (1, libc::ENOENT), "{one:?}");
            }
        }
        (from, pages) = (page.next, pages + 1);
    }
    assert!(pages > 1, "{pages}");
    assert!(
        numbers.windows(2).all(|two| two[0] + 1 == two[1]),
        "in order"
    );
    assert!(numbers.len() as u64 <= LAST + 100 && numbers.len() as u64 >= LAST - 100);
    let before = from;
    fs::write(mount.mnt().join("file"), [b'x'; 5000]).expect("written");
    let written = || {
        let page = trace(&mount, before);
        let is_it = |one: &mmfs::report::Request| one.kind == "write" && one.length >= 4096;
        page.requests.iter().any(is_it)
    };
    let passes = std::env::var("MMFS_TEST_OPTIONS").is_ok_and(|all| all.contains("passthrough"));
    assert!(passes || tools::wait_until(Duration::from_secs(5), written));
}

/// docs/status.md names every field.
#[test]
fn every_field_is_described() {
    let mount = Mount::new();
    let _ = fs::metadata(mount.mnt().join("missing"));
    let trace = trace(&mount, 0);
    assert!(!trace.requests.is_empty());
    let answers = [
        serde_json::to_value(status(&mount)).expect("JSON"),
        serde_json::to_value(trace).expect("JSON"),
    ];
    let mut fields = std::collections::BTreeSet::new();
    answers
        .iter()
        .for_each(|answer| collect(answer, &mut fields));
    let text = include_str!("../docs/status.md");
    for field in fields {
        assert!(text.contains(&format!("`{field}`")), "{field}");
    }
}

fn collect(value: &serde_json::Value, fields: &mut std::collections::BTreeSet<String>) {
    if let Some(object) = value.as_object() {
        fields.extend(object.keys().cloned());
    }
    let inner = value
        .as_object()
        .into_iter()
        .flat_map(|object| object.values());
    inner
        .chain(value.as_array().into_iter().flatten())
        .for_each(|one| collect(one, fields));
}
