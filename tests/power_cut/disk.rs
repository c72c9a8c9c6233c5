//! A filesystem in an image that can be copied in a moment: the image lies on XFS, and the copy shares its blocks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::LoopFs;
use crate::common::fuse::mount_at;
use crate::common::tools::{run, unmount_idle};

/// The filesystem that the store lies on, and the one that its image lies on.
pub struct Disk {
    kind: &'static str,
    // Taken down in this order.
    inner: LoopFs,
    outer: LoopFs,
}

impl Disk {
    pub fn new(kind: &'static str) -> Self {
        let outer = LoopFs::new("xfs", 4 << 30);
        let inner = LoopFs::inside(outer.path(), kind, 400 << 20, &[], "loop");
        Self { kind, inner, outer }
    }

    pub fn path(&self) -> &Path {
        self.inner.path()
    }

    /// The image as it is at one moment: what a power cut would leave. FICLONE waits for writes that are under way, and holds
    /// up those that follow.
    pub fn cut(&self, number: u64) -> Cut {
        let image = self.inner.path().with_file_name("image");
        let copy = self.outer.path().join(format!("cut-{number}"));
        let (from, to) = (File::open(image), File::create(&copy));
        let (from, to) = (from.expect("the image"), to.expect("the copy"));
        rustix::fs::ioctl_ficlone(&to, &from).expect("FICLONE");
        Cut {
            kind: self.kind,
            point: copy.with_extension("fs"),
            image: copy,
        }
    }
}

/// An image after a power cut.
pub struct Cut {
    kind: &'static str,
    image: PathBuf,
    point: PathBuf,
}

impl Cut {
    /// Mounts it: the filesystem recovers.
    pub fn mount(&self) -> &Path {
        fs::create_dir(&self.point).expect("a mount point");
        // The original is mounted beside it.
        let options = if self.kind == "xfs" {
            "loop,nouuid"
        } else {
            "loop"
        };
        let mut mount = Command::new("mount");
        run(mount
            .args(["-t", self.kind, "-o", options])
            .arg(&self.image)
            .arg(&self.point));
        &self.point
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let ended = match mount_at(&self.point) {
            Some(_) => unmount_idle(&self.point),
            None => Ok(()),
        };
        match ended {
            Ok(()) => {
                let _ = fs::remove_dir(&self.point);
                let _ = fs::remove_file(&self.image);
            }
            Err(reason) if std::thread::panicking() => {
                let _ = Command::new("umount")
                    .arg("--lazy")
                    .arg(&self.point)
                    .status();
                eprintln!("{}: {reason}", self.point.display());
            }
            Err(reason) => panic!("{}: {reason}", self.point.display()),
        }
    }
}
