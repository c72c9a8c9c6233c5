//! The data files: one sparse file for each file that has bytes in the store.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::codec::damaged;
use super::disk::{Disk, DiskFile, How};
use super::node::NodeId;

/// How many data files are kept open.
const OPEN: usize = 256;
/// Data files are spread over so many directories.
pub const DIRECTORIES: u64 = 256;

/// An open data file.
pub struct Data {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// It is known to be no longer than the file of the view, if that is whole.
    pub trimmed: AtomicBool,
    used: AtomicU64,
}

/// The directory of the node's data files.
pub fn directory(id: NodeId) -> PathBuf {
    Path::new("data").join(format!("{:02x}", id.0 % DIRECTORIES))
}

/// Makes the directories of data files.
pub fn make_directories(disk: &dyn Disk) -> io::Result<()> {
    disk.make_directory(Path::new("data"))?;
    for number in 0..DIRECTORIES {
        disk.make_directory(&directory(NodeId(number)))?;
    }
    disk.sync_directory(Path::new("data"))
}

/// Makes directories of data files that somebody has removed. What was in them is lost, and the rest goes on.
pub fn make_missing(disk: &dyn Disk) -> io::Result<()> {
    let there = match disk.list(Path::new("data")) {
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        names => names?.len() as u64,
    };
    match there < DIRECTORIES {
        true => make_directories(disk),
        false => Ok(()),
    }
}

/// The data file of a node with this number.
pub fn path(id: NodeId, data: u64) -> PathBuf {
    directory(id).join(format!("{:x}-{data:x}", id.0))
}

/// The node and the number, from the name of a data file. None: it is none.
pub fn parse(name: &str) -> Option<(NodeId, u64)> {
    let (id, data) = name.split_once('-')?;
    let id = NodeId::checked(u64::from_str_radix(id, 16).ok()?).ok()?;
    let data = u64::from_str_radix(data, 16).ok()?;
    (path(id, data).file_name()?.to_str()? == name).then_some((id, data))
}

/// The open data files.
pub struct DataFiles {
    /// How those that are there are opened.
    how: How,
    open: Mutex<HashMap<(NodeId, u64), Arc<Data>>>,
    clock: AtomicU64,
}

impl DataFiles {
    /// None is open.
    pub fn new(how: How) -> Self {
        Self {
            how,
            open: Mutex::default(),
            clock: AtomicU64::new(0),
        }
    }

    /// The node's data file, opened if it is not open. None: there is none.
    ///
    /// # Errors
    /// EUCLEAN if something else has its name, or that of the open.
    pub fn get(&self, disk: &dyn Disk, id: NodeId, data: u64) -> io::Result<Option<Arc<Data>>> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        if let Some(found) = self.open.lock().get(&(id, data)) {
            found.used.store(now, Ordering::Relaxed);
            return Ok(Some(Arc::clone(found)));
        }
        match disk.open(&path(id, data), self.how) {
            Ok(file) => Ok(Some(self.keep(id, data, file, false))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            // A symbolic link, a device or a second name: nothing that mmfs put there.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ELOOP | libc::EINVAL | libc::EXDEV | libc::ENXIO)
                ) =>
            {
                Err(damaged())
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the node's data file, empty.
    ///
    /// # Errors
    /// That of the open.
    pub fn make(&self, disk: &dyn Disk, id: NodeId, data: u64) -> io::Result<Arc<Data>> {
        let file = disk.open(&path(id, data), How::Empty)?;
        Ok(self.keep(id, data, file, true))
    }

    fn keep(&self, id: NodeId, data: u64, file: Arc<dyn DiskFile>, trimmed: bool) -> Arc<Data> {
        let used = AtomicU64::new(self.clock.fetch_add(1, Ordering::Relaxed));
        let new = Arc::new(Data {
            file,
            trimmed: AtomicBool::new(trimmed),
            used,
        });
        let mut open = self.open.lock();
        if open.len() >= OPEN {
            let oldest = open
                .iter()
                .min_by_key(|(_, data)| data.used.load(Ordering::Relaxed))
                .map(|(key, _)| *key);
            oldest.map(|key| open.remove(&key));
        }
        Arc::clone(open.entry((id, data)).or_insert(new))
    }

    /// Closes the data file, if it is open.
    pub fn close(&self, id: NodeId, data: u64) {
        self.open.lock().remove(&(id, data));
    }
}
