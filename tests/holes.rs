//! Reading allocates nothing in the source.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{LoopFs, Mount, tools};

const MB: u64 = 1 << 20;
const SIZE: u64 = 24 * MB + 5;

/// A sparse file with data in the middle, one without any, and a full one.
fn fill(source: &Path) {
    let sparse = File::create(source.join("sparse")).expect("create");
    sparse.set_len(SIZE).expect("truncate");
    sparse
        .write_all_at(&[7; 10_000], 9 * MB + 100)
        .expect("write");
    let empty = File::create(source.join("empty")).expect("create");
    empty.set_len(SIZE).expect("truncate");
    fs::write(source.join("full"), vec![1; MB as usize]).expect("write");
    tools::run(Command::new("sync").arg("-f").arg(source));
}

/// Blocks of each file, and of the filesystem.
fn blocks(source: &Path) -> (Vec<u64>, u64) {
    let of = |name: &str| fs::metadata(source.join(name)).expect("stat").blocks();
    let free = rustix::fs::statvfs(source).expect("statvfs").f_bfree;
    (["sparse", "empty", "full"].map(of).to_vec(), free)
}

fn check(what: &str, source: &Path) {
    fill(source);
    for options in [
        &[][..],
        &["--direct-io"],
        &["-r"],
        &["--window-size", "64K"],
    ] {
        let mount = Mount::builder()
            .over(source)
            .options(options.iter().copied())
            .mount();
        let before = blocks(source);
        mount.within(Duration::from_secs(60), || {
            for name in ["sparse", "empty", "full"] {
                let bytes = fs::read(mount.mnt().join(name)).expect("read");
                assert!(
                    bytes == fs::read(source.join(name)).expect("read"),
                    "{name}"
                );
                // By mapping it, and here and there.
                tools::run(
                    Command::new("cmp")
                        .arg(mount.mnt().join(name))
                        .arg(source.join(name)),
                );
                let file = File::open(mount.mnt().join(name)).expect("open");
                for at in (0..bytes.len() as u64).step_by(3 << 20) {
                    file.read_at(&mut [0; 4096], at).expect("read");
                }
            }
        });
        assert_eq!(
            blocks(source),
            before,
            "{what} {options:?}: blocks of the source"
        );
    }
}

struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(kind: &str, options: &str) -> Self {
        let at = tempfile::tempdir().expect("a directory");
        let mut mount = Command::new("mount");
        tools::run(mount.args(["-t", kind, "-o", options, kind]).arg(at.path()));
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        tools::output_of(Command::new("umount").arg("-l").arg(self.0.path()));
    }
}

/// Holes of a tmpfs, which a page fault would fill, also below an overlayfs.
/// (proves: S33)
#[test]
fn as_root_reading_allocates_nothing_in_memory() {
    let tmpfs = Mounted::new("tmpfs", "size=96M");
    let dir = |name: &str| {
        let path = tmpfs.0.path().join(name);
        fs::create_dir(&path).expect("mkdir");
        path
    };
    check("tmpfs", &dir("plain"));
    let [lower, upper, work] = ["lower", "upper", "work"].map(dir);
    let (lower, upper, work) = (lower.display(), upper.display(), work.display());
    let overlay = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    check(
        "overlayfs on tmpfs",
        Mounted::new("overlay", &overlay).0.path(),
    );
}

/// (proves: S33)
#[test]
fn as_root_reading_allocates_nothing_on_a_device() {
    for (kind, size) in [("ext4", 64 * MB), ("xfs", 320 * MB), ("btrfs", 128 * MB)] {
        check(kind, LoopFs::new(kind, size).path());
    }
}
