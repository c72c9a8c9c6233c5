//! The options of a new mount, in the forms of mount(2) and of fusermount3.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::mount::MountFlags;

use crate::config::{Access, Config};
use crate::mount_table::MARK;

/// The options of a new mount.
#[derive(Debug)]
pub struct MountOptions {
    /// The mount point, absolute.
    pub mount_point: PathBuf,
    /// First column of /proc/mounts.
    pub fsname: OsString,
    /// Let fusermount3 unmount if the daemon dies.
    pub auto_unmount: bool,
    subtype: OsString,
    allow_other: bool,
    switches: [Switch; 8],
}

/// A generic option of mount(8).
#[derive(Debug)]
struct Switch {
    is_on: bool,
    flag: MountFlags,
    /// The words for fusermount3 when the option is on and off. Empty for the default of fusermount3.
    words: [&'static str; 2],
}

impl MountOptions {
    /// The mount options of `config`.
    pub fn new(config: &Config) -> Self {
        let switch = |is_on, flag, words| Switch { is_on, flag, words };
        let flags = config.flags;
        Self {
            mount_point: config.mount_point.clone(),
            fsname: config.fsname.clone(),
            auto_unmount: config.auto_unmount,
            subtype: config.subtype.clone(),
            allow_other: config.access != Access::Owner,
            switches: [
                switch(flags.read_only, MountFlags::RDONLY, ["ro", ""]),
                switch(flags.no_exec, MountFlags::NOEXEC, ["noexec", ""]),
                switch(flags.no_suid, MountFlags::NOSUID, ["", "suid"]),
                switch(flags.no_dev, MountFlags::NODEV, ["", "dev"]),
                switch(
                    flags.no_symfollow,
                    MountFlags::NOSYMFOLLOW,
                    ["nosymfollow", ""],
                ),
                switch(flags.no_atime, MountFlags::NOATIME, ["noatime", ""]),
                switch(flags.sync, MountFlags::SYNCHRONOUS, ["sync", ""]),
                switch(flags.dir_sync, MountFlags::DIRSYNC, ["dirsync", ""]),
            ],
        }
    }

    /// The flags of mount(2).
    pub fn flags(&self) -> MountFlags {
        let on = self.switches.iter().filter(|switch| switch.is_on);
        on.map(|switch| switch.flag).collect()
    }

    /// The filesystem type for mount(2).
    pub fn fs_type(&self) -> OsString {
        let mut fs_type = OsString::from("fuse.");
        fs_type.push(&self.subtype);
        fs_type
    }

    /// The data of mount(2), for the connection of `device`.
    pub fn data(&self, device: &OwnedFd) -> String {
        let mut data = format!(
            "fd={},rootmode=40000,user_id={},group_id={},default_permissions,{MARK}",
            device.as_raw_fd(),
            rustix::process::getuid(),
            rustix::process::getgid(),
        );
        if self.allow_other {
            data.push_str(",allow_other");
        }
        data
    }

    /// The value of fusermount3's `-o`.
    pub fn for_fusermount(&self) -> OsString {
        let fixed = ["default_permissions", MARK];
        let others = self.allow_other.then_some("allow_other");
        let auto_unmount = self.auto_unmount.then_some("auto_unmount");
        let switches = self.switches.iter().map(|switch| {
            let [on, off] = switch.words;
            if switch.is_on { on } else { off }
        });
        let words = fixed.into_iter().chain(others).chain(auto_unmount);
        let mut list = [b"fsname=", escape(&self.fsname).as_slice()].concat();
        list.extend([b",subtype=", escape(&self.subtype).as_slice()].concat());
        for word in words.chain(switches).filter(|word| !word.is_empty()) {
            list.extend([b",", word.as_bytes()].concat());
        }
        OsString::from_vec(list)
    }
}

/// `value` with a backslash before each comma and backslash.
fn escape(value: &OsStr) -> Vec<u8> {
    let special = |byte| matches!(byte, b',' | b'\\');
    let bytes = value.as_bytes().iter();
    bytes
        .flat_map(|&byte| special(byte).then_some(b'\\').into_iter().chain([byte]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MountFlags as Flags;

    fn options(flags: Flags) -> MountOptions {
        MountOptions::new(&Config {
            store: None,
            source: "/src".into(),
            mount_point: "/mnt".into(),
            foreground: true,
            access: Access::Owner,
            auto_unmount: false,
            threads: 1,
            window_size: 1 << 30,
            map_budget: None,
            write_path: Default::default(),
            sync_on_close: false,
            attr_timeout: Default::default(),
            entry_timeout: Default::default(),
            direct_io: false,
            passthrough: false,
            flags,
            fsname: r"/a,b\c".into(),
            subtype: "mmfs".into(),
            log: Default::default(),
            pid_file: None,
        })
    }

    #[test]
    fn mount_and_fusermount_get_the_same_flags() {
        let fixed = r"fsname=/a\,b\\c,subtype=mmfs,default_permissions,max_read=1835886195";
        let table = [
            (Flags::default(), MountFlags::empty(), ",suid,dev"),
            (
                Flags {
                    no_suid: true,
                    no_dev: true,
                    ..Flags::default()
                },
                MountFlags::NOSUID | MountFlags::NODEV,
                "",
            ),
            (
                Flags {
                    read_only: true,
                    no_exec: true,
                    no_suid: true,
                    no_dev: true,
                    no_symfollow: true,
                    no_atime: true,
                    sync: true,
                    dir_sync: true,
                },
                MountFlags::RDONLY
                    | MountFlags::NOEXEC
                    | MountFlags::NOSUID
                    | MountFlags::NODEV
                    | MountFlags::NOSYMFOLLOW
                    | MountFlags::NOATIME
                    | MountFlags::SYNCHRONOUS
                    | MountFlags::DIRSYNC,
                ",ro,noexec,nosymfollow,noatime,sync,dirsync",
            ),
        ];
        for (flags, wanted, words) in table {
            let options = options(flags);
            assert_eq!(options.flags(), wanted, "{flags:?}");
            let words = format!("{fixed}{words}");
            assert_eq!(options.for_fusermount(), OsStr::new(&words), "{flags:?}");
        }
    }
}
