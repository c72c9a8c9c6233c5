//! One safe function per system call that no library wraps, named after its manual page.

#![allow(unsafe_code)] // The place for raw system calls.

pub mod child;
pub mod exported;
pub mod identity;
pub mod inode_flags;
pub mod lease;
pub mod memory;
pub mod mounts;
pub mod page_cache;
pub mod passing;
pub mod process;
pub mod threads;
pub mod truncate;
pub mod uuid;
pub mod writeback;

use rustix::io::Errno;

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
