"""What serving consumes, and how it grows. Less is better in all of these."""

import os
import random
import resource
import shutil
import time

from data import small_files
from machine import Usage, run, warm
from rows import QUICK, dd_read


def client():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, used.ru_nvcsw + used.ru_nivcsw


def spent(subject, work):
    """CPU seconds and context switches of daemon and client over `work`."""
    before, client_before = Usage(subject.daemon.pid), client()
    work()
    after, client_after = Usage(subject.daemon.pid), client()
    return {
        "daemon CPU": after.cpu - before.cpu,
        "daemon switches": after.switches - before.switches,
        "client CPU": client_after[0] - client_before[0],
        "client switches": client_after[1] - client_before[1],
    }


def cost(subject):
    if not subject.served:
        return {}
    scene = subject.scene
    warm(scene.source / "big")
    warm(scene.source / "tree")
    result = {"cost RssAnon idle MiB": Usage(subject.daemon.pid).anon / 2**20}
    gib = scene.size / 2**30
    for name, value in spent(subject, lambda: dd_read(subject.path / "big")).items():
        result[f"cost {name} per GiB"] = value / gib
    result["cost RssAnon reading MiB"] = Usage(subject.daemon.pid).anon / 2**20
    thousands = scene.dirs * scene.files / 1000
    for name, value in spent(subject, lambda: warm(subject.path / "tree")).items():
        result[f"cost {name} per 1000 stats"] = value / thousands
    if subject.name != "null":
        result |= known_files(subject)
    return result


def known_files(subject):
    """The daemon's own memory when the kernel knows many files."""
    files = 10 if QUICK["on"] else 100
    small_files(subject.scene.source / "known", 1000, files)
    warm(subject.path / "known")
    return {f"cost RssAnon {1000 * files} known MiB": Usage(subject.daemon.pid).anon / 2**20}


def growth(subject):
    if subject.name not in ("native", "mmfs"):
        return {}
    return tree_growth(subject) | directory_growth(subject) | file_growth(subject) | thread_growth(subject)


def microseconds(operation, arguments):
    start = time.perf_counter()
    for argument in arguments:
        operation(argument)
    return (time.perf_counter() - start) * 1e6 / len(arguments)


def tree_growth(subject):
    """A stat past the timeouts with ever more files known before: always of all files in ten directories, for each
    directory met costs a request of its own."""
    result, dice = {}, random.Random(1)
    for count in (1000, 10_000) if QUICK["on"] else (1000, 10_000, 100_000, 1_000_000):
        top = subject.scene.source / f"grown-{count}"
        small_files(top, count // 100, 100)
        warm(top)
        subject.remount()
        warm(subject.path / top.name)
        time.sleep(1.1)  # past the timeouts
        folders = [f"{subject.path}/{top.name}/d{d:03}" for d in dice.sample(range(count // 100), 10)]
        picked = [f"{folder}/f{f:03}" for folder in folders for f in range(100)]
        dice.shuffle(picked)
        result[f"growth stat of {count} us"] = microseconds(os.stat, picked)
    return result


def directory_growth(subject):
    """Listing, per entry, in one directory."""
    result = {}
    for count in (100, 10_000) if QUICK["on"] else (100, 1000, 10_000, 100_000):
        folder = subject.scene.source / f"wide-{count}"
        if not folder.exists():
            folder.mkdir()
            for i in range(count):
                (folder / f"f{i}").touch()
        warm(folder)
        subject.remount()
        start = time.perf_counter()
        for entry in os.scandir(subject.path / folder.name):
            entry.stat(follow_symlinks=False)
        result[f"growth entry of {count} us"] = (time.perf_counter() - start) * 1e6 / count
    return result


READS = 2048


def file_growth(subject):
    """A read of 4 KiB at random in a sparse file; of small ones in several, as 256 reads are over before anything is awake."""
    result, dice = {}, random.Random(2)
    folder = subject.scene.source / "sparse"
    for name, size in (("1 MiB", 1 << 20), ("1 GiB", 1 << 30), ("100 GiB", 100 << 30)):
        count = max(1, READS * 4096 // size)
        shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
        folder.mkdir()
        for i in range(count):
            (folder / f"f{i}").touch()
            os.truncate(folder / f"f{i}", size)
        subject.remount()
        files = [os.open(subject.path / "sparse" / f"f{i}", os.O_RDONLY) for i in range(count)]
        reads = []
        for fd in files:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            # None twice: the kernel would have it.
            reads += [(fd, 4096 * page) for page in dice.sample(range(size // 4096), READS // count)]
        result[f"growth read in {name} us"] = microseconds(lambda at: os.pread(at[0], 4096, at[1]), reads)
        for fd in files:
            os.close(fd)
        shutil.rmtree(folder)
    return result


def thread_growth(subject):
    """Four clients walking, by the daemon's threads; mmfs only, for peers choose their own."""
    if subject.name != "mmfs":
        return {}
    result = {}
    before = os.environ.get("MMFS_OPTIONS", "")
    for threads in (1, 4) if QUICK["on"] else (1, 2, 4, 8, 16):
        os.environ["MMFS_OPTIONS"] = f"{before} -o threads={threads}"
        subject.remount()
        start = time.perf_counter()
        top = subject.path / "tree"
        run("sh", "-c", f"for i in 0 1 2 3; do find {top}/d*$i -ls >/dev/null & done; wait")
        result[f"growth walk with {threads} threads ms"] = (time.perf_counter() - start) * 1e3
    os.environ["MMFS_OPTIONS"] = before
    return result


def clean(scene):
    """Removes what only these rows need."""
    for path in scene.source.glob("grown-*"):
        shutil.rmtree(path)


ROWS = {"cost": cost, "growth": growth}
