//! What this machine's kernel offers to FUSE filesystems, asked of the kernel itself: it opens every
//! connection with INIT, so a mount that nobody sees tells.

use std::os::fd::AsRawFd;
use std::time::Duration;

use fuser::InitFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::mount::open_device;
use crate::sys::process;

/// FUSE_INIT, and where its fields lie behind the header of 40 bytes (linux/fuse.h).
const INIT: u32 = 26;
const OPCODE: usize = 4;
const MAJOR: usize = 40;
const MINOR: usize = 44;
const FLAGS: usize = 52;
const FLAGS2: usize = 56;

/// How long the kernel may take to say INIT.
const PATIENCE: Duration = Duration::from_secs(2);

/// The kernel's first word on a connection.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// FUSE protocol version.
    pub version: (u32, u32),
    /// What it can do.
    pub flags: InitFlags,
}

/// Asks. The process is in namespaces of its own afterwards: for one that is about to end.
///
/// # Errors
/// /dev/fuse cannot be opened, or nothing may be mounted here even unseen; EPROTO for a strange INIT.
pub fn offered() -> Result<Offer, Errno> {
    process::leave_namespaces()?;
    // Connections are opened and mounted in the same user namespace, or refused.
    let device = open_device()?;
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
    let limit = Timespec::try_from(PATIENCE).map_err(|_| Errno::INVAL)?;
    if poll(&mut [PollFd::new(&device, PollFlags::IN)], Some(&limit))? == 0 {
        return Err(Errno::TIMEDOUT);
    }
    // The kernel wants room for the largest request, even for INIT.
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
