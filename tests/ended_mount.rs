//! What is left of a mount that has ended: nothing.

mod common;
mod stage;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::Mount;
use common::tools::{run, tool, wait_until};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use stage::{KIB, disk, noise, printed};

/// How long after umount(2) of a view its daemon may hold something of the source (S51).
const MOMENT: Duration = Duration::from_secs(1);

/// Taken down at the end, whatever happens.
struct Device {
    path: PathBuf,
    point: PathBuf,
}

impl Device {
    /// A block device with an ext4 on it, which is not mounted.
    fn new(base: &Path) -> Self {
        let (image, point) = (base.join("image"), base.join("fs"));
        File::create(&image).unwrap().set_len(32 << 20).unwrap();
        fs::create_dir(&point).unwrap();
        run(Command::new(tool("mkfs.ext4")).arg("-q").arg(&image));
        let mut attach = Command::new(tool("losetup"));
        let path = printed(attach.args(["--find", "--show"]).arg(&image)).into();
        Device { path, point }
    }

    fn mount(&self) {
        mount(&self.path, &self.point, "ext4", MountFlags::empty(), None).unwrap();
    }

    /// Whether nobody has the device, a mounted filesystem included.
    fn is_free(&self) -> bool {
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
        match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Err(Errno::BUSY) => false,
            outcome => outcome.map(drop).map(|()| true).unwrap(),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let outcome = unmount(&self.point, UnmountFlags::DETACH);
        let detached = Command::new("losetup")
            .arg("--detach")
            .arg(&self.path)
            .status();
        if std::thread::panicking() {
            eprintln!("umount: {outcome:?}, losetup: {detached:?}");
        }
    }
}

/// When umount(2) of the view has returned, the source can be unmounted, and its device belongs to nobody, within the
/// moment that S51 names: also when files were read and written until then, and with the clone of a read-only view.
/// (proves: S51)
#[test]
fn as_root_an_ended_mount_holds_nothing_of_its_source() {
    const ROUNDS: usize = 60;
    let base = tempfile::tempdir_in(disk()).unwrap();
    let device = Device::new(base.path());
    device.mount();
    for n in 0..20 {
        fs::write(device.point.join(format!("file{n}")), noise(300 * KIB, n)).unwrap();
    }
    unmount(&device.point, UnmountFlags::empty()).unwrap();
    let modes: [&[&str]; 6] = [
        &[],
        &["-r"],
        &["--direct-io"],
        &["--passthrough"],
        &["--threads", "1"],
        &["-r", "--passthrough"],
    ];
    let mut longest = Duration::ZERO;
    for round in 0..ROUNDS {
        let mode = modes[round % modes.len()];
        device.mount();
        let mut view = Mount::builder()
            .over(&device.point)
            .options(mode.iter().copied())
            .mount();
        for n in 0..20 {
            let path = view.mnt().join(format!("file{n}"));
            assert_eq!(fs::read(&path).unwrap(), noise(300 * KIB, n), "{mode:?}");
            if !mode.contains(&"-r") {
                fs::write(&path, noise(300 * KIB, n)).unwrap();
            }
        }
        printed(Command::new("find").arg(view.mnt()));
        assert!(!device.is_free(), "{mode:?}");
        // What is left to write is not what takes the time.
        rustix::fs::syncfs(File::open(&device.point).unwrap()).unwrap();
        let unmounted = wait_until(MOMENT, || {
            unmount(view.mnt(), UnmountFlags::empty()).is_ok()
        });
        assert!(unmounted, "round {round}, {mode:?}");
        let ended = Instant::now();
        let in_time = |what: &str, done: &dyn Fn() -> bool| {
            let left = MOMENT.saturating_sub(ended.elapsed());
            let took = || ended.elapsed();
            assert!(
                wait_until(left, done),
                "round {round}, {mode:?}: {what} after {:?}",
                took()
            );
        };
        in_time("the source is busy", &|| {
            unmount(&device.point, UnmountFlags::empty()).is_ok()
        });
        in_time("the device is busy", &|| device.is_free());
        longest = longest.max(ended.elapsed());
        assert!(view.wait_end().success());
    }
    eprintln!("the longest took {longest:?}");
}
