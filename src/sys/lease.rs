//! `F_SETLEASE` of fcntl(2): whether somebody can write to an open file.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Result;

use super::last_errno;

/// Whether nobody has a file open for writing, or mapped so. `fd` has to be open for reading only, and the file has to be the caller's own,
/// but for root.
///
/// # Errors
/// EINVAL where a filesystem has no leases, EACCES for the file of another user.
pub fn has_no_writer(fd: impl AsFd) -> Result<bool> {
    use rustix::io::Errno;
    // fcntl.h of Linux. SIGIO would end this process if somebody opened the file between the two calls. Nobody handles SIGURG.
    const F_SETSIG: libc::c_int = 10;
    let set = |command, value: libc::c_int| {
        // SAFETY: these commands take a number and touch no memory.
        match unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, value) } {
            0 => Ok(()),
            _ => Err(last_errno()),
        }
    };
    set(F_SETSIG, libc::SIGURG)?;
    match set(libc::F_SETLEASE, libc::F_RDLCK) {
        Err(Errno::AGAIN) => Ok(false),
        taken => {
            taken?;
            set(libc::F_SETLEASE, libc::F_UNLCK).map(|()| true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::{File, OpenOptions};

    #[test]
    fn who_has_it_open_or_mapped_to_write_is_found() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("file");
        let writer = File::create(&path).expect("a file");
        let reader = File::open(&path).expect("open");
        let _other = File::open(&path).expect("open");
        assert_eq!(has_no_writer(&reader), Ok(false));
        drop(writer);
        assert_eq!(has_no_writer(&reader), Ok(true));
        assert_eq!(has_no_writer(&reader), Ok(true));
        let mut options = OpenOptions::new();
        let mapped = options.read(true).write(true).open(&path).expect("open");
        mapped.set_len(1).expect("a byte");
        let flags = rustix::mm::MapFlags::SHARED;
        let read_write = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        // SAFETY: the map is a new one, and is never dereferenced.
        let map =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), 4096, read_write, flags, &mapped, 0) }
                .expect("a map");
        drop(mapped);
        assert_eq!(has_no_writer(&reader), Ok(false));
        // SAFETY: it is the map made above.
        unsafe { rustix::mm::munmap(map, 4096) }.expect("unmapped");
        assert_eq!(has_no_writer(&reader), Ok(true));
    }
}
