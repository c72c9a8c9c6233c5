//! Finds out which FUSE features this machine's kernel has. The kernel sends them in INIT, the first request on every connection.
//! So this module makes a mount in namespaces of its own.

use std::os::fd::AsRawFd;
use std::time::Duration;

use fuser::InitFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::device;
use crate::sys::process;

/// The opcode of FUSE_INIT, then offsets in that request. Its header has 40 bytes (linux/fuse.h).
const INIT: u32 = 26;
const OPCODE: usize = 4;
const MAJOR: usize = 40;
const MINOR: usize = 44;
const FLAGS: usize = 52;
const FLAGS2: usize = 56;

/// How long the kernel may take to send INIT.
const INIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The contents of INIT.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// FUSE protocol version.
    pub version: (u32, u32),
    /// The features that the kernel has.
    pub flags: InitFlags,
}

/// Mounts in new namespaces and reads INIT. The process stays in those namespaces, so it must end soon.
///
/// # Errors
/// Those of opening /dev/fuse, unshare(2) and mount(2). ETIMEDOUT if no INIT comes. EPROTO if it cannot be parsed.
pub fn offered() -> Result<Offer, Errno> {
    process::leave_namespaces()?;
    // The kernel requires that /dev/fuse is opened and mounted in the same user namespace.
    let device = device::open()?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0\0",
        device.as_raw_fd()
    );
    let options =
        std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).map_err(|_| Errno::INVAL)?;
    mount(c"none", c"/", c"fuse", MountFlags::empty(), options)?;
    let limit = Timespec::try_from(INIT_TIMEOUT).map_err(|_| Errno::INVAL)?;
    if poll(&mut [PollFd::new(&device, PollFlags::IN)], Some(&limit))? == 0 {
        return Err(Errno::TIMEDOUT);
    }
    // The kernel requires a buffer for the largest request, even for INIT.
    let mut request = vec![0; 1 << 16];
    let length = rustix::io::read(&device, &mut request)?;
    parse(&request[..length]).ok_or(Errno::PROTO)
}

fn parse(request: &[u8]) -> Option<Offer> {
    let word = |at: usize| {
        let bytes = request.get(at..at + 4)?;
        bytes.try_into().ok().map(u32::from_ne_bytes)
    };
    if word(OPCODE)? != INIT {
        return None;
    }
    let low = InitFlags::from_bits_retain(word(FLAGS)?.into());
    let high = match low.contains(InitFlags::FUSE_INIT_EXT) {
        true => u64::from(word(FLAGS2)?) << 32,
        false => 0,
    };
    Some(Offer {
        version: (word(MAJOR)?, word(MINOR)?),
        flags: low | InitFlags::from_bits_retain(high),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_of_the_flags_are_read() {
        let mut request = vec![0; 104];
        let mut set =
            |at: usize, word: u32| request[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        set(OPCODE, INIT);
        set(MAJOR, 7);
        set(MINOR, 45);
        set(FLAGS, 1 | 1 << 30);
        set(FLAGS2, 1 << 4);
        let offer = parse(&request).unwrap();
        assert_eq!(offer.version, (7, 45));
        assert_eq!(offer.flags.bits(), 1 | 1 << 30 | 1 << 36);
        request[FLAGS + 3] = 0;
        assert_eq!(parse(&request).unwrap().flags.bits(), 1);
        request[OPCODE] = 1;
        assert!(parse(&request).is_none() && parse(&[]).is_none());
    }
}
