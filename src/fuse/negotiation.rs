//! What mmfs asks of the kernel when a session begins.

use crate::request::MAX_REQUEST;
use fuser::{InitFlags, KernelConfig};

/// Background requests that the kernel may have open at a time. A file that does not answer keeps some of them for good.
const MAX_BACKGROUND: u16 = 1024;

/// What mmfs asks the kernel for. A kernel that does not know one of them works without it.
const WANTED: [InitFlags; 13] = [
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
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_ABORT_ERROR,
    InitFlags::FUSE_BIG_WRITES,
];

/// Asks for what mmfs wants, as far as the kernel knows it.
pub fn negotiate(config: &mut KernelConfig) {
    for flag in WANTED {
        // The error says that the kernel does not know this one.
        let _ = config.add_capabilities(flag);
    }
    let _ = config.set_max_write(MAX_REQUEST);
    let _ = config.set_max_background(MAX_BACKGROUND);
}

/// The names of the features that mmfs asks for: those that `offered` contains, and those that it lacks.
pub fn features(offered: InitFlags) -> (Vec<String>, Vec<String>) {
    let (in_use, missing): (Vec<_>, Vec<_>) = WANTED
        .iter()
        .flat_map(InitFlags::iter_names)
        .partition(|(_, flag)| offered.contains(*flag));
    let names = |flags: Vec<(&str, InitFlags)>| {
        let name = |name: &str| name.trim_start_matches("FUSE_").to_lowercase();
        flags.iter().map(|(flag, _)| name(flag)).collect()
    };
    (names(in_use), names(missing))
}
