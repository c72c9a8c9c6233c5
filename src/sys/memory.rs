//! The allocator told to give back what was freed: `mallopt(3)` and `malloc_trim(3)`, which only glibc has.
#![allow(unsafe_code)]

/// Has all threads allocate from one store. With one for each, whichever thread happens to serve a request makes
/// its own store grow, and together they grow to several times of what is in use at once (measured: 8 rounds of
/// looking up and forgetting 60,000 files went from 10.8 to 13.3 MB and on; with one store, 10.3 MB every time).
pub fn keep_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes numbers only, and sets a number; called before there is a second thread or not.
    unsafe {
        // It fails only where the allocator was replaced by another one.
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives memory that was freed back to the system, also from below what is still in use.
pub fn malloc_trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number only, is thread-safe, and touches memory that nobody owns.
    unsafe {
        libc::malloc_trim(0);
    }
}
