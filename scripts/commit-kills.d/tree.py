"""A source, and changes of all kinds to it. Each file has bytes that no other file has, and none is empty."""

import os
import random
import shutil
import stat

KIB = 1 << 10
MIB = 1 << 20
PAGE = 4096
# Bytes that JSON, shells and UTF-8 mind.
ODD = b'odd \xff "\n\\'.decode("utf-8", "surrogateescape")


def some_bytes(seed, size):
    return random.Random(os.fsencode(seed)).randbytes(size)


class Tree:
    def __init__(self, root):
        self.root = root

    def at(self, path):
        return os.path.join(self.root, path)

    def write(self, path, size=900, seed=None):
        os.makedirs(os.path.dirname(self.at(path)), exist_ok=True)
        with open(self.at(path), "wb") as file:
            file.write(some_bytes(seed or path, size))

    def patch(self, path, at, size, seed):
        with open(self.at(path), "r+b") as file:
            file.seek(at)
            file.write(some_bytes(seed, size))

    def make(self, path):
        os.makedirs(self.at(path))

    def rename(self, old, new):
        os.rename(self.at(old), self.at(new))

    def link(self, old, new):
        os.link(self.at(old), self.at(new))

    def remove(self, path):
        os.unlink(self.at(path))

    def remove_all(self, path):
        shutil.rmtree(self.at(path))


def fill(root):
    tree = Tree(root)
    for name in ("untouched", "keep/deep/er/untouched", "keep/whole", "whole", "replaced", "gone", "d/gone", "d/whole", ODD, "d/" + ODD):
        tree.write(name)
    large(tree)
    for number in range(4):
        tree.write(f"removed/{number}/file")
        tree.write(f"opaque/{number}/file")
    for name in ("a", "b", "old", "d/old", "ab/a/file", "ab/b/file", "moved/file", "moved/deep/changed", "moved/deep/gone", "moved/out"):
        tree.write(name)
    for name in ("file-to-directory", "directory-to-file/file", "file-to-link", "over/there", "over/here", "onto", "to/deep/place/file"):
        tree.write(name)
    os.symlink("nowhere", tree.at("link-to-file"))
    os.symlink("old target", tree.at("link"))
    os.mkfifo(tree.at("old-fifo"))
    hard_links(tree)
    attributes(tree)
    # Times of long ago: a commit that forgets to set some is seen.
    for number, directory in enumerate(sorted(at for at, _, _ in os.walk(root))):
        for name in os.listdir(directory):
            os.utime(os.path.join(directory, name), ns=(10**18, 10**18 + number * 10**9 + 7), follow_symlinks=False)
    os.utime(root, ns=(10**18, 10**18 + 3))


def large(tree):
    """Files with holes."""
    for name in ("large", "shorter", "longer"):
        tree.write(name, 40 * KIB)
        tree.patch(name, 700 * KIB, 50 * KIB, name + "middle")
        os.truncate(tree.at(name), MIB)
        tree.patch(name, 990 * KIB + 5, 3 * KIB, name + "end")


def hard_links(tree):
    for name in ("one", "of-three", "of-two", "linked-over", "names/x"):
        tree.write(name)
    for name in ("three-2", "d/three-3"):
        tree.link("of-three", name)
    tree.link("of-two", "two-2")
    tree.link("names/x", "names/y")
    tree.link("names/x", "d/z")


def attributes(tree):
    for name in ("mode", "owner", "xattr", "times", "all", "mode-d/file", "owner-d/file", "times-d/file", "xattr-d/file"):
        tree.write(name)
    for name in ("xattr", "xattr-d", "whole", "all"):
        os.setxattr(tree.at(name), "user.old", name.encode())
        os.setxattr(tree.at(name), "user.both", name.encode())


# Files whose names do not move: they are there all the time, with old or new bytes.
STEADY = (
    ["untouched", "keep/deep/er/untouched", "keep/whole", "whole", "replaced", "d/whole", "large", "shorter", "longer", ODD, "onto"]
    + ["of-three", "three-2", "d/three-3", "of-two", "names/x", "mode", "owner", "xattr", "times", "all", "mode-d/file"]
    + ["linked-over", "one", "xattr-d/file"]
)

# Changes of all kinds that can be committed without the others.
CHOSEN = (
    ["large", "keep", "new", "new-of-3-mib", "replaced", "gone", "d/gone", "removed", "opaque", "a", "b", "into", "came-out", "moved"]
    + ["file-to-directory", "directory-to-file", "link", "fifo", "of-three", "three-2", "d/three-3", "mode-d", "all", "xattr-d"]
)


def change(root):
    """Does something of each kind to what fill has made."""
    tree = Tree(root)
    change_bytes(tree)
    change_names(tree)
    change_types(tree)
    change_links(tree)
    change_attributes(tree)


def change_bytes(tree):
    tree.patch("large", 8 * KIB + 100, PAGE, "large page")
    tree.patch("large", 300 * KIB, 3 * PAGE, "large hole")
    tree.patch("large", 698 * KIB, 9 * KIB, "large edge")
    os.truncate(tree.at("shorter"), 720 * KIB + 11)
    os.truncate(tree.at("longer"), 2 * MIB)
    tree.patch("longer", 1500 * KIB, 2 * PAGE, "longer end")
    for name in ("whole", "keep/whole", "d/whole", ODD):
        tree.write(name, 12 * KIB, "new " + name)
    tree.write("saved", 7 * KIB)
    tree.rename("saved", "replaced")
    tree.write("new")
    tree.write("new-of-3-mib", 3 * MIB)
    tree.write("new-with-hole", 5000)
    os.truncate(tree.at("new-with-hole"), 600 * KIB)
    tree.write("n/e/s/t/file")
    tree.write("n/e/file", 5 * KIB)
    tree.make("n/empty")


def change_names(tree):
    for name in ("gone", "d/gone", "d/" + ODD):
        tree.remove(name)
    tree.remove_all("removed")
    tree.remove_all("opaque")
    for number in range(3):
        tree.write(f"opaque/{number}/file", 950, f"opaque again {number}")
    tree.write("opaque/1/other")
    for one, other in (("a", "b"), ("ab/a", "ab/b")):
        tree.rename(one, "aside")
        tree.rename(other, one)
        tree.rename("aside", other)
    tree.rename("old", "n/e/renamed")
    tree.rename("d/old", "d/renamed")
    tree.make("into/new")
    tree.rename("moved", "into/new/moved")
    tree.write("into/new/moved/deep/changed", 950, "changed in a renamed directory")
    tree.remove("into/new/moved/deep/gone")
    tree.write("into/new/moved/deep/added")
    tree.rename("into/new/moved/out", "came-out")
    tree.rename("over/there", "over/here")
    tree.write("over/there", 800, "there again")
    # A directory moves into its own child's place.
    tree.rename("to/deep/place", "aside")
    tree.rename("to", "aside/to")
    tree.rename("aside", "to")


def change_types(tree):
    tree.remove("file-to-directory")
    tree.write("file-to-directory/file")
    tree.remove_all("directory-to-file")
    tree.write("directory-to-file")
    tree.remove("file-to-link")
    os.symlink("onto", tree.at("file-to-link"))
    tree.remove("link-to-file")
    tree.write("link-to-file")
    tree.remove("link")
    os.symlink("new target", tree.at("link"))
    os.symlink("x" * 200, tree.at("new-link"))
    os.mkfifo(tree.at("fifo"), 0o640)
    os.mknod(tree.at("device"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
    tree.remove("old-fifo")


def change_links(tree):
    tree.link("one", "one-2")
    tree.link("one", "n/one-3")
    tree.patch("of-three", 100, 300, "three")
    tree.patch("of-two", 0, 100, "two")
    tree.remove("two-2")
    tree.write("new-linked")
    tree.link("new-linked", "n/e/new-linked-2")
    tree.write("saved", 1000, "linked over")
    tree.link("saved", "d/saved-2")
    tree.rename("saved", "linked-over")
    tree.rename("names/y", "onto")
    tree.rename("d/z", "names/z")


def change_attributes(tree):
    os.chmod(tree.at("mode"), 0o600)
    os.chmod(tree.at("mode-d"), 0o2711)
    os.chown(tree.at("owner"), 1234, 1235)
    os.chmod(tree.at("owner"), 0o4755)
    os.chown(tree.at("owner-d"), 1234, 1235)
    for name in ("xattr", "xattr-d"):
        os.setxattr(tree.at(name), "user.new", b"\0\xff new")
        os.setxattr(tree.at(name), "user.both", b"other")
        os.removexattr(tree.at(name), "user.old")
    for number, name in enumerate(("times", "times-d", "new", "n/e", "into", "link", "fifo", "large")):
        os.utime(tree.at(name), ns=(11 * 10**17, 11 * 10**17 + number), follow_symlinks=False)
    os.chmod(tree.at("all"), 0o640)
    os.chown(tree.at("all"), 77, 78)
    os.setxattr(tree.at("all"), "user.new", b"all")
    os.setxattr(tree.at("new"), "user.new", b"new")
    os.utime(tree.at("all"), ns=(10**17, 10**17 + 1))
