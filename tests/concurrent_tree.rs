//! Many processes at once.

mod common;
mod stage;

use std::fs::{self, File, FileTimes, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{
    CWD, FallocateFlags, RenameFlags, XattrFlags, fallocate, renameat_with, setxattr,
};
use stage::{KIB, Stage, noise, on_mount, tree};

const WORKERS: u64 = 12;
const STEPS: u64 = 600;
/// The variable that names a worker's directory and number.
const PLACE: &str = "MMFS_TEST_WORKER";

/// "A tree written by many processes at once equals the source afterwards: sizes, link counts, modes, times, xattrs,
/// bytes": each process works in directories that all share, so that they link, rename and remove each other's files. In
/// every mode, and once more after everything the kernel remembered is gone.
/// (proves: S18)
#[test]
fn a_tree_written_by_many_processes_equals_the_source() {
    for mode in [
        &[][..],
        &["--window-size", "64K"],
        &["--write-path", "region"],
        &["--direct-io"],
    ] {
        on_mount(mode, |stage| {
            let workers: Vec<Child> = (0..WORKERS).map(|number| start(stage, number)).collect();
            for (number, worker) in workers.into_iter().enumerate() {
                let output = worker.wait_with_output().unwrap();
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(
                    output.status.success(),
                    "{mode:?}: worker {number}:\n{said}"
                );
            }
            let entries = tree::tree(&stage.source("")).len();
            assert!(
                entries > 300,
                "{mode:?}: only {entries} entries: the workers did not work"
            );
            tree::assert_same_tree(&stage.source(""), &stage.mount(""));
        });
    }
}

/// This very program again, as a process of its own that runs only the worker below.
fn start(stage: &Stage, number: u64) -> Child {
    let mut worker = Command::new(std::env::current_exe().unwrap());
    worker.args(["--exact", "worker", "--include-ignored", "--nocapture"]);
    worker.env(PLACE, format!("{number}:{}", stage.mount("").display()));
    worker
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Not a test: what the other processes run. Names are of few numbers, so that workers meet; what another one has
/// removed or made meanwhile is no failure, everything else is.
#[test]
#[ignore = "run by the test above, in processes of its own"]
fn worker() {
    let Ok(place) = std::env::var(PLACE) else {
        return;
    };
    let (number, root) = place.split_once(':').unwrap();
    let mut random = Random(number.parse::<u64>().unwrap() + 1);
    for step in 0..STEPS {
        let result = random.act(Path::new(root));
        let usual = [
            libc::ENOENT,
            libc::EEXIST,
            libc::ENOTEMPTY,
            libc::ENOTDIR,
            libc::EISDIR,
            libc::EPERM,
            libc::ELOOP,
        ];
        let Err(error) = result else {
            continue;
        };
        let errno = error.raw_os_error();
        assert!(
            errno.is_some_and(|errno| usual.contains(&errno)),
            "worker {number}, step {step}: {error}"
        );
    }
}

/// A worker's source of choices, the same for the same number.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn path(&mut self, root: &Path) -> PathBuf {
        root.join(format!("d{}", self.below(6)))
            .join(format!("e{}", self.below(120)))
    }

    fn file(&mut self, root: &Path) -> io::Result<File> {
        let path = self.path(root);
        fs::create_dir_all(path.parent().unwrap())?;
        File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
    }

    /// One change of the tree.
    fn act(&mut self, root: &Path) -> io::Result<()> {
        let (path, other) = (self.path(root), self.path(root));
        let size = self.below(300 * KIB);
        match self.below(14) {
            0..=3 => self
                .file(root)?
                .write_all_at(&noise(size, self.0), self.below(100 * KIB)),
            4 => self.file(root)?.set_len(size),
            5 => self.append_and_sync(root, size / 10),
            6 => fs::hard_link(path, other),
            7 => fs::rename(path, other),
            8 => Ok(renameat_with(CWD, path, CWD, other, RenameFlags::EXCHANGE)?),
            9 => fs::remove_file(path),
            10 => fs::set_permissions(
                path,
                Permissions::from_mode(0o600 + self.below(0o200) as u32),
            ),
            11 => Ok(setxattr(
                path,
                format!("user.x{}", self.below(3)),
                &noise(size / 1000, size),
                XattrFlags::empty(),
            )?),
            12 => self.touch(root),
            _ => self.make_odd_entry(root, &path),
        }
    }

    fn append_and_sync(&mut self, root: &Path, size: u64) -> io::Result<()> {
        let file = self.file(root)?;
        let end = file.metadata()?.len();
        file.write_all_at(&noise(size, size), end)?;
        fallocate(
            &file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            end / 2,
            size + 1,
        )?;
        file.sync_data()
    }

    fn touch(&mut self, root: &Path) -> io::Result<()> {
        let time = UNIX_EPOCH
            + Duration::new(
                1_000_000_000 + self.below(1 << 30),
                self.below(1_000_000_000) as u32,
            );
        self.file(root)?
            .set_times(FileTimes::new().set_modified(time))
    }

    fn make_odd_entry(&mut self, root: &Path, path: &Path) -> io::Result<()> {
        match self.below(3) {
            0 => symlink(self.path(root), path),
            1 => fs::create_dir(path),
            _ => fs::remove_dir(path),
        }
    }
}
