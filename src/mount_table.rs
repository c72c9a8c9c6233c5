//! The mount table, /proc/self/mountinfo. Its paths are bytes: they need not be UTF-8.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// An option of every mount made by mmfs, by which it recognises them. It limits reads to this many bytes: the word `mmfs` as a
/// number. That is far above all limits in force, so it changes nothing. The mount table shows it to each process in each
/// namespace, for any type and name of the mount, also when the daemon is dead. The kernel sends no request for it. fusermount3
/// passes it on for ordinary users.
pub const MARK: &str = "max_read=1835886195";

/// One mount: a line of proc_pid_mountinfo(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Mount number. The kernel may use it again after an unmount.
    pub id: u64,
    /// Number of the mount below this one.
    pub parent: u64,
    /// `st_dev` of its files.
    pub device: u64,
    /// What of the filesystem is mounted: a path from the filesystem's own root.
    pub root: PathBuf,
    /// The mount point, as seen from this process's root.
    pub mount_point: PathBuf,
    /// The filesystem's type, such as `fuse.mmfs`.
    pub fs_type: OsString,
    /// The mounted device. For mounts of mmfs without `--fsname` it is the source's path.
    pub source: OsString,
    /// The mount's own options, such as `rw,nosuid,nodev`.
    flags: OsString,
    /// The filesystem's own options, such as `rw,user_id=0,default_permissions`.
    super_options: OsString,
}

impl Mount {
    /// Reads `42 27 0:39 / /mnt rw,relatime shared:7 - fuse.mmfs /src rw,user_id=0,group_id=0`.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let id = number(fields.next()?)?;
        let parent = number(fields.next()?)?;
        let (device, root) = (fields.next()?, unescape(fields.next()?));
        let mount_point = unescape(fields.next()?);
        let flags = unescape(fields.next()?);
        // Before the single dash: any number of optional fields.
        fields.find(|field| *field == b"-")?;
        let (fs_type, source) = (fields.next()?, fields.next()?);
        Some(Self {
            id,
            parent,
            device: device_number(device)?,
            root: root.into(),
            mount_point: mount_point.into(),
            fs_type: unescape(fs_type),
            source: unescape(source),
            flags,
            super_options: unescape(fields.next()?),
        })
    }

    /// Whether mmfs has made it, or another program has with mmfs's mark.
    pub fn is_mmfs(&self) -> bool {
        self.is_fuse() && self.has_super_option(MARK)
    }

    /// Whether it is a FUSE mount.
    pub fn is_fuse(&self) -> bool {
        let fs_type = self.fs_type.as_encoded_bytes();
        fs_type == b"fuse" || fs_type == b"fuseblk" || fs_type.starts_with(b"fuse.")
    }

    /// The user and the group that own a FUSE mount. The ids are those of the user namespace it was mounted in, for each reader
    /// of the table.
    pub fn owner(&self) -> Option<(u32, u32)> {
        let options = std::str::from_utf8(self.super_options.as_encoded_bytes()).ok()?;
        let number = |name: &str| {
            let value = |option: &str| option.strip_prefix(name)?.parse().ok();
            options.split(',').find_map(value)
        };
        Some((number("user_id=")?, number("group_id=")?))
    }

    /// Whether `option` is one of the filesystem's own options.
    pub fn has_super_option(&self, option: &str) -> bool {
        is_in_list(option, &self.super_options)
    }

    /// Whether `flag` is one of the mount's own options.
    pub fn has_flag(&self, flag: &str) -> bool {
        is_in_list(flag, &self.flags)
    }
}

fn is_in_list(option: &str, list: &OsStr) -> bool {
    let mut options = list.as_encoded_bytes().split(|&byte| byte == b',');
    options.any(|one| one == option.as_bytes())
}

/// All mounts of the table. On one mount point, later ones cover earlier ones.
///
/// # Errors
/// Those of reading /proc/self/mountinfo.
pub fn read() -> io::Result<Vec<Mount>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    let lines = table.split(|&byte| byte == b'\n');
    Ok(lines.filter_map(Mount::parse).collect())
}

/// The first mount of the table for which `wanted` is true.
///
/// # Errors
/// Those of `read`.
pub fn find(wanted: impl Fn(&Mount) -> bool) -> io::Result<Option<Mount>> {
    Ok(read()?.into_iter().find(wanted))
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// `st_dev` from `major:minor`.
fn device_number(field: &[u8]) -> Option<u64> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some(rustix::fs::makedev(
        major.parse().ok()?,
        minor.parse().ok()?,
    ))
}

/// Decodes escapes: the kernel writes a blank, tab, newline or backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match escaped(rest) {
            Some(byte) => (byte, &rest[4..]),
            None => (first, after),
        };
        bytes.push(byte);
        rest = after;
    }
    OsString::from_vec(bytes)
}

/// The byte that the escape at the beginning of `text` stands for.
fn escaped(text: &[u8]) -> Option<u8> {
    let digit = |byte: u8| {
        byte.is_ascii_digit()
            .then(|| u32::from(byte - b'0'))
            .filter(|d| *d < 8)
    };
    match text {
        [b'\\', a, b, c, ..] => {
            let code = digit(*a)? << 6 | digit(*b)? << 3 | digit(*c)?;
            u8::try_from(code).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    const LINE: &[u8] =
        b"42 27 0:39 / /mnt rw,relatime shared:7 - fuse.mmfs /src rw,user_id=0,default_permissions";

    fn mounted_on(point: &[u8]) -> Mount {
        let line = [b"42 27 0:39 /a\\040b ", point, b" rw - fuse.mmfs none rw"].concat();
        Mount::parse(&line).unwrap()
    }

    #[test]
    fn a_line_has_typed_fields() {
        let mount = Mount::parse(LINE).unwrap();
        assert_eq!((mount.id, mount.parent), (42, 27));
        assert_eq!(mount.device, rustix::fs::makedev(0, 39));
        assert_eq!(
            (&*mount.root, &*mount.mount_point),
            (Path::new("/"), Path::new("/mnt"))
        );
        assert_eq!(
            (&*mount.fs_type, &*mount.source),
            ("fuse.mmfs".as_ref(), "/src".as_ref())
        );
        assert!(mount.has_super_option("default_permissions") && mount.has_super_option("rw"));
        assert!(!mount.has_super_option("permissions") && !mount.has_super_option("relatime"));
    }

    #[test]
    fn the_owner_is_read() {
        let line = b"42 27 0:39 / /mnt rw - fuse.mmfs /src rw,user_id=1000,group_id=100,max_read=1";
        assert_eq!(Mount::parse(line).unwrap().owner(), Some((1000, 100)));
        assert_eq!(Mount::parse(LINE).unwrap().owner(), None);
    }

    #[test]
    fn optional_fields_may_be_missing_or_many() {
        for optional in ["", " shared:7", " shared:7 master:1 propagate_from:2"] {
            let line = format!("42 27 8:1 / /-/mnt rw{optional} - ext4 /dev/sda1 rw");
            let mount = Mount::parse(line.as_bytes()).unwrap();
            assert_eq!(mount.mount_point, Path::new("/-/mnt"), "{optional}");
            assert_eq!(mount.fs_type, "ext4", "{optional}");
        }
    }

    #[test]
    fn escapes_are_undone() {
        let table: [(&[u8], &[u8]); 8] = [
            (br"/tmp/a\040b\134", br"/tmp/a b\"),
            (br"/\011\012\043", b"/\t\n#"),
            (br"/\134040", br"/\040"),
            (br"/\377\000", b"/\xff\0"),
            // The kernel writes none of these. They are kept as they are.
            (br"/\400", br"/\400"),
            (br"/\08x", br"/\08x"),
            (br"/a\04", br"/a\04"),
            (br"/a\", br"/a\"),
        ];
        for (field, path) in table {
            let point = mounted_on(field).mount_point;
            assert_eq!(point.as_os_str(), OsStr::from_bytes(path), "{field:?}");
        }
    }

    #[test]
    fn paths_need_not_be_utf_8() {
        for (field, path) in [
            (&b"/caf\xe9"[..], &b"/caf\xe9"[..]),
            (b"/\xff\\040\xfe", b"/\xff \xfe"),
        ] {
            let point = mounted_on(field).mount_point;
            assert_eq!(point.as_os_str(), OsStr::from_bytes(path), "{field:?}");
        }
    }

    #[test]
    fn mounts_of_mmfs_are_recognised_by_their_mark() {
        let number = u32::from_be_bytes(*b"mmfs");
        assert_eq!(MARK, format!("max_read={number}"));
        let mark = format!("user_id=0,{MARK},allow_other");
        for (fs_type, options, is_mmfs, is_fuse) in [
            ("fuse.mmfs", &*mark, true, true),
            ("fuse.other", &mark, true, true),
            ("fuse", &mark, true, true),
            ("fuse.mmfs", "user_id=0", false, true),
            ("fuse.sshfs", "max_read=65536", false, true),
            ("fuse.sshfs", "max_read=18358861950", false, true),
            ("fuseblk", "user_id=0", false, true),
            ("ext4", &mark, false, false),
            ("fusectl", &mark, false, false),
        ] {
            let line = format!("40 30 0:52 / /mnt rw,nosuid - {fs_type} /src rw,{options}");
            let mount = Mount::parse(line.as_bytes()).unwrap();
            assert_eq!(
                (mount.is_mmfs(), mount.is_fuse()),
                (is_mmfs, is_fuse),
                "{fs_type} {options}"
            );
        }
    }

    #[test]
    fn malformed_lines_are_left_out() {
        for line in [
            &b""[..],
            b"42 27 0:39",
            b"42 27 0:39 / /mnt rw fuse.mmfs /src rw",
            b"42 27 0:39 / /mnt rw - fuse.mmfs /src",
            b"x 27 0:39 / /mnt rw - fuse.mmfs /src rw",
            b"42 27 39 / /mnt rw - fuse.mmfs /src rw",
        ] {
            assert_eq!(Mount::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_root_is_in_the_table() {
        let root = find(|mount| mount.mount_point == Path::new("/")).unwrap();
        assert!(root.is_some_and(|root| root.id != 0));
        assert_eq!(find(|_| false).unwrap(), None);
    }
}
