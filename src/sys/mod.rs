//! One safe function per system call that no library wraps, named as its manual page.

#![allow(unsafe_code)] // the address for raw system calls

pub mod exported;
pub mod identity;
pub mod process;
