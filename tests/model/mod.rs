//! Random commands for a filesystem, what each must answer, and how two filesystems are compared by them.
//!
//! [`reference::Reference`] is a filesystem that is obviously right; [`directory::Directory`] is a real one, reached
//! by system calls. The model test compares the first with a mount, the twin test a plain directory with a mount.

#![allow(dead_code, reason = "the model test and the twin test each use a part")]

pub mod command;
pub mod directory;
pub mod generate;
pub mod inodes;
pub mod reference;
pub mod stage;
pub mod sys;
pub mod tree;

use command::{Command, Outcome};
use tree::Tree;

/// What commands can be given to.
pub trait Filesystem {
    /// Carries the command out.
    fn apply(&mut self, command: &Command) -> Outcome;

    /// Everything that is in it; an error when what is listed cannot be looked at.
    fn tree(&self) -> Result<Tree, String>;
}
