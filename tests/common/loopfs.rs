//! A filesystem of our own choice, in a file mounted through a loop device.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use tempfile::TempDir;

use super::fuse::{mount_at, mounts_below};
use super::tools::{output_of, run, tool, unmount_idle};
use super::user::is_root;

/// Taken down when dropped; loud when that does not work.
pub struct LoopFs {
    // `None` once leaked, because something is still mounted in it.
    base: Option<TempDir>,
    point: PathBuf,
}

impl LoopFs {
    /// An empty filesystem of this type (`ext4`, `xfs`, `btrfs`) and size in bytes.
    #[track_caller]
    pub fn new(fs_type: &str, size: u64) -> Self {
        Self::with_options(fs_type, size, &[], "loop")
    }

    /// The same with arguments for mkfs and options for mount.
    #[track_caller]
    pub fn with_options(fs_type: &str, size: u64, mkfs: &[&str], mount: &str) -> Self {
        Self::inside(&std::env::temp_dir(), fs_type, size, mkfs, mount)
    }

    /// The same with its image in a directory of our choice.
    #[track_caller]
    pub fn inside(parent: &Path, fs_type: &str, size: u64, mkfs: &[&str], mount: &str) -> Self {
        assert!(is_root(), "a loop mount of {fs_type} needs root");
        let base = tempfile::Builder::new()
            .prefix("mmfs-loop-")
            .tempdir_in(parent)
            .expect("a temporary directory");
        let (image, point) = (base.path().join("image"), base.path().join("fs"));
        File::create(&image)
            .and_then(|file| file.set_len(size))
            .expect("a sparse image");
        std::fs::create_dir(&point).expect("a mount point");
        run(Command::new(tool(&format!("mkfs.{fs_type}")))
            .args(quiet(fs_type))
            .args(mkfs)
            .arg(&image));
        let this = Self {
            base: Some(base),
            point,
        };
        run(Command::new("mount")
            .args(["-t", fs_type, "-o", mount])
            .arg(&image)
            .arg(&this.point));
        this
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.point
    }

    fn take_down(&self) -> Result<(), String> {
        if mount_at(&self.point).is_none() {
            return Ok(());
        }
        let Err(reason) = unmount_idle(&self.point) else {
            return Ok(());
        };
        let lazily = output_of(Command::new("umount").arg("--lazy").arg(&self.point))
            .status
            .success();
        Err(format!(
            "{reason} (lazily: {})",
            if lazily { "done" } else { "impossible too" }
        ))
    }
}

fn quiet(fs_type: &str) -> &'static [&'static str] {
    match fs_type {
        "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" => &["-q"],
        _ => &[],
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        let ended = self.take_down();
        if !mounts_below(&self.point).is_empty() {
            // Removing the directory now would remove what is mounted in it.
            let _ = self.base.take().map(TempDir::keep);
        }
        if let (Err(reason), false) = (ended, thread::panicking()) {
            panic!("{} could not be unmounted: {reason}", self.point.display());
        }
    }
}
