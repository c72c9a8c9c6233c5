//! The guarded copy: a copy to or from a mapping that returns an error where a plain copy would raise SIGBUS.
//!
//! It is a short assembly loop between two labels. When SIGBUS interrupts it there, the handler resumes the thread at the
//! second label. A register then holds the number of bytes left. Any other SIGBUS goes to the handler that was installed
//! before.
#![allow(unsafe_code)] // A signal handler and an assembly loop; a comment at each use says why it is sound.

use std::io;

/// Whether there is a guarded copy for this CPU. If not, every copy fails with nothing copied, and callers use pread(2) and
/// pwrite(2).
pub const AVAILABLE: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// The kernel could not provide a page: it is beyond the end of a truncated file, the disk is full, or the
/// device failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// How many bytes at the front were copied for certain.
    pub copied: usize,
}

/// Proof that the SIGBUS handler is installed. Only [`install`] makes one, and [`copy`] requires it. The handler stays
/// installed, so the proof holds for the life of the process, in every thread.
#[derive(Debug, Clone, Copy)]
pub struct Installed(());

/// Installs the SIGBUS handler once. Later calls return the result of the first. Without a guarded copy for this CPU it does
/// nothing.
///
/// # Errors
/// Those of sigaction(2).
pub fn install() -> io::Result<Installed> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        use std::sync::OnceLock;
        static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
        let result = INSTALLED
            .get_or_init(|| loops::install().map_err(|e| e.raw_os_error().unwrap_or(libc::EINVAL)));
        result.map_err(io::Error::from_raw_os_error)?;
    }
    Ok(Installed(()))
}

/// Copies `len` bytes from `src` to `dst`, either of which may be a mapping of a file.
///
/// # Errors
/// The kernel could not provide a page.
///
/// # Safety
/// - `src` is mapped readable and `dst` writable for `len` bytes, and stay so during the call (the file
///   behind either may shrink meanwhile: that is the fault reported here);
/// - the two do not overlap;
/// - no reference of Rust's covers what is written, or the bytes of a mapping.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub unsafe fn copy(_: Installed, dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    // SAFETY:
    // - the caller's promises are the loop's conditions about memory;
    // - where the kernel cannot provide a page, the handler, which is installed, ends the loop;
    // - the loop follows the C calling convention.
    match unsafe { loops::mmfs_guarded_copy(dst, src, len) } {
        0 => Ok(()),
        left => Err(Fault { copied: len - left }),
    }
}

/// Fails with nothing copied: there is no guarded copy for this CPU.
///
/// # Safety
/// No condition; the signature is that of the other CPUs.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub unsafe fn copy(_: Installed, _dst: *mut u8, _src: *const u8, len: usize) -> Result<(), Fault> {
    if len == 0 {
        Ok(())
    } else {
        Err(Fault { copied: 0 })
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod loops {
    use libc::{c_int, c_void, siginfo_t, ucontext_t};
    use std::io;
    use std::sync::OnceLock;

    // After a fault in `rep movsb`, rcx holds the number of bytes not yet moved.
    #[cfg(target_arch = "x86_64")]
    std::arch::global_asm!(
        ".pushsection .text.mmfs_guarded_copy, \"ax\", @progbits",
        ".globl mmfs_guarded_copy",
        ".globl mmfs_guarded_copy_begin",
        ".globl mmfs_guarded_copy_end",
        ".hidden mmfs_guarded_copy",
        ".hidden mmfs_guarded_copy_begin",
        ".hidden mmfs_guarded_copy_end",
        ".type mmfs_guarded_copy, @function",
        ".p2align 4",
        "mmfs_guarded_copy:", // rdi: dst, rsi: src, rdx: len; rax: bytes not copied
        ".cfi_startproc",
        "mov rcx, rdx",
        "mmfs_guarded_copy_begin:",
        "rep movsb",
        "mmfs_guarded_copy_end:",
        "mov rax, rcx",
        "ret",
        ".cfi_endproc",
        ".size mmfs_guarded_copy, . - mmfs_guarded_copy",
        ".popsection",
    );

    // x2 counts down after each store. So at a fault it is the number of bytes left, including all 16 of the last step.
    #[cfg(target_arch = "aarch64")]
    std::arch::global_asm!(
        ".pushsection .text.mmfs_guarded_copy, \"ax\", %progbits",
        ".globl mmfs_guarded_copy",
        ".globl mmfs_guarded_copy_begin",
        ".globl mmfs_guarded_copy_end",
        ".hidden mmfs_guarded_copy",
        ".hidden mmfs_guarded_copy_begin",
        ".hidden mmfs_guarded_copy_end",
        ".type mmfs_guarded_copy, %function",
        ".p2align 4",
        "mmfs_guarded_copy:", // x0: dst, x1: src, x2: len; x0: bytes not copied
        ".cfi_startproc",
        "mmfs_guarded_copy_begin:",
        "cmp x2, #16",
        "b.lo 3f",
        "2:",
        "ldp x3, x4, [x1]",
        "stp x3, x4, [x0]",
        "add x1, x1, #16",
        "add x0, x0, #16",
        "sub x2, x2, #16",
        "cmp x2, #16",
        "b.hs 2b",
        "3:",
        "cbz x2, 5f",
        "4:",
        "ldrb w3, [x1], #1",
        "strb w3, [x0], #1",
        "subs x2, x2, #1",
        "b.ne 4b",
        "5:",
        "mmfs_guarded_copy_end:",
        "mov x0, x2",
        "ret",
        ".cfi_endproc",
        ".size mmfs_guarded_copy, . - mmfs_guarded_copy",
        ".popsection",
    );

    unsafe extern "C" {
        pub fn mmfs_guarded_copy(dst: *mut u8, src: *const u8, len: usize) -> usize;
        static mmfs_guarded_copy_begin: u8;
        static mmfs_guarded_copy_end: u8;
    }

    type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
    type PlainHandler = extern "C" fn(c_int);

    /// The action for SIGBUS before [`install`].
    static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

    /// Installs the handler. The present action is stored first, because the handler needs it.
    pub fn install() -> io::Result<()> {
        let present = sigaction(None)?;
        PREVIOUS.get_or_init(|| present);
        let flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        sigaction(Some(&action(
            on_sigbus as Handler as libc::sighandler_t,
            flags,
        )))
        .map(drop)
    }

    fn action(handler: libc::sighandler_t, flags: c_int) -> libc::sigaction {
        // SAFETY: sigaction is plain integers and an optional function pointer; all zero is valid.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        action
    }

    /// sigaction(2) for SIGBUS: sets a new action if one is given, and returns the old one.
    fn sigaction(new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
        let mut old = action(libc::SIG_DFL, 0);
        // SAFETY:
        // - `act` is null or a live sigaction, whose handler has the signature its flags say;
        // - `oldact` is a live, writable sigaction.
        match unsafe {
            libc::sigaction(libc::SIGBUS, new.map_or(std::ptr::null(), |n| n), &mut old)
        } {
            0 => Ok(old),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Moves a thread that was interrupted in the copy loop to the loop's end. False if it was elsewhere.
    fn resume_at_end(context: &mut ucontext_t) -> bool {
        let begin = &raw const mmfs_guarded_copy_begin as usize;
        let end = &raw const mmfs_guarded_copy_end as usize;
        #[cfg(target_arch = "x86_64")]
        let ip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
        #[cfg(target_arch = "aarch64")]
        let ip = &mut context.uc_mcontext.pc;
        let within = (begin..end).contains(&(*ip as usize));
        if within {
            *ip = end as _;
        }
        within
    }

    /// Async-signal-safe: at a fault of the copy loop two loads and a store, otherwise system calls only.
    extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
        // SAFETY:
        // - under SA_SIGINFO the third argument points to the interrupted thread's ucontext_t;
        // - it lies on this handler's frame, writable, and no other reference to it exists.
        let context_of_thread = unsafe { &mut *context.cast::<ucontext_t>() };
        // SAFETY: under SA_SIGINFO the second argument points to a filled siginfo_t.
        let sent = unsafe { (*info).si_code } <= 0;
        if sent || !resume_at_end(context_of_thread) {
            chain(signal, info, context, sent);
        }
    }

    /// Does what the earlier action would do. `sent`: the signal comes from kill(2) or the like, so returning would not raise
    /// it again.
    fn chain(signal: c_int, info: *mut siginfo_t, context: *mut c_void, sent: bool) {
        let default = action(libc::SIG_DFL, 0);
        let previous = PREVIOUS.get().unwrap_or(&default);
        match previous.sa_sigaction {
            libc::SIG_IGN if sent => {}
            // A fault kills the process even if SIGBUS is ignored, as in the kernel.
            libc::SIG_DFL | libc::SIG_IGN => {
                // It cannot fail: signal and pointers are valid.
                let _ = sigaction(Some(&default));
                if sent {
                    // SAFETY: raise has no conditions; the signal is blocked until this handler returns.
                    unsafe { libc::raise(signal) };
                }
            }
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                // SAFETY: under SA_SIGINFO, and not SIG_DFL or SIG_IGN, it is a function of this signature.
                let handler =
                    unsafe { std::mem::transmute::<libc::sighandler_t, Handler>(handler) };
                handler(signal, info, context);
            }
            handler => {
                // SAFETY: without SA_SIGINFO, and not SIG_DFL or SIG_IGN, it is a function of this signature.
                let handler =
                    unsafe { std::mem::transmute::<libc::sighandler_t, PlainHandler>(handler) };
                handler(signal);
            }
        }
    }
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests;
