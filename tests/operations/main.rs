//! The operations of `mmfs::fs` on the model's inodes as a view: no mount, no root, no daemon.

#[path = "../model/inodes/mod.rs"]
mod inodes;
mod memory;
mod served;

mod attributes;
mod cache;
mod directories;
mod durability;
mod files;
mod handles;
mod housekeeping;
mod lookups;
mod names;
mod ranges;
mod read_only;
mod xattrs;
