"""What there is in a directory, and what may be there while a commit goes on."""

import hashlib
import os
import stat
from typing import NamedTuple

TEMPORARY = ".mmfs-commit-"


class Entry(NamedTuple):
    """All of an inode that a commit carries over. Of a directory, the size says nothing."""

    kind: int
    mode: int
    owner: tuple
    mtime: int
    size: int
    content: str
    device: int
    xattrs: tuple
    # All names of the inode, if it has more than one.
    names: tuple


def walk(root):
    """Paths below a directory, with that directory itself as ""."""
    yield ""
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        try:
            found = sorted(os.scandir(os.path.join(root, directory)), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in found:
            path = os.path.join(directory, entry.name)
            yield path
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)


def opened(path):
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)


def content_of(held):
    total = hashlib.sha256()
    while piece := os.read(held, 1 << 20):
        total.update(piece)
    return total.hexdigest()


def entry(kind, found, content, xattrs, names=()):
    size = 0 if kind == stat.S_IFDIR else found.st_size
    owner = (found.st_uid, found.st_gid)
    return Entry(kind, stat.S_IMODE(found.st_mode), owner, found.st_mtime_ns, size, content, found.st_rdev, xattrs, names)


def entry_of_file(path, names=()):
    """All of one regular file, whatever happens to its name meanwhile. None if it is something else."""
    held = opened(path)
    try:
        found = os.fstat(held)
        if not stat.S_ISREG(found.st_mode):
            return None
        xattrs = tuple((name, os.getxattr(held, name)) for name in sorted(os.listxattr(held)))
        return entry(stat.S_IFREG, found, content_of(held), xattrs, names)
    finally:
        os.close(held)


def entry_of(path, found, names):
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFREG:
        return entry_of_file(path, names)
    target = os.readlink(path) if kind == stat.S_IFLNK else ""
    all_names = sorted(os.listxattr(path, follow_symlinks=False))
    xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in all_names)
    return entry(kind, found, target, xattrs, names)


def listing(root):
    """Of each path below a directory, what is there."""
    found = {path: os.lstat(os.path.join(root, path)) for path in walk(root)}
    names = {}
    for path, one in found.items():
        if not stat.S_ISDIR(one.st_mode) and one.st_nlink > 1:
            names.setdefault(one.st_ino, []).append(path)
    return {
        path: entry_of(os.path.join(root, path), one, tuple(sorted(names.get(one.st_ino, ()))))
        for path, one in found.items()
    }


def differences(wanted, found):
    """Sentences, one for each path that is not as wanted."""
    told = []
    for path in sorted(wanted.keys() | found.keys()):
        if path not in found:
            told.append(f"{path!r} is missing")
        elif path not in wanted:
            told.append(f"{path!r} is there")
        elif wanted[path] != found[path]:
            fields = [
                f"{field} {getattr(found[path], field)!r} instead of {getattr(wanted[path], field)!r}"
                for field in Entry._fields
                if getattr(wanted[path], field) != getattr(found[path], field)
            ]
            told.append(f"{path!r} has {', '.join(fields)}")
    return told


class Between:
    """What may be seen while a commit goes on: a file has what it had before, or what it has afterwards."""

    def __init__(self, before, after, steady):
        self.before, self.after, self.steady = self.files(before), self.files(after), steady

    @staticmethod
    def files(all):
        """Regular files by their bytes. No other file has them, and none is empty: so a part of one is found."""
        files = {one.content: one for one in all.values() if one.kind == stat.S_IFREG}
        inodes = {(one.content, one.names or path) for path, one in all.items() if one.kind == stat.S_IFREG}
        assert len(files) == len(inodes), "two files are the same"
        assert min(one.size for one in files.values()) > 0, "a file is empty"
        return files

    def wrong(self, root):
        """Sentences about what may not be seen. Names may change meanwhile."""
        told, files = [], 0
        for path in walk(root):
            if TEMPORARY in path:
                continue
            try:
                found = self.seen(os.path.join(root, path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            if found is None:
                continue
            files += 1
            if found.content in self.before:
                continue
            if found.content not in self.after:
                told.append(f"{path!r} has bytes of neither before nor afterwards")
                continue
            wanted = self.after[found.content]._replace(names=())
            if found != wanted:
                told += differences({path: wanted}, {path: found})
        told += [f"{path!r} is not there for a while" for path in self.steady if not os.path.lexists(os.path.join(root, path))]
        return told, files

    @staticmethod
    def seen(path):
        """A regular file."""
        return entry_of_file(path) if stat.S_ISREG(os.lstat(path).st_mode) else None
