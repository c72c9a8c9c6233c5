//! The command line and the life of a mount, with the real program on real mounts. Run as root: the
//! ordinary user of these tests (uid 1000) gets a mount namespace with a /dev/fuse and an
//! /etc/fuse.conf of its own, so that nothing outside is changed.

mod dead;
mod life;
mod logs;
mod ordinary_user;
mod place;
mod refusals;
#[path = "../common/stopped.rs"]
mod stopped;
mod unmount;
