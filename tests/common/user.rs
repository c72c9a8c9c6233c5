//! Ordinary users: who they are, and running commands as one of them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use super::tools::tool;

const FUSE_CONF: &str = "/etc/fuse.conf";

/// Is this process root?
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The ordinary user that tests run things as: uid 1000 where there is such an account, else any other account
/// of a person, else `nobody`; when the tests run as an ordinary user, that one. It must have a name: fusermount3
/// unmounts for nobody else.
pub fn ordinary() -> u32 {
    if !is_root() {
        return rustix::process::geteuid().as_raw();
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let people: Vec<u32> = accounts
        .lines()
        .filter_map(|line| line.split(':').nth(2)?.parse().ok())
        .collect();
    let person = people
        .iter()
        .copied()
        .find(|uid| (1001..60_000).contains(uid));
    if people.contains(&1000) {
        1000
    } else {
        person.unwrap_or(65_534)
    }
}

/// The command, as this user, with a group of the same number and no other groups.
pub fn as_user(uid: u32, program: impl AsRef<OsStr>) -> Command {
    let mut words = become_user(uid);
    words.push(program.as_ref().to_owned());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// The words that turn the command after them into one of this user's; none for the user we are already.
pub fn become_user(uid: u32) -> Vec<OsString> {
    if rustix::process::geteuid().as_raw() == uid {
        return Vec::new();
    }
    let options = [
        format!("--reuid={uid}"),
        format!("--regid={uid}"),
        "--clear-groups".into(),
        "--".into(),
    ];
    [tool("setpriv").into()]
        .into_iter()
        .chain(options.map(OsString::from))
        .collect()
}

/// Lets ordinary users mount and share mounts, as on an ordinary Debian: /dev/fuse open to all, `user_allow_other`
/// in /etc/fuse.conf. Root arranges it; anybody else must find it so.
pub fn let_users_mount() {
    super::fuse::require_device();
    if is_root() {
        let device = Path::new("/dev/fuse");
        if fs::metadata(device).expect("/dev/fuse").mode() & 0o666 != 0o666 {
            fs::set_permissions(device, fs::Permissions::from_mode(0o666))
                .expect("chmod /dev/fuse");
        }
        if !users_may_share() {
            let text = fs::read_to_string(FUSE_CONF).unwrap_or_default();
            fs::write(
                FUSE_CONF,
                format!("{}\nuser_allow_other\n", text.trim_end()),
            )
            .expect(FUSE_CONF);
        }
    }
    assert!(
        users_may_share(),
        "user_allow_other is missing in {FUSE_CONF}: run scripts/test as root once"
    );
}

fn users_may_share() -> bool {
    let text = fs::read_to_string(FUSE_CONF).unwrap_or_default();
    text.lines().any(|line| line.trim() == "user_allow_other")
}

/// Makes the file or directory itself the user's.
pub fn give_to(uid: u32, path: &Path) {
    std::os::unix::fs::chown(path, Some(uid), Some(uid))
        .unwrap_or_else(|e| panic!("chown {}: {e}", path.display()));
}
