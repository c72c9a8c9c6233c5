//! Compares what a view shows with what must be there.

use std::fs;
use std::io;
use std::path::Path;

use mmfs::store::NodeId;

use crate::history::{Durable, History, Possible, SECTOR, sector_of};
use crate::private_load::load::Shared;

/// What a comparison found to compare.
#[derive(Debug, Default)]
pub struct Compared {
    pub files: u64,
    pub sectors: u64,
    /// Steps that were durable, and those that were kept beyond them.
    pub durable: u64,
    pub beyond: u64,
}

/// The steps after which a thread's directory is what it is: the least number, and the greatest.
type Kept = (usize, usize);

/// `durable`: as of a moment before the end. All steps that are in the histories may have been made.
pub fn verify(root: &Path, shared: &Shared, durable: &[Durable], compared: &mut Compared) {
    let histories: Vec<History> = shared
        .histories
        .iter()
        .map(|history| history.lock().unwrap().clone())
        .collect();
    let kept: Vec<Kept> = histories
        .iter()
        .enumerate()
        .map(|(thread, history)| {
            let directory = root.join(&shared.directories[thread]);
            kept(&directory, history, &durable[thread], compared)
                .unwrap_or_else(|reason| panic!("thread {thread}: {reason}"))
        })
        .collect();
    for (thread, history) in histories.iter().enumerate() {
        prefix(&histories, &kept, thread);
        let must = history.last_name(durable[thread].meta);
        compared.durable += must as u64;
        compared.beyond += (kept[thread].0 - must) as u64;
    }
}

/// Finds the steps after which the directory is what it is. Several may lead to the same names, with other files in their places.
fn kept(
    directory: &Path,
    history: &History,
    durable: &Durable,
    compared: &mut Compared,
) -> Result<Kept, String> {
    let files = files(directory);
    let shown: Vec<_> = files.iter().map(|(name, _)| name).collect();
    let must = history.last_name(durable.meta);
    let mut reason = format!(
        "the names {shown:?} are not those after step {must} or a later one: {:?}",
        history.names(must)
    );
    let mut fits = Vec::new();
    for count in must..=history.ops.len() {
        let names = history.names(count);
        if !names.keys().eq(shown.iter().copied()) {
            continue;
        }
        let judged = files.iter().try_for_each(|(name, bytes)| {
            let id = names[name];
            let possible = history.may_be(id, durable, count);
            judge(bytes, id, &possible).map_err(|why| format!("{name}: {why}"))
        });
        match judged {
            Ok(()) => fits.push(count),
            Err(why) => reason = why,
        }
    }
    let kept = fits.first().zip(fits.last()).ok_or(reason)?;
    for (name, bytes) in &files {
        grows_by_zeros(&directory.join(name), bytes.len());
        compared.sectors += bytes.len() as u64 / SECTOR;
        compared.files += 1;
    }
    Ok((*kept.0, *kept.1))
}

/// The files of a directory, by name. None, if the directory was not kept.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => panic!("{}: {error}", directory.display()),
    };
    let read = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.expect("a listing");
        let bytes = fs::read(entry.path()).expect("a read");
        (entry.file_name().into_string().unwrap(), bytes)
    };
    let mut files: Vec<_> = entries.map(read).collect();
    files.sort();
    files
}

/// What was answered before a step that was kept began was kept, too: in all threads.
fn prefix(histories: &[History], kept: &[Kept], thread: usize) {
    let Some(last) = kept[thread].0.checked_sub(1) else {
        return;
    };
    for (other, answered) in histories[thread].before[last].iter().enumerate() {
        let must = histories[other].last_name(*answered);
        assert!(
            kept[other].1 >= must,
            "step {last} of thread {thread} is kept, and step {must} of thread {other} before it is not"
        );
    }
}

/// Compares a file's bytes.
fn judge(bytes: &[u8], id: NodeId, possible: &Possible) -> Result<(), String> {
    let size = bytes.len() as u64;
    // Of a write that was not answered, the first pages may be there.
    let (least, most) = (possible.sizes.iter().min(), possible.sizes.iter().max());
    let is_between = Some(&size) > least && Some(&size) < most && size % 4096 == 0;
    if !is_between && !possible.sizes.contains(&size) {
        return Err(format!(
            "{size} bytes, not one of {:?}; {}",
            possible.sizes, possible.story
        ));
    }
    for (at, bytes) in (0..).zip(bytes.chunks(SECTOR as usize)) {
        let Some(found) = sector_of(id, at, bytes) else {
            let some = &bytes[..32];
            return Err(format!(
                "sector {at} of {size} bytes has bytes that nobody wrote there: {some:?}"
            ));
        };
        if !possible.allows(at, found) {
            return Err(format!(
                "sector {at} is {found:?}, not one of {}",
                possible.told(at)
            ));
        }
    }
    Ok(())
}

/// What lies behind the end does not come back.
fn grows_by_zeros(path: &Path, size: usize) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("open");
    file.set_len(size as u64 + 3 * SECTOR)
        .expect("a truncation");
    let bytes = fs::read(path).expect("a read");
    let is_zero = bytes[size..].iter().all(|byte| *byte == 0);
    assert!(is_zero, "{}: growth shows zeros", path.display());
}
