"""Images with a source and a store, the moments at which a power cut leaves them, and mmfs on what is mounted."""

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
from pathlib import Path

import listing
import tree

FICLONE = 0x40049409
CLONE_NEWNS = 0x20000
PR_SET_PDEATHSIG = 1
# Where root's mounts and commits leave what says that the machine has not been started anew since.
COOKIES = Path("/run/mmfs")
SECONDS = 120
SIZES = {"ext4": "64M", "xfs": "320M", "btrfs": "256M"}
# ext4 would write the bytes of a file when another is replaced by it. mmfs must not depend on that.
OPTIONS = {"ext4": "loop,noauto_da_alloc", "xfs": "loop,nouuid", "btrfs": "loop"}


class Wrong(Exception):
    """What may not be, in sentences."""


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def end_with_parent():
    """This process is killed when its parent ends, whatever ends it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def own_namespace():
    """Mounts of this process are its own from now on, and end with it. So is what says which stores were open."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    run("mount", "--make-rprivate", "/")
    COOKIES.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "mode=700", "cookies", COOKIES)


def clone(old, new):
    """Copies a file as it is at one moment."""
    with open(old, "rb") as source, open(new, "wb") as copy:
        fcntl.ioctl(copy, FICLONE, source.fileno())


class Moment(list):
    """Images of one moment."""

    def remove(self):
        for image in self:
            image.unlink()


class Place:
    """Where images are mounted: each worker sees its own there. The store lies beside the source, or in an image of its own. Of all
    changes, these paths are committed, or all."""

    def __init__(self, work, kind, way, mmfs):
        self.work, self.kind, self.way, self.mmfs = Path(work), kind, way, mmfs
        self.chosen = tree.CHOSEN if way == "some" else ()
        self.points = [self.work / "fs", self.work / "other"][: 2 if way == "apart" else 1]
        self.source, self.store, self.view = self.points[0] / "source", self.points[-1] / "store", self.work / "view"
        self.live = []

    def prepare(self):
        """Makes the images, with changes in the store. Returns them, and what was and is to be in the source."""
        for directory in (*self.points, self.view):
            directory.mkdir(exist_ok=True)
        for point in self.points:
            image = self.image(f"first-{point.name}")
            run("truncate", "-s", SIZES[self.kind], image)
            run(f"mkfs.{self.kind}", "-q", image)
            self.mount_one(image, point)
        self.source.mkdir()
        tree.fill(self.source)
        before = listing.listing(self.source)
        run(self.mmfs, "--private", self.store, self.source, self.view)
        try:
            tree.change(self.view)
            after = listing.listing(self.view)
        finally:
            run(self.mmfs, "unmount", self.view)
        told = listing.differences(before, listing.listing(self.source))
        if told:
            raise RuntimeError(f"the view has changed its source: {told}")
        self.unmount()
        return Moment(self.image(f"first-{point.name}") for point in self.points), before, after

    def image(self, name):
        return self.work / "images" / f"{self.kind}-{self.way}-{name}"

    def mount_one(self, image, point):
        run("mount", "-t", self.kind, "-o", OPTIONS[self.kind], image, point)

    def copy(self, moment, name):
        """Images as they are at this moment."""
        copies = Moment(self.image(f"{os.getpid()}-{name}-{point.name}") for point in self.points)
        for old, new in zip(moment, copies):
            clone(old, new)
        return copies

    def mount(self, moment):
        """Mounts copies of images. A filesystem that was cut off recovers."""
        self.live = self.copy(moment, "live")
        for image, point in zip(self.live, self.points):
            self.mount_one(image, point)

    def unmount(self):
        for point in reversed(self.points):
            device = run("findmnt", "-n", "-o", "SOURCE", point).strip()
            run("umount", point)
            if self.kind == "btrfs":
                # Else a copy on another device would get another UUID.
                run("btrfs", "device", "scan", "--forget", device)

    def end(self):
        self.unmount()
        self.live.remove()

    def cut(self, name):
        """What a power cut would leave now."""
        return self.copy(self.live, name)

    def cut_late(self, name):
        """What one would leave just after the filesystem has written names and sizes: bytes that nobody has synced may lack."""
        for point in self.points:
            probe = os.open(point / "probe", os.O_WRONLY | os.O_CREAT, 0o600)
            os.fsync(probe)
            os.close(probe)
        return self.copy(self.live, name)

    @staticmethod
    def start_machine_anew():
        for cookie in COOKIES.iterdir():
            cookie.unlink()

    def commit(self, *before, limit=SECONDS):
        """mmfs commit, after these words of another command. Returns its exit status and what it says."""
        command = [*before, self.mmfs, "commit", self.store, *self.chosen]
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            words, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            raise Wrong([f"mmfs commit does not end within {limit} s"]) from None
        return process.returncode, words.decode(errors="replace")

    def says(self, *words):
        done = subprocess.run([self.mmfs, *words, self.store], capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")

    def view_listing(self):
        """What the view shows."""
        run(self.mmfs, "--private", self.store, self.source, self.view)
        try:
            return listing.listing(self.view)
        finally:
            run(self.mmfs, "unmount", self.view)

    def store_is_sound(self):
        """Sentences, if it is not, or if a commit is to be finished."""
        status, words = self.says("check")
        told = [] if status == 0 and "No errors were found." in words else [f"mmfs check: {status}: {words}"]
        return told + [f"the store has {name}" for name in ("commit", "commit.new") if (self.store / name).exists()]

    def store_is_empty(self):
        """Sentences, if it is not."""
        told = self.store_is_sound()
        status, words = self.says("diff")
        if status or words:
            told.append(f"mmfs diff: {status}: {words}")
        kept = [str(path) for name in ("data", "tables", "tails") for path in (self.store / name).rglob("*") if path.is_file()]
        return told + ([f"the store keeps {kept}"] if kept else [])


def remove_directories(place):
    for directory in (*place.points, place.view):
        shutil.rmtree(directory, ignore_errors=True)
