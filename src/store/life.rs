//! Whether the machine went on running when the store was last open: a cookie in a directory that a reboot empties.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The cookie of this opening.
#[derive(Debug)]
pub struct Life(PathBuf);

/// Where cookies of this user's daemons are. None: there is no directory that a reboot empties.
pub fn cookies() -> Option<PathBuf> {
    match rustix::process::geteuid().is_root() {
        true => Some(PathBuf::from("/run/mmfs")),
        false => Some(PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?).join("mmfs")),
    }
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
        let path = path(cookies, uuid);
        let new = path.with_extension("new");
        // Not through a link that somebody left.
        let _ = fs::remove_file(&new);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text(device, life)?.as_bytes())?;
        fs::rename(&new, &path)?;
        Ok(Self(path))
    }

    /// Takes the cookie away.
    pub fn end(self) {
        if let Err(error) = fs::remove_file(&self.0) {
            log::warn!("{}: {error}", self.0.display());
        }
    }
}

/// Whether the opening of this number left its cookie, on this boot and this device.
pub fn goes_on(cookies: &Path, uuid: &[u8; 16], device: u64, life: u64) -> bool {
    let found = fs::read_to_string(path(cookies, uuid));
    text(device, life).is_ok_and(|text| found.is_ok_and(|found| found == text))
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
