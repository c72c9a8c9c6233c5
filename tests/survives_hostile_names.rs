//! Rule 8: names are hostile. While directories and symbolic links trade places in the source, no walk through the
//! mount reaches anything outside of it; odd names come through unchanged; FIFOs, sockets and devices block no request.

mod common;
mod survive;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use common::{Mount, tools};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev};
use survive::{Figures, Rng, daemon, length};

const SECRET: &str = "from outside";
const INSIDE: &str = "from inside";
/// What a walk may meet while what it walks is replaced.
const ALLOWED: [i32; 6] = [
    libc::ENOENT,
    libc::ESTALE,
    libc::ENOTDIR,
    libc::ELOOP,
    libc::EIO,
    libc::EEXIST,
];

fn ended(mount: &Mount, figures: &Figures) {
    match daemon::lives(mount.daemon_pid()) {
        true => figures.expect(
            "held",
            daemon::held_files(mount.daemon_pid(), mount.src()),
            Vec::new(),
        ),
        false => figures.exit(),
    }
}

/// (proves: S47)
#[test]
fn no_race_leads_out_of_the_source() {
    let (figures, mut rng) = (Figures::of("survives_hostile_names: races"), Rng::new());
    let outside = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(outside.path().join("a/b")).expect("mkdir");
    fs::write(outside.path().join("a/b/file"), SECRET).expect("write");
    let mount = Mount::builder()
        .options([
            "--allow-other",
            "--entry-timeout",
            "0",
            "--attr-timeout",
            "0",
        ])
        .mount();
    let src = mount.src();
    for n in 0..4 {
        fs::create_dir_all(src.join(format!("{n}/a/b"))).expect("mkdir");
        fs::write(src.join(format!("{n}/a/b/file")), INSIDE).expect("write");
        // Links as a client must never see them followed by the daemon: absolute and upwards.
        symlink(outside.path().join("a"), src.join(format!("{n}/link"))).expect("symlink");
        symlink("../../..", src.join(format!("{n}/up"))).expect("symlink");
    }
    let stop = AtomicBool::new(false);
    mount.within(length(8) + Duration::from_secs(30), || {
        thread::scope(|scope| {
            let seeds = [rng.fork(), rng.fork(), rng.fork(), rng.fork()];
            let [first, second, third, fourth] = seeds;
            let (stop, figures, mount) = (&stop, &figures, &mount);
            scope.spawn(move || trade_places(mount.src(), first, stop, figures));
            for seed in [second, third] {
                scope.spawn(move || walk(mount.mnt(), seed, stop, figures));
            }
            scope.spawn(move || create_and_remove(mount.mnt(), fourth, stop, figures));
            thread::sleep(length(8));
            stop.store(true, Relaxed);
        });
    });
    let outside_now = fs::read_to_string(outside.path().join("a/b/file"));
    figures.expect(
        "what lies outside",
        outside_now.ok().as_deref(),
        Some(SECRET),
    );
    let left = fs::read_dir(outside.path().join("a/b"))
        .expect("readdir")
        .count();
    figures.expect("names outside", left, 1);
    ended(&mount, &figures);
    drop(mount);
    figures.finish();
}

/// `a` is a directory, then a link to the outside, then a directory again, by rename(2) alone.
fn trade_places(src: &Path, mut rng: Rng, stop: &AtomicBool, figures: &Figures) {
    while !stop.load(Relaxed) {
        let place = src.join(rng.below(4).to_string());
        let swap = rustix::fs::renameat_with(
            CWD,
            place.join("a"),
            CWD,
            place.join("link"),
            RenameFlags::EXCHANGE,
        );
        swap.expect("an exchange");
        let move_away = rng.below(8) == 0;
        if move_away {
            let (here, there) = (place.join("a"), src.join("elsewhere"));
            // Empty for a moment.
            fs::rename(&here, &there)
                .and_then(|()| fs::rename(&there, &here))
                .expect("rename");
        }
        figures.fault();
    }
}

/// As a client that follows nothing: everything it reads was inside. (A link the client's own kernel follows is
/// the client's business.)
fn walk(mnt: &Path, mut rng: Rng, stop: &AtomicBool, figures: &Figures) {
    while !stop.load(Relaxed) {
        let place = format!(
            "{}/{}/b/file",
            rng.below(4),
            ["a", "link"][rng.below(2) as usize]
        );
        match open_beneath(mnt, Path::new(&place)).and_then(io::read_to_string) {
            Ok(text) => figures.expect("a walk that follows nothing read", text.as_str(), INSIDE),
            Err(error) => {
                figures.outcome::<()>("walk", &ALLOWED, Err(error));
            }
        }
        figures.operation();
    }
}

fn open_beneath(mnt: &Path, path: &Path) -> io::Result<File> {
    use rustix::fs::{OFlags, ResolveFlags, openat2};
    let root = File::open(mnt)?;
    let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    Ok(openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
        how,
    )?
    .into())
}

/// Directory descriptors of the mount stay directories of the mount, whatever becomes of their names.
fn create_and_remove(mnt: &Path, mut rng: Rng, stop: &AtomicBool, figures: &Figures) {
    use rustix::fs::{AtFlags, OFlags, openat, unlinkat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    while !stop.load(Relaxed) {
        let place = mnt.join(rng.below(4).to_string());
        let outcome = (|| {
            let a = openat(
                CWD,
                place.join(["a", "link"][rng.below(2) as usize]),
                flags,
                Mode::empty(),
            )?;
            let b = openat(&a, "b", flags, Mode::empty())?;
            let name = format!("new{}", rng.below(8));
            openat(
                &b,
                &name,
                OFlags::CREATE | OFlags::WRONLY | OFlags::EXCL | OFlags::CLOEXEC,
                Mode::from_raw_mode(0o600),
            )?;
            unlinkat(&b, &name, AtFlags::empty())
        })();
        figures.outcome(
            "create and remove",
            &ALLOWED,
            outcome.map_err(io::Error::from),
        );
    }
}

#[test]
fn odd_names_come_through_unchanged() {
    let figures = Figures::of("survives_hostile_names: odd names");
    let mount = Mount::new();
    let names: Vec<OsString> = odd_names();
    mount.within(Duration::from_secs(20), || {
        for name in &names {
            let (through, native) = (mount.mnt().join(name), mount.src().join(name));
            figures.outcome("create", &[], fs::write(&through, name.as_bytes()));
            let held = figures.outcome("read", &[], fs::read(&native));
            figures.expect("bytes", held.as_deref(), Some(name.as_bytes()));
        }
        let listed = fs::read_dir(mount.mnt())
            .expect("readdir")
            .filter_map(Result::ok)
            .map(|e| e.file_name());
        let mut listed: Vec<_> = listed.collect();
        let mut wanted = names.clone();
        listed.sort();
        wanted.sort();
        figures.expect("names listed", listed == wanted, true);
        let too_long = mount.mnt().join("x".repeat(256));
        let outcome = File::create(too_long)
            .map(drop)
            .map_err(|e| e.raw_os_error());
        figures.expect("a name too long", outcome, Err(Some(libc::ENAMETOOLONG)));
    });
    ended(&mount, &figures);
    drop(mount);
    figures.finish();
}

fn odd_names() -> Vec<OsString> {
    let mut names: Vec<Vec<u8>> = (1..=255_u8)
        .filter(|b| *b != b'/' && *b != b'.')
        .map(|b| vec![b])
        .collect();
    names.extend([
        b"...".to_vec(),
        b".. ".to_vec(),
        b"-rf".to_vec(),
        b"a\nb".to_vec(),
        vec![0xff; 255],
        vec![b'x'; 255],
    ]);
    names.extend(
        [
            "\u{202e}txt.exe",
            "e\u{301}",
            "\u{e9}",
            "proc/self"[..4].into(),
            ".fuse_hidden0000000100000001",
        ]
        .map(|n| n.as_bytes().to_vec()),
    );
    names.into_iter().map(OsString::from_vec).collect()
}

#[test]
fn as_root_special_files_block_nobody() {
    let figures = Figures::of("survives_hostile_names: special files");
    let mount = Mount::builder()
        .options(["--allow-other", "-o", "dev"])
        .mount();
    let src = mount.src();
    rustix::fs::mknodat(
        CWD,
        src.join("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o666),
        0,
    )
    .expect("mknod");
    rustix::fs::mknodat(
        CWD,
        src.join("null"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        makedev(1, 3),
    )
    .expect("mknod");
    // A block device that does not exist: opening it would fail or hang.
    rustix::fs::mknodat(
        CWD,
        src.join("block"),
        FileType::BlockDevice,
        Mode::from_raw_mode(0o666),
        makedev(250, 250),
    )
    .expect("mknod");
    let _socket = std::os::unix::net::UnixListener::bind(src.join("socket")).expect("bind");
    mount.within(Duration::from_secs(20), || {
        let listed = tools::output_of(Command::new("ls").arg("-lZ").arg(mount.mnt()))
            .status
            .success();
        figures.expect("ls", listed, true);
        for name in ["fifo", "null", "block", "socket"] {
            let (through, native) = (
                fs::symlink_metadata(mount.mnt().join(name)),
                fs::symlink_metadata(src.join(name)),
            );
            let (through, native) = (through.expect("stat"), native.expect("stat"));
            figures.operation();
            figures.expect(
                name,
                (through.mode(), through.rdev()),
                (native.mode(), native.rdev()),
            );
            let renamed = fs::rename(mount.mnt().join(name), mount.mnt().join("moved"));
            figures.outcome("rename", &[], renamed);
            figures.outcome(
                "chmod",
                &[],
                fs::set_permissions(
                    mount.mnt().join("moved"),
                    std::os::unix::fs::PermissionsExt::from_mode(0o600),
                ),
            );
            figures.outcome(
                "rename back",
                &[],
                fs::rename(mount.mnt().join("moved"), mount.mnt().join(name)),
            );
        }
        figures.expect(
            "a fifo",
            fs::metadata(mount.mnt().join("fifo")).is_ok_and(|m| m.file_type().is_fifo()),
            true,
        );
        figures.outcome("a device", &[], fs::write(mount.mnt().join("null"), "gone"));
        turned_into_a_fifo(&mount, &figures);
    });
    ended(&mount, &figures);
    drop(mount);
    figures.finish();
}

/// The kernel believes in a regular file where a FIFO is by now: open must not wait for its other end.
fn turned_into_a_fifo(mount: &Mount, figures: &Figures) {
    for n in 0..200 {
        let name = format!("turned{n}");
        let native = mount.src().join(&name);
        fs::write(&native, "a file").expect("write");
        figures.outcome("stat", &[], fs::metadata(mount.mnt().join(&name)));
        fs::remove_file(&native).expect("unlink");
        rustix::fs::mknodat(CWD, &native, FileType::Fifo, Mode::from_raw_mode(0o666), 0)
            .expect("mknod");
        figures.fault();
        let began = Instant::now();
        // The client's own open of a FIFO would wait, too, so it does not wait.
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
        let opened = rustix::fs::open(mount.mnt().join(&name), flags, Mode::empty());
        figures.outcome("open", &ALLOWED, opened.map_err(io::Error::from));
        let truncated = tools::output_of(
            Command::new("truncate")
                .args(["-c", "-s", "0"])
                .arg(mount.mnt().join(&name)),
        );
        let _ = truncated.status;
        figures.expect(
            "it took long",
            began.elapsed() > Duration::from_secs(2),
            false,
        );
        fs::remove_file(&native).expect("unlink");
    }
}
