//! Whether the machine went on running when the store was last open: a cookie in a directory that a reboot empties.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The cookie of this opening.
#[derive(Debug)]
pub struct Life {
    path: PathBuf,
    text: String,
}

/// Where cookies of this user's daemons are: the same directory with and without a login session, as far as there is one.
pub fn cookies() -> Option<PathBuf> {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return Some(PathBuf::from("/run/mmfs"));
    }
    let user = user.as_raw();
    let session = PathBuf::from(format!("/run/user/{user}"));
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = [Some(session), given];
    if let Some(runtime) = runtime.into_iter().flatten().find(|path| is_ours(path)) {
        return Some(runtime.join("mmfs"));
    }
    Some(PathBuf::from(format!("/dev/shm/mmfs-{user}")))
        .filter(|path| path.parent().is_some_and(Path::is_dir))
}

/// Whether only this user can leave something in a directory.
fn is_ours(directory: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    let safe =
        |found: fs::Metadata| found.is_dir() && found.uid() == user && found.mode() & 0o022 == 0;
    fs::symlink_metadata(directory).is_ok_and(safe)
}

impl Life {
    /// Leaves a cookie: it tells the next opening that the page cache lived on since.
    ///
    /// # Errors
    /// That of the call that failed.
    pub fn begin(cookies: &Path, uuid: &[u8; 16], device: u64, life: u64) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(cookies)?;
        if !is_ours(cookies) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let cookie = Self {
            path: path(cookies, uuid),
            text: text(device, life)?,
        };
        cookie.put()?;
        Ok(cookie)
    }

    /// Leaves the cookie, if it is not there.
    ///
    /// # Errors
    /// That of the call that failed.
    pub fn put(&self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        // Not through a link that somebody left.
        let _ = fs::remove_file(&new);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(self.text.as_bytes())?;
        fs::rename(&new, &self.path)
    }

    /// Takes the cookie away.
    pub fn take_away(&self) {
        remove(&self.path);
    }
}

/// Takes away what the last opening of a store has left.
pub fn take_away(cookies: &Path, uuid: &[u8; 16]) {
    if is_ours(cookies) {
        remove(&path(cookies, uuid));
    }
}

fn remove(cookie: &Path) {
    match fs::remove_file(cookie) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("{}: {error}", cookie.display());
        }
        _ => {}
    }
}

/// Whether the opening of this number left its cookie, on this boot and this device.
pub fn goes_on(cookies: &Path, uuid: &[u8; 16], device: u64, life: u64) -> bool {
    let found = fs::read_to_string(path(cookies, uuid));
    is_ours(cookies) && text(device, life).is_ok_and(|text| found.is_ok_and(|found| found == text))
}

fn path(cookies: &Path, uuid: &[u8; 16]) -> PathBuf {
    cookies.join(hex(uuid))
}

fn text(device: u64, life: u64) -> io::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(format!("{} {device:x} {life:x}\n", boot.trim()))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A number that nobody can guess: the salt of a tail, or of a life.
///
/// # Errors
/// That of getrandom(2).
pub fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(bytes))
}
