//! Operations to be disturbed: each prepares its place behind the mount, does one thing through the mount,
//! and, where the client was told that it worked, looks at the source to see whether that is true.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Error, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::Mount;
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, SeekFrom, XattrFlags};

/// Where one operation works.
#[derive(Debug)]
pub struct Place {
    /// The directory through the mount.
    pub mnt: PathBuf,
    /// The same in the source.
    pub src: PathBuf,
}

const OLD: u8 = b'o';
const NEW: u8 = b'n';
const LEN: usize = 70_000;

impl Place {
    /// A fresh directory, made behind the mount, with the file `file` and the directory `sub` in it.
    pub fn new(mount: &Mount, name: &str, _: &Operation) -> Self {
        let place = Place {
            mnt: mount.mnt().join(name),
            src: mount.src().join(name),
        };
        fs::create_dir_all(place.src.join("sub")).expect("mkdir");
        fs::write(place.src.join("file"), vec![OLD; LEN]).expect("write");
        fs::write(place.src.join("sub/inner"), "inner").expect("write");
        symlink("file", place.src.join("link")).expect("symlink");
        place
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.mnt.join("file"))
    }

    fn source(&self) -> Vec<u8> {
        fs::read(self.src.join("file")).unwrap_or_default()
    }

    fn holds(&self, at: usize, len: usize, byte: u8) -> io::Result<()> {
        let bytes = self.source();
        let range = bytes
            .get(at..at + len)
            .ok_or_else(|| lie("the source is too short"))?;
        truth(
            range.iter().all(|b| *b == byte),
            "the source holds other bytes",
        )
    }
}

/// One operation.
pub struct Operation {
    pub name: &'static str,
    work: fn(&Place) -> io::Result<()>,
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Operation {
    /// Does it; an error without an errno says that success was claimed where there was none.
    pub fn run(&self, place: &Place) -> io::Result<()> {
        (self.work)(place)
    }

    /// Whatever happened: no byte of the file, or of the one that has taken its place, is one that nobody wrote.
    pub fn intact(&self, place: &Place) -> io::Result<()> {
        let bytes = place.source();
        let written = bytes.iter().all(|b| [OLD, NEW, 0].contains(b));
        truth(
            written || bytes == b"inner",
            "the source holds bytes that nobody wrote",
        )
    }
}

fn lie(what: &str) -> Error {
    Error::other(format!("claimed success: {what}"))
}

fn truth(so: bool, what: &str) -> io::Result<()> {
    if so { Ok(()) } else { Err(lie(what)) }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no zero byte")
}

macro_rules! operations {
    ($($name:ident),* $(,)?) => {
        /// All of them.
        pub const OPERATIONS: &[Operation] = &[$(Operation { name: stringify!($name), work: $name }),*];
    };
}

operations!(
    lookup,
    list,
    list_inner,
    read,
    read_again,
    overwrite,
    write_extending,
    append,
    open_truncating,
    shrink,
    grow,
    shrink_mapped,
    grow_mapped,
    truncate_by_path,
    fsync,
    fdatasync,
    write_synchronously,
    allocate,
    punch,
    create,
    make_directory,
    make_fifo,
    make_symlink,
    read_symlink,
    hard_link,
    rename_file,
    replace_file,
    rename_directory,
    unlink,
    unlink_open,
    remove_directory,
    change_mode,
    change_owner,
    change_times,
    set_xattr,
    get_xattr,
    remove_xattr,
    seek_data,
    copy_range,
    usage,
    sync_directory,
    two_handles,
);

fn lookup(p: &Place) -> io::Result<()> {
    let found = fs::metadata(p.mnt.join("file"))?;
    truth(
        found.len() == LEN as u64 && found.ino() == fs::metadata(p.src.join("file"))?.ino(),
        "attributes",
    )
}

fn names(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = fs::read_dir(directory)?
        .map(|e| Ok(e?.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn list(p: &Place) -> io::Result<()> {
    truth(names(&p.mnt)? == names(&p.src)?, "names")
}

fn list_inner(p: &Place) -> io::Result<()> {
    truth(
        names(&p.mnt.join("sub"))? == names(&p.src.join("sub"))?,
        "names",
    )
}

fn read(p: &Place) -> io::Result<()> {
    truth(
        fs::read(p.mnt.join("file"))? == vec![OLD; LEN],
        "bytes read",
    )
}

fn read_again(p: &Place) -> io::Result<()> {
    let mut file = File::open(p.mnt.join("file"))?;
    let mut bytes = vec![0; 4096];
    file.read_exact(&mut bytes)?;
    fs::write(p.src.join("file"), vec![NEW; LEN])?; // behind the mount
    drop(file);
    truth(
        fs::read(p.mnt.join("file"))? == vec![NEW; LEN],
        "bytes read",
    )
}

fn overwrite(p: &Place) -> io::Result<()> {
    p.open()?.write_all_at(&[NEW; 10_000], 3000)?;
    p.holds(3000, 10_000, NEW)?;
    p.holds(0, 3000, OLD)
}

fn write_extending(p: &Place) -> io::Result<()> {
    p.open()?.write_all_at(&[NEW; 10_000], LEN as u64 - 5000)?;
    p.holds(LEN - 5000, 10_000, NEW)
}

fn append(p: &Place) -> io::Result<()> {
    OpenOptions::new()
        .append(true)
        .open(p.mnt.join("file"))?
        .write_all(&[NEW; 5000])?;
    p.holds(LEN, 5000, NEW)
}

fn open_truncating(p: &Place) -> io::Result<()> {
    fs::write(p.mnt.join("file"), [NEW; 100])?;
    truth(p.source() == [NEW; 100], "contents")
}

fn shrink(p: &Place) -> io::Result<()> {
    p.open()?.set_len(5000)?;
    truth(p.source().len() == 5000, "length")
}

fn grow(p: &Place) -> io::Result<()> {
    p.open()?.set_len(200_000)?;
    truth(p.source().len() == 200_000, "length")
}

/// With windows there: they must follow.
fn shrink_mapped(p: &Place) -> io::Result<()> {
    let file = p.open()?;
    file.write_all_at(&[NEW; 4096], 0)?;
    file.set_len(5000)?;
    file.set_len(LEN as u64)?;
    let mut bytes = vec![1; LEN];
    file.read_exact_at(&mut bytes, 0)?;
    truth(
        bytes[..4096].iter().all(|b| *b == NEW) && bytes[5000..].iter().all(|b| *b == 0),
        "bytes read",
    )
}

fn grow_mapped(p: &Place) -> io::Result<()> {
    let file = p.open()?;
    file.write_all_at(&[NEW; 4096], 0)?;
    file.set_len(3 << 20)?;
    file.write_all_at(&[NEW; 4096], 2 << 20)?;
    p.holds(2 << 20, 4096, NEW)
}

fn truncate_by_path(p: &Place) -> io::Result<()> {
    let path = c_path(&p.mnt.join("file"));
    let file = File::open(p.mnt.join("file"))?;
    let (mut bytes, wanted) = ([0; 100], 7000);
    file.read_exact_at(&mut bytes, 0)?;
    // std has no truncate(2) by path; a shell's does.
    let status = std::process::Command::new("python3")
        .args(["-c", "import os,sys\ntry: os.truncate(sys.argv[1], 7000)\nexcept OSError as e: sys.exit(e.errno)"])
        .arg(std::ffi::OsStr::from_bytes(path.as_bytes()))
        .status()?;
    match status.code() {
        Some(0) => truth(p.source().len() == wanted, "length"),
        Some(errno) => Err(Error::from_raw_os_error(errno)),
        None => Err(lie("python died")),
    }
}

fn fsync(p: &Place) -> io::Result<()> {
    let file = p.open()?;
    file.write_all_at(&[NEW; 4096], 0)?;
    file.sync_all()
}

fn fdatasync(p: &Place) -> io::Result<()> {
    let file = p.open()?;
    file.write_all_at(&[NEW; 4096], 0)?;
    file.sync_data()
}

fn write_synchronously(p: &Place) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_SYNC)
        .open(p.mnt.join("file"))?;
    file.write_all_at(&[NEW; 4096], 0)?;
    p.holds(0, 4096, NEW)
}

fn allocate(p: &Place) -> io::Result<()> {
    rustix::fs::fallocate(p.open()?, FallocateFlags::empty(), 0, 300_000)?;
    truth(p.source().len() == 300_000, "length")
}

fn punch(p: &Place) -> io::Result<()> {
    let file = p.open()?;
    file.write_all_at(&[NEW; 100], 0)?;
    rustix::fs::fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        4096,
        8192,
    )?;
    p.holds(4096, 8192, 0)?;
    let mut bytes = vec![1; 8192];
    file.read_exact_at(&mut bytes, 4096)?;
    truth(bytes.iter().all(|b| *b == 0), "bytes read after punching")
}

fn create(p: &Place) -> io::Result<()> {
    let file = File::create_new(p.mnt.join("new"))?;
    file.write_all_at(&[NEW; 5000], 0)?;
    truth(fs::read(p.src.join("new"))? == [NEW; 5000], "contents")
}

fn make_directory(p: &Place) -> io::Result<()> {
    fs::create_dir(p.mnt.join("dir"))?;
    truth(p.src.join("dir").is_dir(), "a directory")
}

fn make_fifo(p: &Place) -> io::Result<()> {
    rustix::fs::mknodat(
        CWD,
        p.mnt.join("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )?;
    truth(p.src.join("fifo").exists(), "a fifo")
}

fn make_symlink(p: &Place) -> io::Result<()> {
    symlink("target", p.mnt.join("symlink"))?;
    truth(
        fs::read_link(p.src.join("symlink"))? == Path::new("target"),
        "a symbolic link",
    )
}

fn read_symlink(p: &Place) -> io::Result<()> {
    truth(
        fs::read_link(p.mnt.join("link"))? == Path::new("file"),
        "its target",
    )
}

fn hard_link(p: &Place) -> io::Result<()> {
    fs::hard_link(p.mnt.join("file"), p.mnt.join("second"))?;
    truth(
        fs::metadata(p.src.join("second"))?.nlink() == 2,
        "a second name",
    )
}

fn rename_file(p: &Place) -> io::Result<()> {
    fs::rename(p.mnt.join("file"), p.mnt.join("sub/moved"))?;
    truth(
        p.src.join("sub/moved").exists() && !p.src.join("file").exists(),
        "the new name",
    )?;
    truth(fs::read(p.mnt.join("sub/moved"))?.len() == LEN, "its bytes")
}

fn replace_file(p: &Place) -> io::Result<()> {
    let file = p.open()?;
    fs::rename(p.mnt.join("sub/inner"), p.mnt.join("file"))?;
    truth(
        p.source() == b"inner" || p.src.join("sub/inner").exists(),
        "the new file",
    )?;
    let mut bytes = [0; 10];
    file.read_exact_at(&mut bytes, 0)?;
    truth(bytes == [OLD; 10], "the old file's bytes")
}

fn rename_directory(p: &Place) -> io::Result<()> {
    let inner = File::open(p.mnt.join("sub/inner"))?;
    fs::rename(p.mnt.join("sub"), p.mnt.join("bus"))?;
    truth(p.src.join("bus/inner").exists(), "the new name")?;
    truth(
        fs::read(p.mnt.join("bus/inner"))? == b"inner" && inner.metadata()?.len() == 5,
        "its contents",
    )
}

fn unlink(p: &Place) -> io::Result<()> {
    fs::remove_file(p.mnt.join("file"))?;
    truth(!p.src.join("file").exists(), "the name is gone")
}

fn unlink_open(p: &Place) -> io::Result<()> {
    let file = p.open()?;
    fs::remove_file(p.mnt.join("file"))?;
    truth(!p.src.join("file").exists(), "the name is gone")?;
    file.write_all_at(&[NEW; 5000], 0)?;
    let mut bytes = [0; 6000];
    file.read_exact_at(&mut bytes, 0)?;
    truth(
        bytes[..5000] == [NEW; 5000]
            && bytes[5000..] == [OLD; 1000]
            && file.metadata()?.len() == LEN as u64,
        "its bytes",
    )
}

fn remove_directory(p: &Place) -> io::Result<()> {
    fs::remove_file(p.src.join("sub/inner"))?;
    fs::remove_dir(p.mnt.join("sub"))?;
    truth(!p.src.join("sub").exists(), "it is gone")
}

fn change_mode(p: &Place) -> io::Result<()> {
    fs::set_permissions(p.mnt.join("file"), fs::Permissions::from_mode(0o751))?;
    truth(
        fs::metadata(p.src.join("file"))?.mode() & 0o7777 == 0o751,
        "the mode",
    )
}

fn change_owner(p: &Place) -> io::Result<()> {
    std::os::unix::fs::chown(p.mnt.join("file"), Some(12), Some(34))?;
    let now = fs::metadata(p.src.join("file"))?;
    truth((now.uid(), now.gid()) == (12, 34), "the owner")
}

fn change_times(p: &Place) -> io::Result<()> {
    let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    p.open()?
        .set_times(fs::FileTimes::new().set_modified(then))?;
    truth(
        fs::metadata(p.src.join("file"))?.modified()? == then,
        "the time",
    )
}

fn set_xattr(p: &Place) -> io::Result<()> {
    rustix::fs::setxattr(p.mnt.join("file"), "user.a", b"value", XattrFlags::empty())?;
    let mut value = [0; 16];
    let n = rustix::fs::getxattr(p.src.join("file"), "user.a", &mut value)?;
    truth(&value[..n] == b"value", "the value")
}

fn get_xattr(p: &Place) -> io::Result<()> {
    rustix::fs::setxattr(p.src.join("file"), "user.a", b"value", XattrFlags::empty())?;
    let (mut value, mut list) = ([0; 16], [0; 256]);
    let n = rustix::fs::getxattr(p.mnt.join("file"), "user.a", &mut value)?;
    truth(&value[..n] == b"value", "the value")?;
    let n = rustix::fs::listxattr(p.mnt.join("file"), &mut list)?;
    truth(
        list[..n].split(|b| *b == 0).any(|name| name == b"user.a"),
        "the list",
    )
}

fn remove_xattr(p: &Place) -> io::Result<()> {
    rustix::fs::setxattr(p.src.join("file"), "user.a", b"value", XattrFlags::empty())?;
    rustix::fs::removexattr(p.mnt.join("file"), "user.a")?;
    let mut value = [0; 16];
    truth(
        rustix::fs::getxattr(p.src.join("file"), "user.a", &mut value).is_err(),
        "it is gone",
    )
}

fn seek_data(p: &Place) -> io::Result<()> {
    let found = rustix::fs::seek(p.open()?, SeekFrom::Hole(0))?;
    truth(found == LEN as u64, "the hole at the end")
}

fn copy_range(p: &Place) -> io::Result<()> {
    let (from, to) = (
        File::open(p.mnt.join("file"))?,
        File::create_new(p.mnt.join("copy"))?,
    );
    let n = rustix::fs::copy_file_range(from, None, to, None, LEN)?;
    truth(fs::read(p.src.join("copy"))? == vec![OLD; n], "the copy")
}

fn usage(p: &Place) -> io::Result<()> {
    let (through, native) = (rustix::fs::statvfs(&p.mnt)?, rustix::fs::statvfs(&p.src)?);
    truth(through.f_blocks == native.f_blocks, "blocks")
}

fn sync_directory(p: &Place) -> io::Result<()> {
    File::open(&p.mnt)?.sync_all()
}

/// Writer and reader of one file see the same.
fn two_handles(p: &Place) -> io::Result<()> {
    let (reader, writer) = (File::open(p.mnt.join("file"))?, p.open()?);
    let mut bytes = [0; 8192];
    reader.read_exact_at(&mut bytes, 0)?;
    writer.write_all_at(&[NEW; 8192], 0)?;
    reader.read_exact_at(&mut bytes, 0)?;
    truth(bytes == [NEW; 8192], "what another handle wrote")?;
    drop(writer);
    reader.read_exact_at(&mut bytes, 4096)?;
    truth(
        bytes[..4096] == [NEW; 4096],
        "what another handle wrote, after its close",
    )?;
    rustix::fs::accessat(
        CWD,
        p.mnt.join("file"),
        rustix::fs::Access::READ_OK,
        AtFlags::empty(),
    )?;
    Ok(())
}
