//! What has to be done without anybody asking.

use super::Mapping;
use std::sync::Weak;

/// What a mapping asks the session's housekeeping thread to do.
#[derive(Debug)]
pub enum Chore {
    /// The kernel's cache of a file is out of date and must go.
    Invalidate(Outdated),
    /// Time stamps of this mapping wait to be applied.
    Settle(Weak<Mapping>),
    /// A file was opened while none was watched: watch open files from now on.
    Watch,
    /// Many inodes were forgotten: their memory can go back.
    Trim,
}

/// A file of which the kernel has cached what is no longer so.
#[derive(Debug)]
pub struct Outdated {
    /// Its node.
    pub node: u64,
    /// Waits to hear that the cache was dropped.
    pub mapping: Weak<Mapping>,
    /// Goes on after that.
    pub then: Option<Sequel>,
}

/// What goes on when this is dropped, wherever that is: nobody can forget to answer.
pub struct Sequel(Option<Box<dyn FnOnce() + Send>>);

impl Sequel {
    /// Goes on with `then`.
    pub fn new(then: impl FnOnce() + Send + 'static) -> Self {
        Sequel(Some(Box::new(then)))
    }
}

impl Drop for Sequel {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then();
        }
    }
}

impl std::fmt::Debug for Sequel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sequel")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_sequel_runs_once_even_when_nobody_takes_the_chore() {
        let (chores, nobody) = channel();
        let (answers, answered) = channel();
        drop(nobody);
        let outdated = Outdated {
            node: 7,
            mapping: Weak::new(),
            then: Some(Sequel::new(move || answers.send(()).expect("a listener"))),
        };
        drop(chores.send(Chore::Invalidate(outdated)));
        assert_eq!(answered.iter().count(), 1);
    }
}
