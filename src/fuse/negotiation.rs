//! What mmfs asks of the kernel when a session begins.

use crate::request::MAX_REQUEST;
use fuser::{InitFlags, KernelConfig};
use std::io;

/// Background requests that the kernel may have open at a time. A file that does not answer keeps some of them for good.
const MAX_BACKGROUND: u16 = 1024;

/// What mmfs asks the kernel for. A kernel that does not know one of them works without it.
const WANTED: [InitFlags; 12] = [
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    // Without it, the kernel asks for security.capability before every write(2).
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_MAX_PAGES,
    // Node id and generation do not suffice to find a forgotten inode again.
    InitFlags::FUSE_NO_EXPORT_SUPPORT,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ABORT_ERROR,
    InitFlags::FUSE_BIG_WRITES,
];

/// What mmfs does not work without. With ACLs the kernel checks permissions, whatever the mount was made with: whether
/// that was `default_permissions` cannot be seen of every mount that another program has made.
const REQUIRED: InitFlags = InitFlags::FUSE_POSIX_ACL;

/// Asks for what mmfs wants, and returns what of it the kernel knows.
///
/// # Errors
/// The kernel would not check permissions.
pub fn negotiate(config: &mut KernelConfig) -> io::Result<InitFlags> {
    let known = ask(|flag| config.add_capabilities(flag).is_ok())?;
    let _ = config.set_max_write(MAX_REQUEST);
    let _ = config.set_max_background(MAX_BACKGROUND);
    Ok(known)
}

/// `add` says whether the kernel knows a feature, which it uses then.
fn ask(mut add: impl FnMut(InitFlags) -> bool) -> io::Result<InitFlags> {
    if !add(REQUIRED) {
        let why = "it has no ACLs, without which it need not check permissions";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    let wanted = WANTED.into_iter().filter(|flag| add(*flag));
    Ok(wanted.fold(REQUIRED, InitFlags::union))
}

/// The names of the features that mmfs asks for: those that `offered` contains, and those that it lacks.
pub fn features(offered: InitFlags) -> (Vec<String>, Vec<String>) {
    let (in_use, missing): (Vec<_>, Vec<_>) = WANTED
        .iter()
        .chain([&REQUIRED])
        .flat_map(InitFlags::iter_names)
        .partition(|(_, flag)| offered.contains(*flag));
    let names = |flags: Vec<(&str, InitFlags)>| {
        let name = |name: &str| name.trim_start_matches("FUSE_").to_lowercase();
        flags.iter().map(|(flag, _)| name(flag)).collect()
    };
    (names(in_use), names(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_would_not_check_permissions_is_refused() {
        let mut asked = InitFlags::empty();
        let refused = ask(|flag| {
            asked |= flag;
            flag != InitFlags::FUSE_POSIX_ACL
        });
        assert!(refused.unwrap_err().to_string().contains("permissions"));
        assert_eq!(asked, InitFlags::FUSE_POSIX_ACL, "nothing is agreed on");
        assert!(ask(|flag| flag == InitFlags::FUSE_POSIX_ACL).is_ok());
    }
}
