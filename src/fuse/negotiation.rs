//! The features that mmfs asks the kernel for when a session begins.

use crate::request::MAX_REQUEST;
use fuser::{InitFlags, KernelConfig};
use std::io;

/// Maximum number of background requests that the kernel sends at once. A file that does not answer occupies some of them as
/// long as it does not.
const MAX_BACKGROUND: u16 = 1024;

/// Optional features. mmfs also works on a kernel that lacks some of them.
const WANTED: [InitFlags; 12] = [
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    // Without it, the kernel reads security.capability before every write(2).
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_MAX_PAGES,
    // A forgotten inode cannot be found by node id and generation alone.
    InitFlags::FUSE_NO_EXPORT_SUPPORT,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ABORT_ERROR,
    InitFlags::FUSE_BIG_WRITES,
];

/// The feature that mmfs requires. With ACLs the kernel checks permissions even on a mount without `default_permissions`. mmfs
/// cannot always see the options of a mount that another program has made.
const REQUIRED: InitFlags = InitFlags::FUSE_POSIX_ACL;

/// Asks the kernel for the features, and returns those that it has.
///
/// # Errors
/// The kernel would not check permissions.
pub fn negotiate(config: &mut KernelConfig) -> io::Result<InitFlags> {
    let known = ask(|flag| config.add_capabilities(flag).is_ok())?;
    let _ = config.set_max_write(MAX_REQUEST);
    let _ = config.set_max_background(MAX_BACKGROUND);
    Ok(known)
}

/// `add` turns on a feature, and returns whether the kernel has it.
fn ask(mut add: impl FnMut(InitFlags) -> bool) -> io::Result<InitFlags> {
    if !add(REQUIRED) {
        let why = "it has no ACLs on FUSE, so it might not check permissions";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    let wanted = WANTED.into_iter().filter(|flag| add(*flag));
    Ok(wanted.fold(REQUIRED, InitFlags::union))
}

/// The names of the features that mmfs asks for: those in `offered`, and the others.
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
