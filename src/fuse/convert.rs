//! Conversions between types of the FUSE library and types of mmfs.

use crate::actor::Actor;
use crate::attr::{Attr, Time};
use crate::fs::{Listed, Opened, Writing};
use crate::request::SetTime;
use crate::sys::identity::Caller;
use fuser::{Errno, FileAttr, FileType, FopenFlags, INodeNo, Request, TimeOrNow, WriteFlags};
use rustix::fs::{self as sys, OFlags};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub fn actor(req: &Request) -> Actor {
    Actor {
        caller: Caller {
            uid: req.uid(),
            gid: req.gid(),
        },
        pid: req.pid(),
    }
}

pub fn open_flags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags as u32)
}

/// The flags of a WRITE request.
pub fn writing(write_flags: WriteFlags, open_flags: OFlags) -> Writing {
    Writing {
        flags: open_flags,
        from_mapping: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
        drop_setid: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
    }
}

pub fn fopen_flags<O>(opened: &Opened<O>) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(
        FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
        opened.direct_io,
    );
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags.set(FopenFlags::FOPEN_NOFLUSH, opened.read_only);
    flags
}

/// As `fopen_flags`, for a file that the kernel serves by itself. The kernel accepts no other flag with passthrough.
pub fn passthrough_flags<O>(opened: &Opened<O>) -> FopenFlags {
    match opened.read_only {
        true => FopenFlags::FOPEN_NOFLUSH,
        false => FopenFlags::empty(),
    }
}

/// The errno for the reply. EMFILE means that the daemon has too many open files. The client gets ENFILE instead, because its own
/// limit is not reached.
pub fn fuse_errno(errno: rustix::io::Errno) -> Errno {
    let errno = match errno {
        rustix::io::Errno::MFILE => rustix::io::Errno::NFILE,
        other => other,
    };
    Errno::from_i32(errno.raw_os_error())
}

pub fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::To(from_system_time(at)),
    }
}

/// The time in a request. For a time before the epoch, fuser 0.18 subtracts both the seconds and the nanoseconds from the
/// epoch, although the nanoseconds must be added. This function undoes that.
pub fn from_system_time(at: SystemTime) -> Time {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => Time {
            sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nsec: since.subsec_nanos(),
        },
        Err(before) => Time {
            sec: 0i64.saturating_sub_unsigned(before.duration().as_secs()),
            nsec: before.duration().subsec_nanos(),
        },
    }
}

pub fn to_system_time(time: Time) -> SystemTime {
    let whole = match u64::try_from(time.sec) {
        Ok(sec) => UNIX_EPOCH + Duration::from_secs(sec),
        Err(_) => UNIX_EPOCH - Duration::from_secs(time.sec.unsigned_abs()),
    };
    whole + Duration::from_nanos(time.nsec.into())
}

pub fn file_type(kind: sys::FileType) -> FileType {
    match kind {
        sys::FileType::Directory => FileType::Directory,
        sys::FileType::Symlink => FileType::Symlink,
        sys::FileType::Fifo => FileType::NamedPipe,
        sys::FileType::Socket => FileType::Socket,
        sys::FileType::CharacterDevice => FileType::CharDevice,
        sys::FileType::BlockDevice => FileType::BlockDevice,
        sys::FileType::RegularFile | sys::FileType::Unknown => FileType::RegularFile,
    }
}

pub fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: to_system_time(attr.atime),
        mtime: to_system_time(attr.mtime),
        ctime: to_system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind()),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: encode_device(attr.rdev),
        blksize: attr.blksize,
        flags: 0,
    }
}

/// Attributes of an entry whose number and type only are known. The size is one that no file can have, so the kernel lists the
/// name and ignores the attributes. With a possible size the kernel would accept generation 0 and these attributes, and
/// operations on an open inode would fail.
pub fn bare_attr(e: &Listed<'_>) -> FileAttr {
    FileAttr {
        ino: INodeNo(e.ino),
        size: u64::MAX,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(e.kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// A device number in the 32 bits of the FUSE protocol: from the low end 8 bits of the minor, 12 bits of the major, and the
/// higher 12 bits of the minor.
pub fn encode_device(device: u64) -> u32 {
    let (major, minor) = (sys::major(device), sys::minor(device));
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

pub fn decode_device(device: u32) -> u64 {
    sys::makedev(
        (device >> 8) & 0xfff,
        (device & 0xff) | (device >> 12) & !0xff,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_protocol() {
        for (major, minor) in [
            (0, 0),
            (1, 3),
            (8, 255),
            (8, 256),
            (259, 0xf_ffff),
            (4095, 1),
        ] {
            let device = sys::makedev(major, minor);
            assert_eq!(
                decode_device(encode_device(device)),
                device,
                "{major}:{minor}"
            );
        }
    }

    #[test]
    fn times_before_the_epoch_survive() {
        for (sec, nsec) in [(0, 0), (-1, 0), (-1, 999_999_999), (-2, 1), (1 << 33, 5)] {
            let shown = to_system_time(Time { sec, nsec });
            let before = UNIX_EPOCH.duration_since(shown).unwrap_or_default();
            let after = shown.duration_since(UNIX_EPOCH).unwrap_or_default();
            let nanos = after.as_nanos() as i128 - before.as_nanos() as i128;
            assert_eq!(nanos, i128::from(sec) * 1_000_000_000 + i128::from(nsec));
        }
        let asked = UNIX_EPOCH - Duration::new(1, 200_000_000); // fuser's form of -1 s + 0.2 s
        let (sec, nsec) = (-1, 200_000_000);
        assert_eq!(from_system_time(asked), Time { sec, nsec });
    }
}
