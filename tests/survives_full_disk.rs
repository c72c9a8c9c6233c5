//! Rule 2: the disk is full. On small ext4, xfs and btrfs filesystems every operation that needs space fails as it
//! does without the mount, the bytes before the error are there, and after space is freed everything works.

mod common;
mod survive;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::subject::is_in_mode;
use common::{LoopFs, Mount, tools, user};
use rustix::fs::{CWD, FallocateFlags, FileType, Mode, XattrFlags};
use survive::{Figures, Rng, daemon, pattern};

const PIECE: usize = 64 << 10;
const FULL: [i32; 1] = [libc::ENOSPC];

/// (proves: S40)
#[test]
fn a_full_disk_is_survived() {
    let (figures, mut rng) = (Figures::of("survives_full_disk"), Rng::new());
    for (kind, size) in [("ext4", 48 << 20), ("xfs", 320 << 20), ("btrfs", 128 << 20)] {
        for options in [
            &["--allow-other"][..],
            &["--allow-other", "--write-path", "region"],
            &["--allow-other", "--direct-io"],
        ] {
            let disk = LoopFs::new(kind, size);
            let mount = Mount::builder()
                .over(disk.path())
                .options(options.iter().copied())
                .mount();
            let what = format!("{kind} {}", options[1..].join(" "));
            mount.within(Duration::from_secs(60), || {
                fill_and_free(&mount, &what, &figures, &mut rng)
            });
            ended(&mount, &what, &figures);
        }
    }
    figures.finish();
}

fn ended(mount: &Mount, what: &str, figures: &Figures) {
    match daemon::lives(mount.daemon_pid()) {
        true => figures.expect(
            what,
            daemon::held_files(mount.daemon_pid(), mount.src()),
            Vec::new(),
        ),
        false => figures.exit(),
    }
}

fn fill_and_free(mount: &Mount, what: &str, figures: &Figures, rng: &mut Rng) {
    let (mnt, src) = (mount.mnt(), mount.src());
    let holes = File::create_new(mnt.join("holes")).expect("create");
    holes.set_len(64 << 20).expect("truncate");
    let old = File::create_new(mnt.join("old")).expect("create");
    let first = pattern::tag(1);
    old.write_all_at(&pattern::bytes(first, 0, 1 << 20), 0)
        .expect("write");
    old.sync_all().expect("fsync");
    fill(mnt, src, what, figures);
    write_into_holes(&holes, &src.join("holes"), what, figures, rng);
    overwrite(&old, &src.join("old"), what, figures, rng);
    make_things(mnt, what, figures);
    // Space comes back.
    figures.outcome(
        "unlink the ballast",
        &[],
        fs::remove_file(mnt.join("ballast")),
    );
    let freed = tools::wait_until(Duration::from_secs(5), || {
        tools::output_of(Command::new("sync").arg("-f").arg(src));
        rustix::fs::statvfs(src).is_ok_and(|s| s.f_bavail * s.f_frsize > 4 << 20)
    });
    figures.expect(&format!("{what}: space after the unlink"), freed, true);
    works_again(&holes, mnt, src, what, figures);
}

/// Fills the disk through the mount: what was acknowledged is there, the error is ENOSPC.
fn fill(mnt: &Path, src: &Path, what: &str, figures: &Figures) {
    let ballast = File::create_new(mnt.join("ballast")).expect("create");
    let tag = pattern::tag(2);
    let mut size: u64 = 0;
    loop {
        let bytes = pattern::bytes(tag, size, PIECE);
        match figures.outcome(
            &format!("{what}: extend"),
            &FULL,
            ballast.write_at(&bytes, size),
        ) {
            Some(0) | None => break,
            Some(n) => size += n as u64,
        }
    }
    figures.fault();
    // Down to the last block.
    while let Ok(n @ 1..) = ballast.write_at(&pattern::bytes(tag, size, 4096), size) {
        size += n as u64;
    }
    let held = fs::read(src.join("ballast")).expect("the source is readable");
    figures.expect(
        &format!("{what}: length of the ballast"),
        held.len() as u64,
        size,
    );
    figures.expect(
        &format!("{what}: ballast"),
        held == pattern::bytes(tag, 0, size as usize),
        true,
    );
    let synced = ballast.sync_all();
    // btrfs may find out as late as this.
    figures.outcome(&format!("{what}: fsync"), &FULL, synced);
}

/// Every write into a hole either is there or says ENOSPC, and then nothing but holes and its own bytes are there.
fn write_into_holes(holes: &File, src: &Path, what: &str, figures: &Figures, rng: &mut Rng) {
    let tag = pattern::tag(3);
    let mut refused = 0;
    for _ in 0..200 {
        let (at, len) = (rng.below(60 << 20) & !7, 8 * (1 + rng.below(8192) as usize));
        let bytes = pattern::bytes(tag, at, len);
        if let Some(n) = figures.outcome(
            &format!("{what}: into a hole"),
            &FULL,
            holes.write_at(&bytes, at),
        ) {
            let mut held = vec![0; n];
            File::open(src)
                .and_then(|f| f.read_exact_at(&mut held, at))
                .expect("the source is readable");
            figures.expect(
                &format!("{what}: bytes written into a hole"),
                held == bytes[..n],
                true,
            );
        } else {
            refused += 1;
        }
    }
    figures.expect(
        &format!("{what}: some writes into holes are refused"),
        refused > 0,
        true,
    );
    let reserved = rustix::fs::fallocate(holes, FallocateFlags::KEEP_SIZE, 0, 60 << 20);
    figures.outcome(
        &format!("{what}: fallocate"),
        &FULL,
        reserved.map_err(io::Error::from),
    );
}

/// In place: always possible but on btrfs, which writes elsewhere.
fn overwrite(old: &File, src: &Path, what: &str, figures: &Figures, rng: &mut Rng) {
    let tag = pattern::tag(1);
    let allowed = if what.starts_with("btrfs") {
        &FULL[..]
    } else {
        &[]
    };
    for _ in 0..50 {
        let (at, len) = (rng.below(1 << 19) & !7, 8 * (1 + rng.below(4096) as usize));
        figures.outcome(
            &format!("{what}: overwrite"),
            allowed,
            old.write_all_at(&pattern::bytes(tag, at, len), at),
        );
    }
    let synced = old.sync_all();
    figures.outcome(&format!("{what}: fsync of overwrites"), allowed, synced);
    let held = fs::read(src).expect("the source is readable");
    figures.expect(
        &format!("{what}: overwritten bytes"),
        held == pattern::bytes(tag, 0, 1 << 20),
        true,
    );
}

/// Names and attributes need space, too: each works natively now or fails the same way.
fn make_things(mnt: &Path, what: &str, figures: &Figures) {
    let mut refused = false;
    for n in 0..3000 {
        let path = mnt.join(format!("{n}-{}", "x".repeat(200)));
        let made = rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0);
        let made = figures.outcome(
            &format!("{what}: mknod"),
            &FULL,
            made.map_err(io::Error::from),
        );
        refused |= made.is_none();
        let value = vec![b'v'; 3000];
        let set = rustix::fs::setxattr(
            mnt.join("old"),
            format!("user.{n}"),
            &value,
            XattrFlags::empty(),
        );
        // A single inode has its own bound on ext4 (ENOSPC) and btrfs; xfs goes on until the disk is full.
        figures.outcome(
            &format!("{what}: setxattr"),
            &FULL,
            set.map_err(io::Error::from),
        );
        if refused {
            break;
        }
    }
}

fn works_again(holes: &File, mnt: &Path, src: &Path, what: &str, figures: &Figures) {
    let bytes = pattern::bytes(pattern::tag(3), 1 << 20, PIECE);
    figures.outcome(
        &format!("{what}: into a hole again"),
        &[],
        holes.write_all_at(&bytes, 1 << 20),
    );
    figures.outcome(&format!("{what}: fsync again"), &[], holes.sync_all());
    figures.outcome(
        &format!("{what}: create again"),
        &[],
        fs::write(mnt.join("again"), &bytes),
    );
    figures.expect(
        what,
        fs::read(src.join("again")).is_ok_and(|held| held == bytes),
        true,
    );
}

/// Beyond the daemon's own RLIMIT_FSIZE: EFBIG for the client, and SIGXFSZ ends no process.
/// (proves: S40)
#[test]
fn a_file_size_limit_is_survived() {
    if is_in_mode(
        "--passthrough",
        "the kernel writes under the client's limit",
    ) {
        return;
    }
    let figures = Figures::of("survives_full_disk: file size");
    let mount = Mount::builder().rlimit("fsize", 1 << 20).mount();
    mount.within(Duration::from_secs(20), || {
        let file = File::create_new(mount.mnt().join("file")).expect("create");
        figures.outcome("below the limit", &[], file.write_all_at(&[1; 4096], 0));
        for at in [1 << 20, 4 << 20] {
            figures.fault();
            let outcome = figures.outcome(
                "beyond the limit",
                &[libc::EFBIG],
                file.write_at(&[1; 4096], at),
            );
            figures.expect("a write beyond the limit", outcome, None);
        }
        let across = figures.outcome(
            "across the limit",
            &[],
            file.write_at(&[2; 8192], (1 << 20) - 4096),
        );
        figures.expect("bytes before the limit", across, Some(4096));
        let grown = figures.outcome(
            "truncate beyond the limit",
            &[libc::EFBIG],
            file.set_len(2 << 20),
        );
        figures.expect("truncate beyond the limit", grown, None);
    });
    ended(&mount, "RLIMIT_FSIZE", &figures);
    drop(mount);
    figures.finish();
}

/// A quota is met as it is without the mount: EDQUOT, with the bytes before it there.
///
/// btrfs has its quotas in every kernel that has btrfs; those of ext4 and xfs are often left out.
/// (proves: S40)
#[test]
fn a_quota_is_met_as_a_quota() {
    let figures = Figures::of("survives_full_disk: quota");
    let disk = LoopFs::new("btrfs", 256 << 20);
    tools::sh(
        r#"btrfs quota enable "$1"; btrfs qgroup limit 8M "$1""#,
        &[disk.path().as_ref()],
    );
    for options in [
        &["--allow-other"][..],
        &["--allow-other", "--write-path", "region"],
    ] {
        let mount = Mount::builder()
            .over(disk.path())
            .options(options.iter().copied())
            .mount();
        mount.within(Duration::from_secs(30), || {
            up_to_the_quota(&mount, &figures)
        });
        ended(&mount, "quota", &figures);
    }
    figures.finish();
}

fn up_to_the_quota(mount: &Mount, figures: &Figures) {
    let path = mount.mnt().join("file");
    let (file, mut size) = (File::create_new(&path).expect("create"), 0);
    let tag = pattern::tag(9);
    file.set_len(64 << 20).expect("truncate");
    while let Some(n) = figures.outcome(
        "up to the quota",
        &[libc::EDQUOT],
        file.write_at(&pattern::bytes(tag, size, PIECE), size),
    ) {
        size += n as u64;
        if size > 16 << 20 {
            break;
        }
    }
    figures.fault();
    figures.expect("bytes within a quota of 8 MiB", size <= 8 << 20, true);
    let held = fs::read(mount.src().join("file")).expect("the source is readable");
    figures.expect(
        "bytes before the quota",
        held[..size as usize] == pattern::bytes(tag, 0, size as usize),
        true,
    );
    figures.outcome("unlink", &[], fs::remove_file(&path));
    drop(file);
    // btrfs gives a quota's blocks back with the commit after the file's last close, of which close(2) on a mount
    // does not wait for the daemon's.
    let small = mount.mnt().join("small");
    let again = tools::wait_until(Duration::from_secs(10), || {
        tools::run(Command::new("sync").arg("-f").arg(mount.src()));
        fs::write(&small, [1; 4096]).is_ok()
    });
    figures.expect("within the quota again", again, true);
}

/// The blocks that ext4 keeps for root: a user meets ENOSPC where root does not.
/// (proves: S40)
#[test]
fn reserved_blocks_are_roots() {
    let figures = Figures::of("survives_full_disk: reserved blocks");
    let disk = LoopFs::with_options("ext4", 48 << 20, &["-m", "20"], "loop");
    let uid = user::ordinary();
    user::give_to(uid, disk.path());
    let mount = Mount::builder()
        .over(disk.path())
        .options(["--allow-other"])
        .mount();
    mount.within(Duration::from_secs(30), || {
        let path = mount.mnt().join("users");
        let output = tools::output_of(
            user::as_user(uid, "dd")
                .args(["if=/dev/zero", "bs=64k"])
                .arg(format!("of={}", path.display())),
        );
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        figures.expect(
            "a user on a full disk",
            text.contains("No space left"),
            true,
        );
        figures.fault();
        let left = rustix::fs::statvfs(disk.path()).expect("statvfs");
        figures.expect(
            "blocks left for root",
            left.f_bfree * left.f_frsize > 4 << 20,
            true,
        );
        let root = fs::write(mount.mnt().join("roots"), vec![b'r'; 2 << 20]);
        figures.outcome("root", &[], root);
    });
    ended(&mount, "reserved blocks", &figures);
    drop(mount);
    figures.finish();
}

/// Linking and renaming make no inode, but they may make a directory grow. Reserved blocks go into it for root's names and
/// for no other user's, whichever user the daemon's threads served last.
/// (proves: S40)
#[test]
fn as_root_names_take_reserved_blocks_for_root_only() {
    let mkfs = ["-m", "20", "-b", "1024"];
    let disk = LoopFs::with_options("ext4", 16 << 20, &mkfs, "loop");
    let mount = Mount::over(disk.path(), ["--allow-other", "--threads", "1"]);
    let long = "n".repeat(240);
    let make = |n: u32| {
        let (link, name) = (format!("links/{n}-{long}"), format!("names/{n}-{long}"));
        [format!("ln file {link}"), format!("mv -n file-{n} {name}")]
    };
    mount.within(Duration::from_secs(60), || {
        let prepare = "chmod 777 .; mkdir -m 777 links names; : > file; chmod 666 file
            for n in $(seq 0 23); do ln file file-$n; done";
        assert!(does(0, &mount, prepare));
        let user = user::ordinary();
        let fill = "dd if=/dev/zero of=large bs=64k || dd if=/dev/zero of=small bs=1k";
        assert!(!does(user, &mount, fill), "the disk is full");
        let mut refused = [0; 2];
        for n in 0..12 {
            for (what, refused) in make(n).iter().zip(&mut refused) {
                does(0, &mount, "chmod 666 file");
                *refused += u32::from(!does(user, &mount, what));
            }
        }
        // Four names fill a block.
        assert!(
            refused.iter().all(|&n| n > 0),
            "a user's links and names refused: {refused:?}"
        );
        for n in 12..24 {
            for what in make(n) {
                does(user, &mount, "chmod 600 small");
                assert!(does(0, &mount, &what), "root's {what}");
            }
        }
    });
}

/// Whether a user's shell does it in the mount's root.
fn does(uid: u32, mount: &Mount, what: &str) -> bool {
    let mut shell = user::as_user(uid, "sh");
    let shell = shell.args(["-ec", what]).current_dir(mount.mnt());
    tools::output_of(shell).status.success()
}
