//! Links, FIFOs, sockets, devices and directories in place of what a store has.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::good::Good;
use super::{Run, Trust};

fn gone(path: &Path) {
    let found = fs::symlink_metadata(path);
    match found.map(|meta| meta.is_dir()) {
        Ok(true) => fs::remove_dir_all(path).expect("the directory goes"),
        Ok(false) => fs::remove_file(path).expect("the file goes"),
        Err(_) => {}
    }
}

fn special(path: &Path, kind: FileType, mode: u32, device: u64) {
    match mknodat(CWD, path, kind, Mode::from_raw_mode(mode), device) {
        // Devices are root's.
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => panic!("mknod: {error}"),
    }
}

type Place = (&'static str, fn(&Good, &Path));

/// What stands there instead.
const PLACES: [Place; 14] = [
    ("a link to a file", |good, path| {
        symlink(good.canary.join("file"), path).expect("a link")
    }),
    ("a link to a directory", |good, path| {
        symlink(good.canary.join("directory"), path).expect("a link")
    }),
    ("a link to nothing outside", |good, path| {
        symlink(good.canary.join("new"), path).expect("a link")
    }),
    ("a link upwards", |_, path| {
        symlink("../../canary/file", path).expect("a link")
    }),
    ("a link to itself", |_, path| {
        symlink(path, path).expect("a link")
    }),
    ("a link within the store", |_, path| {
        symlink("base", path).expect("a link")
    }),
    ("a file of others", |good, path| {
        fs::hard_link(good.canary.join("file"), path).expect("a link")
    }),
    ("a FIFO", |_, path| special(path, FileType::Fifo, 0o600, 0)),
    ("a device without end", |_, path| {
        special(path, FileType::CharacterDevice, 0o600, makedev(1, 5))
    }),
    ("a full device", |_, path| {
        special(path, FileType::CharacterDevice, 0o600, makedev(1, 7))
    }),
    ("a disk", |_, path| {
        special(path, FileType::BlockDevice, 0o600, makedev(7, 200))
    }),
    ("a socket", |_, path| {
        // Paths of sockets are short.
        let name = path.parent().expect("a parent").join("s");
        drop(UnixListener::bind(&name).expect("a socket"));
        fs::rename(name, path).expect("a socket");
    }),
    ("a directory", |_, path| {
        fs::create_dir(path).expect("a directory");
        fs::write(path.join("inner"), b"inner").expect("a file");
    }),
    ("nothing", |_, _| {}),
];

pub fn cases(run: &mut Run) {
    let data = data_file(&run.good);
    let mut files: Vec<String> = [
        "format",
        "base",
        "state",
        "lock",
        "state.new",
        "tables/4",
        "tails/9",
    ]
    .map(String::from)
    .to_vec();
    // The next table, the next tail, and those that are there.
    files.extend(run.good.tables());
    files.extend([run.good.tail(), data.clone()]);
    let next: u64 = run.good.state.tables.iter().max().expect("a table") + 1;
    files.extend([
        format!("tables/{next:x}"),
        format!("tails/{:x}", run.good.state.tail + 1),
    ]);
    let directory = data.rsplit_once('/').expect("a directory").0.to_owned();
    files.extend(["tables".into(), "tails".into(), "data".into(), directory]);
    files.sort();
    files.dedup();
    for file in &files {
        for (what, place) in PLACES {
            run.case(&format!("{file}: {what}"), Trust::Anything, |good| {
                gone(&good.path(file));
                place(good, &good.path(file));
            });
        }
        run.case(&format!("{file}: unreadable"), Trust::Anything, |good| {
            if good.path(file).is_file() {
                let mode = fs::Permissions::from_mode(0o000);
                fs::set_permissions(good.path(file), mode).expect("the mode");
            }
        });
    }
    crowds(run);
}

fn data_file(good: &Good) -> String {
    let id = good.ids[3].0;
    let name = format!("data/{:02x}/{id:x}-", id % 256);
    let mut names = good.files.iter().filter_map(|(path, _)| path.to_str());
    let found = names.find(|path| path.starts_with(&name));
    found.expect("a data file").to_owned()
}

/// Names that no store has, in each directory.
fn crowds(run: &mut Run) {
    for directory in ["", "tables", "tails", "data", "data/02"] {
        run.case(
            &format!("{directory}: names of others"),
            Trust::Anything,
            |good| {
                let place = good.path(directory);
                for name in [
                    "+5",
                    "-",
                    "ffffffffffffffff",
                    "3fffffffffffffff",
                    "0x1",
                    "4000000000000002-",
                    "4000000000000002-0",
                    "\u{1f4a3}",
                    "a b\n",
                ] {
                    fs::write(place.join(name), b"?").expect("a file");
                }
                fs::create_dir(place.join("inner")).expect("a directory");
                symlink(
                    good.canary.join("directory"),
                    place.join("4000000000000002-5"),
                )
                .expect("a link");
            },
        );
    }
}
