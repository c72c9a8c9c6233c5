//! Tells the kernel at once, before the request is answered, what it does not notice by itself that a request has
//! changed.

use std::sync::OnceLock;

/// Has the kernel ask for attributes anew, once it can be told.
#[derive(Default)]
pub struct Alarm(OnceLock<Box<dyn Fn(u64) + Send + Sync>>);

impl std::fmt::Debug for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Alarm")
    }
}

impl Alarm {
    /// `tell` gives the kernel the number of a node whose attributes are out of date. Only the first one counts.
    pub fn connect(&self, tell: impl Fn(u64) + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(tell));
    }

    /// The attributes of `node` have changed.
    pub fn raise(&self, node: u64) {
        if let Some(tell) = self.0.get() {
            tell(node);
        }
    }
}
