//! A directory with a store, for one test. It is in memory where the machine has a tmpfs: a store syncs often.

use std::path::Path;
use std::sync::Arc;

use mmfs::store::check::Report;
use mmfs::store::opening::{Options, Recovery};
use mmfs::store::{Base, Directory, Store, Time, make};

/// The store, and the cookies of its lives.
pub struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// A new, empty store.
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let place = Self {
            directory: directory.unwrap(),
        };
        std::fs::create_dir(place.path()).unwrap();
        let base = Base {
            path: "/source".into(),
            filesystem: String::new(),
            root: 2,
            born: None,
        };
        make(&place.disk(), &base).unwrap();
        place
    }

    /// Where the store lies.
    pub fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("store")
    }

    fn disk(&self) -> Directory {
        Directory::open(&self.path()).unwrap()
    }

    fn options(&self) -> Options {
        Options {
            after_power_cut: false,
            cookies: Some(self.directory.path().join("cookies")),
            device: 0,
            ..Options::default()
        }
    }

    /// Opens the store.
    pub fn open(&self) -> (Arc<Store>, Recovery) {
        let opened = Store::open(Arc::new(self.disk()), &self.options()).unwrap();
        (Arc::new(opened.store), opened.recovery)
    }

    /// Checks the store.
    pub fn check(&self) -> Report {
        Report::of(&self.disk(), &self.options()).unwrap()
    }

    /// The names of all data files, as `node-number`.
    pub fn data_files(&self) -> Vec<String> {
        let directories = std::fs::read_dir(self.path().join("data")).unwrap();
        directories
            .flat_map(|directory| std::fs::read_dir(directory.unwrap().path()).unwrap())
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

/// Milliseconds since 1970 as a time.
pub fn time(milliseconds: u64) -> Time {
    Time {
        seconds: (milliseconds / 1000) as i64,
        nanoseconds: (milliseconds % 1000) as u32 * 1_000_000,
    }
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: {text}")))
}

/// Sebastiano Vigna's SplitMix64: random numbers from a seed.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of them.
    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}
