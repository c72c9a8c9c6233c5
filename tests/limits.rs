//! What the limits in docs/semantics.md say of calls that the kernel does not hand on, and the ways out.

mod common;
mod stage;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use common::{Builder, LoopFs, Mount, tools};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx, syncfs};
use rustix::io::Errno;
use stage::{MIB, assert_same_bytes, noise, on, printed};

/// A mount that logs its requests.
fn logging() -> Builder {
    // The name of a capability, not an error.
    Mount::builder()
        .env("RUST_LOG", "warn,fuser=debug")
        .expect_log("FUSE_ABORT_ERROR")
}

/// The kernel's FUSE refuses to clone, to deduplicate and to map extents by itself. `cp --reflink=auto` copies all the same.
#[test]
fn clones_are_refused_by_the_kernel_and_copied_by_cp() {
    on(logging(), |stage| {
        let [from, to] = ["from", "to"].map(|name| stage.mount(name));
        let bytes = noise(MIB, 1);
        fs::write(&from, &bytes).unwrap();
        fs::write(&to, &bytes).unwrap();
        let mut refused = Command::new(stage.program("refused"));
        assert_eq!(
            printed(refused.arg(&from).arg(&to)),
            "FICLONE EOPNOTSUPP\nFICLONERANGE EOPNOTSUPP\nFIDEDUPERANGE EOPNOTSUPP\nFIEMAP EOPNOTSUPP"
        );
        assert!(
            !stage.log().contains(" IOCTL "),
            "it never reaches the daemon"
        );
        let cp = |how: &str, to: &Path| {
            let mut cp = Command::new("cp");
            tools::output_of(cp.arg(how).args([from.as_path(), to]))
        };
        assert!(!cp("--reflink=always", &to).status.success());
        let copy = stage.mount("copy");
        assert!(cp("--reflink=auto", &copy).status.success());
        assert_same_bytes("the copy", &bytes, &fs::read(stage.source("copy")).unwrap());
    });
}

/// On a filesystem that can clone, the copy is a clone in the source: the daemon's copy_file_range(2) makes one.
#[test]
fn as_root_a_copy_clones_where_the_source_can() {
    let disk = LoopFs::new("btrfs", 256 << 20);
    let mount = Mount::over(disk.path(), [] as [&str; 0]);
    let [from, to] = ["from", "to"].map(|name| mount.mnt().join(name));
    fs::write(mount.src().join("from"), noise(16 * MIB, 1)).unwrap();
    syncfs(File::open(mount.src()).unwrap()).unwrap();
    tools::run(Command::new("cp").arg("--reflink=auto").args([&from, &to]));
    let mut filefrag = Command::new("filefrag");
    let extents = printed(filefrag.arg("-v").arg(mount.src().join("to")));
    assert!(extents.contains("shared"), "{extents}");
}

#[test]
fn as_root_a_file_of_the_mount_is_no_swap_space() {
    on(logging(), |stage| {
        let [from, to] = ["from", "to"].map(|name| stage.mount(name));
        fs::write(&from, noise(MIB, 1)).unwrap();
        fs::write(&to, "").unwrap();
        fs::set_permissions(&from, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        tools::run(Command::new("mkswap").arg(&from));
        let mut refused = Command::new(stage.program("refused"));
        let said = printed(refused.arg(&from).arg(&to).arg("swap"));
        assert!(said.ends_with("swapon EINVAL"), "{said}");
        assert!(
            !stage.log().contains(" BMAP "),
            "it never reaches the daemon"
        );
    });
}

/// syncfs(2) of the mount is not handed on; that of the source's filesystem makes durable what was written through the mount.
/// (proves: S52)
#[test]
fn as_root_syncfs_of_the_source_makes_durable_what_was_written() {
    let disk = LoopFs::new("ext4", 64 << 20);
    let mount = logging().over(disk.path()).mount();
    let (file, bytes) = (mount.mnt().join("file"), noise(MIB, 1));
    fs::write(&file, &bytes).unwrap();
    let before = mount.log().len();
    syncfs(File::open(mount.mnt()).unwrap()).unwrap();
    let log = mount.log();
    assert!(!log[before..].contains("SYNC"), "{}", &log[before..]);
    syncfs(File::open(disk.path()).unwrap()).unwrap();
    let scratch = tempfile::tempdir().expect("a directory");
    let (image, copy) = (
        disk.path().with_file_name("image"),
        scratch.path().join("copy"),
    );
    tools::run(
        Command::new("cp")
            .arg("--sparse=always")
            .args([&image, &copy]),
    );
    drop(mount);
    drop(disk);
    let at = scratch.path().join("at");
    fs::create_dir(&at).unwrap();
    tools::run(
        Command::new("mount")
            .args(["-o", "loop"])
            .args([&copy, &at]),
    );
    let held = fs::read(at.join("file"));
    tools::unmount_idle(&at).expect("umount");
    assert_same_bytes("on the medium", &bytes, &held.expect("it is there"));
}

fn errno_of_stat(dir: impl std::os::fd::AsFd, path: &Path) -> Option<Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    statx(dir, path, flags, StatxFlags::SIZE).err()
}

/// What is held by O_PATH only, and removed behind the mount, is ESTALE, for mmfs has it not open; removed through the mount, or open, it
/// goes on.
#[test]
fn what_only_o_path_holds_is_stale_when_it_is_removed_behind() {
    let mount = Mount::new();
    let held = |name: &str| {
        fs::write(mount.src().join(name), "bytes").unwrap();
        openat(CWD, mount.mnt().join(name), OFlags::PATH, Mode::empty()).unwrap()
    };
    let (behind, open, through) = (held("behind"), held("open"), held("through"));
    let file = File::open(mount.mnt().join("open")).unwrap();
    fs::remove_file(mount.src().join("behind")).unwrap();
    fs::remove_file(mount.src().join("open")).unwrap();
    fs::remove_file(mount.mnt().join("through")).unwrap();
    assert_eq!(errno_of_stat(&behind, Path::new("")), Some(Errno::STALE));
    assert_eq!(errno_of_stat(&open, Path::new("")), None);
    assert_eq!(errno_of_stat(&through, Path::new("")), None);
    drop(file);
}

#[test]
fn as_root_what_only_a_bind_mount_holds_is_stale_when_it_is_removed_behind() {
    let mount = Mount::new();
    let (file, place) = (mount.mnt().join("file"), mount.scratch().join("bound"));
    fs::write(mount.src().join("file"), "bytes").unwrap();
    fs::write(&place, "").unwrap();
    tools::run(Command::new("mount").arg("--bind").args([&file, &place]));
    fs::remove_file(mount.src().join("file")).unwrap();
    let stale = errno_of_stat(CWD, &place);
    let opened = fs::read(&place).map_err(|error| error.raw_os_error());
    tools::unmount_idle(&place).expect("umount");
    assert_eq!(stale, Some(Errno::STALE));
    assert_eq!(opened, Err(Some(libc::ESTALE)));
}
