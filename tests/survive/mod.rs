//! What the tests of survival share: how long they run, their line of figures, bytes that say where they
//! belong, a look into the daemon from outside, and the watch for tasks that sleep where no signal wakes them.

#![allow(dead_code, reason = "every test binary uses another part of this")]

pub mod daemon;
pub mod faulty;
pub mod figures;
pub mod pattern;
pub mod sleepers;
pub mod strace;

#[allow(unused_imports, reason = "every test binary uses another part of this")]
pub use self::{figures::Figures, pattern::Seen, sleepers::Sleepers};

use std::time::Duration;

/// How long the test goes on: `short`, or what `MMFS_SOAK` or, for the short form, `MMFS_SECONDS` says.
pub fn length(short: u64) -> Duration {
    Duration::from_secs(soak().or_else(|| number("MMFS_SECONDS")).unwrap_or(short))
}

/// The seconds of the long form, if that is asked for.
pub fn soak() -> Option<u64> {
    number("MMFS_SOAK")
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Small and repeatable: xorshift64*.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Seeded by `MMFS_SEED` or the clock; says which.
    pub fn new() -> Self {
        let given = std::env::var("MMFS_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |d| d.as_nanos() as u64)
        });
        println!("MMFS_SEED={seed}");
        Rng(seed | 1)
    }

    /// Another one for a thread.
    pub fn fork(&mut self) -> Self {
        Rng(self.next() | 1)
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}
