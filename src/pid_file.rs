//! The file of `--pidfile`: it names this process for as long as the process lives.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

/// A file that names this process.
#[derive(Debug)]
pub struct PidFile {
    /// Where it lies. The path may lead through our own mount later, and must not be walked then.
    directory: OwnedFd,
    name: OsString,
}

impl PidFile {
    /// Writes it: whoever reads it meanwhile sees the old one or the new one.
    ///
    /// # Errors
    /// EISDIR for a path without a last name; those of open(2), write(2) and rename(2).
    pub fn write(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(Errno::ISDIR)?.to_owned();
        let place = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(place, flags, Mode::empty())?;
        let fresh = format!(".mmfs-{}.pid", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o644);
        let mut file = File::from(openat(&directory, &fresh, flags | OFlags::CLOEXEC, mode)?);
        let written = file
            .write_all(content().as_bytes())
            .and_then(|()| Ok(renameat(&directory, &fresh, &directory, &name)?));
        if written.is_err() {
            // The error of writing is the one to tell of.
            let _ = unlinkat(&directory, &fresh, AtFlags::empty());
        }
        written.map(|()| Self { directory, name })
    }

    /// Removes it, unless it names another process by now.
    pub fn remove(&self) {
        if !self.is_ours().unwrap_or_default() {
            return;
        }
        if let Err(errno) = unlinkat(&self.directory, &self.name, AtFlags::empty()) {
            log::warn!("cannot remove the PID file {:?}: {errno}", self.name);
        }
    }

    fn is_ours(&self) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&self.directory, &self.name, flags, Mode::empty())?;
        let (mut found, ours) = (Vec::new(), content());
        let most = ours.len() as u64 + 1;
        File::from(file).take(most).read_to_end(&mut found)?;
        Ok(found == ours.as_bytes())
    }
}

fn content() -> String {
    format!("{}\n", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn it_replaces_what_was_there_and_follows_no_link() {
        let base = tempfile::tempdir().unwrap();
        let (path, other) = (base.path().join("pid"), base.path().join("other"));
        fs::write(&other, "another's").unwrap();
        symlink(&other, &path).unwrap();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), content());
        assert_eq!(fs::read_to_string(&other).unwrap(), "another's");
        file.remove();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_that_names_another_process_stays() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        for text in [
            format!("1{}", content()),
            format!("{}1", content()),
            "1\n".into(),
        ] {
            fs::write(&path, &text).unwrap();
            file.remove();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("pid");
        fs::create_dir(&path).unwrap();
        for path in [&path, &base.path().join("missing/pid"), Path::new("/")] {
            assert!(PidFile::write(path).is_err(), "{path:?}");
        }
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
    }
}
