//! The file of `--pidfile`. It has the daemon's process id as long as the daemon runs.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use crate::sys::process;

/// How many temporary names are tried for the new file.
const MAX_TRIES: u32 = 16;

/// The longest PID file that is replaced, in bytes: a number of 64 bits and a newline.
const MAX_LENGTH: u64 = 21;

/// `argv[0]` of an mmfs that is started to remove a PID file.
const REMOVER: &str = "mmfs-remove-pid-file";

/// The PID file of this process.
#[derive(Debug)]
pub struct PidFile {
    /// Its directory, held open because its path may later lead through our own mount.
    directory: OwnedFd,
    name: OsString,
    /// Its temporary name, until [`PidFile::put`].
    draft: String,
    content: String,
    /// Device and inode number.
    identity: (u64, u64),
}

impl PidFile {
    /// Writes the file under a temporary name in the same directory. So most errors come before the mount. An existing file stays
    /// until [`PidFile::put`].
    ///
    /// # Errors
    /// EISDIR for a path without a file name. A sentence if the existing file is no PID file. Those of open(2) and write(2).
    pub fn prepare(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(Errno::ISDIR)?.to_owned();
        let place = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(place, flags, Mode::empty())?;
        require_replaceable(&directory, &name)?;
        let (draft, mut file) = create_draft(&directory)?;
        let identity = file.metadata().map(|data| identify(&data));
        let draft = Self {
            directory,
            name,
            draft,
            content: content(),
            identity: *identity.as_ref().unwrap_or(&(0, 0)),
        };
        let written = identity.and_then(|_| file.write_all(draft.content.as_bytes()));
        if written.is_err() {
            let _ = draft.remove(); // the error of the write is returned
        }
        written.map(|()| draft)
    }

    /// Renames the file to its name. A reader sees either the old file or the new one.
    ///
    /// # Errors
    /// Those of rename(2). A sentence if the existing file is no PID file.
    pub fn put(&self) -> io::Result<()> {
        require_replaceable(&self.directory, &self.name)?;
        let directory = &self.directory;
        Ok(renameat(directory, &self.draft, directory, &self.name)?)
    }

    /// Removes the file, unless another one has replaced it.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub fn remove(&self) -> io::Result<()> {
        // The temporary file still exists only if the start has failed.
        let _ = unlinkat(&self.directory, &self.draft, AtFlags::empty());
        match self.is_ours() {
            Ok(true) => Ok(unlinkat(&self.directory, &self.name, AtFlags::empty())?),
            _ => Ok(()),
        }
    }

    /// As `remove`, in another process. If the file's filesystem does not answer, the kernel cannot end the process that waits for
    /// it. After exec, that process has none of the daemon's files open or mapped.
    ///
    /// # Errors
    /// Those of dup(2) and unlink(2).
    pub fn remove_by_another(&self) -> io::Result<()> {
        let directory = self.directory.try_clone()?;
        fcntl_setfd(&directory, FdFlags::empty())?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(REMOVER);
        command.arg(directory.as_raw_fd().to_string());
        command.args([
            OsStr::new(&self.draft),
            &self.name,
            OsStr::new(&self.content),
        ]);
        let (device, inode) = self.identity;
        command.args([device, inode].map(|number| number.to_string()));
        // It must not keep our standard streams open: their reader may wait for the end.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(status) = command.stderr(Stdio::piped()).status() else {
            return self.remove(); // /proc is missing
        };
        match status.code() {
            Some(0) => Ok(()),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(Errno::INTR.into()),
        }
    }

    fn is_ours(&self) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&self.directory, &self.name, flags, Mode::empty())?;
        let (mut found, ours) = (Vec::new(), &self.content);
        let most = ours.len() as u64 + 1;
        let file = File::from(file);
        if identify(&file.metadata()?) != self.identity {
            return Ok(false); // a process in another container can have the same id
        }
        file.take(most).read_to_end(&mut found)?;
        Ok(found == ours.as_bytes())
    }
}

/// If this process was started by [`PidFile::remove_by_another`], removes the file and returns the exit code.
pub fn remove_for_another() -> Option<u8> {
    let mut words = std::env::args_os();
    if words.next()? != REMOVER {
        return None;
    }
    let removed = from_arguments(words).and_then(|file| file.remove());
    // Every errno of Linux is below 134.
    let errno = |error: io::Error| error.raw_os_error().and_then(|errno| errno.try_into().ok());
    Some(removed.map_or_else(|error| errno(error).unwrap_or(u8::MAX), |()| 0))
}

fn from_arguments(mut words: impl Iterator<Item = OsString>) -> io::Result<PidFile> {
    let mut next = || words.next().ok_or(Errno::INVAL);
    let text = |word: OsString| word.into_string().map_err(|_| Errno::INVAL);
    let number = |word| text(word)?.parse().map_err(|_| Errno::INVAL);
    let descriptor: RawFd = text(next()?)?.parse().map_err(|_| Errno::INVAL)?;
    Ok(PidFile {
        directory: process::duplicate(descriptor)?,
        draft: text(next()?)?,
        name: next()?,
        content: text(next()?)?,
        identity: (number(next()?)?, number(next()?)?),
    })
}

fn identify(data: &Metadata) -> (u64, u64) {
    (data.dev(), data.ino())
}

/// Fails unless the existing file is a PID file or empty. The path may be a mistake.
fn require_replaceable(directory: impl AsFd, name: &OsStr) -> io::Result<()> {
    let status = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        status => status?,
    };
    // Opening a device or a FIFO can have effects.
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("the existing file is not a regular file"));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(&directory, name, flags, Mode::empty())?);
    let mut found = Vec::new();
    file.take(MAX_LENGTH + 1).read_to_end(&mut found)?;
    let number = found.strip_suffix(b"\n").unwrap_or(&found);
    let is_short = found.len() as u64 <= MAX_LENGTH;
    match is_short && number.iter().all(u8::is_ascii_digit) {
        true => Ok(()),
        false => Err(io::Error::other("the existing file is not a PID file")),
    }
}

/// Creates a new file with a name that cannot be predicted.
fn create_draft(directory: impl AsFd) -> io::Result<(String, File)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    for _ in 0..MAX_TRIES {
        // The standard library gives each `RandomState` a random key.
        let random = RandomState::new().hash_one(std::process::id());
        let name = format!(".mmfs-{random:016x}.pid");
        match openat(&directory, &name, flags, mode) {
            Err(Errno::EXIST) => {}
            file => return Ok((name, file?.into())),
        }
    }
    Err(Errno::EXIST.into())
}

fn content() -> String {
    format!("{}\n", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn write(path: &Path) -> io::Result<PidFile> {
        let file = PidFile::prepare(path)?;
        file.put().map(|()| file)
    }

    fn entries(base: &tempfile::TempDir) -> usize {
        fs::read_dir(base.path()).unwrap().count()
    }

    #[test]
    fn it_replaces_a_pid_file_once_it_is_put() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("pid");
        for old in ["", "1", "4194304\n", "18446744073709551615\n"] {
            fs::write(&path, old).unwrap();
            let file = PidFile::prepare(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), old);
            file.put().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content());
            file.remove().unwrap();
            assert_eq!(entries(&base), 0);
        }
    }

    /// A start that fails leaves the PID file of a running daemon.
    #[test]
    fn a_file_that_was_never_put_changes_nothing() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("pid");
        fs::write(&path, "1\n").unwrap();
        PidFile::prepare(&path).unwrap().remove().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert_eq!(entries(&base), 1);
    }

    #[test]
    fn a_file_that_is_no_pid_file_stays() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("pid");
        for text in [
            "another's",
            "1\n2\n",
            "1 \n",
            "1\n\n",
            "-1\n",
            "0123456789012345678901",
        ] {
            fs::write(&path, text).unwrap();
            assert!(write(&path).is_err(), "{text:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let other = base.path().join("other");
        fs::rename(&path, &other).unwrap();
        fs::write(&other, "1\n").unwrap();
        symlink(&other, &path).unwrap();
        assert!(write(&path).is_err());
        assert_eq!(fs::read_link(&path).unwrap(), other);
        fs::remove_file(&path).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        assert!(write(&path).is_err());
        assert_eq!(entries(&base), 2);
    }

    /// A user who may write to the directory could otherwise create a FIFO or a link of that name before.
    #[test]
    fn the_temporary_name_cannot_be_predicted() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("pid");
        let drafts = [0; 2].map(|_| PidFile::prepare(&path).unwrap());
        assert_ne!(drafts[0].draft, drafts[1].draft);
        let process = std::process::id().to_string();
        assert!(
            drafts
                .iter()
                .all(|file| !file.draft.contains(&format!("-{process}.")))
        );
        drafts.iter().for_each(|file| file.remove().unwrap());
        assert_eq!(entries(&base), 0);
    }

    #[test]
    fn a_file_with_another_process_id_stays() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("pid");
        let file = write(&path).unwrap();
        for text in [
            format!("1{}", content()),
            format!("{}1", content()),
            "1\n".into(),
        ] {
            fs::write(&path, &text).unwrap();
            file.remove().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn another_file_with_the_same_process_id_stays() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("pid");
        let file = write(&path).unwrap();
        // Kept, so that its inode number is not reused for the new file.
        fs::rename(&path, base.path().join("kept")).unwrap();
        fs::write(&path, content()).unwrap();
        file.remove().unwrap();
        assert_eq!(entries(&base), 2);
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_no_other_file() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("pid");
        fs::create_dir(&path).unwrap();
        for path in [&path, &base.path().join("missing/pid"), Path::new("/")] {
            assert!(write(path).is_err(), "{path:?}");
        }
        assert_eq!(entries(&base), 1);
    }
}
