"""Private views beside what people use in their place: each subject changes a source through a layer of its own."""

import os
import random
import shutil
import statistics
import subprocess
import sys
import time

import data
import names
import report
import rows
from machine import Usage, run, settle, timed, warm
from rows import MIB, QUICK
from subjects import Subject

OURS = "mmfs --private"
PASSED = "mmfs --private --passthrough"
NAMES = ["native", "mmfs", OURS, PASSED, "overlayfs", "overlayfs metacopy", "fuse-overlayfs"]
PAGE = 4096
WRITES = 10_000


class Layered(Subject):
    """A subject whose changes go into a new layer beside the source; native and the mirror change the source."""

    def __init__(self, name, scene):
        super().__init__(name, scene)
        self.layer = scene.mounts / f"layer-{self.mount_point.name}"

    @property
    def layered(self):
        return self.name not in ("native", "mmfs")

    def argv(self):
        source, upper, work = self.scene.source, self.layer / "upper", self.layer / "work"
        layers = f"lowerdir={source},upperdir={upper},workdir={work}"
        match self.name:
            case "mmfs --private" | "mmfs --private --passthrough":
                passed = ["--passthrough"] if self.name == PASSED else []
                return [self.scene.tools["mmfs"], "-f", *passed, "--private", self.layer / "store", source, self.mount_point]
            case "fuse-overlayfs":
                return ["fuse-overlayfs", "-f", "-o", f"{layers},allow_other", self.mount_point]
            case "overlayfs":
                return ["mount", "-t", "overlay", "-o", layers, "overlay", self.mount_point]
            case "overlayfs metacopy":
                return ["mount", "-t", "overlay", "-o", f"{layers},metacopy=on,redirect_dir=on", "overlay", self.mount_point]
        return super().argv()

    def mount(self):
        if self.layered:
            for folder in (self.layer / "upper", self.layer / "work"):
                folder.mkdir(parents=True, exist_ok=True)
        if not self.name.startswith("overlayfs"):
            return super().mount()
        self.mount_point.mkdir(parents=True, exist_ok=True)
        run(*self.argv())
        Subject.alive.append(self)

    def unmount(self):
        if not self.name.startswith("overlayfs"):
            return super().unmount()
        if self in Subject.alive:
            run("umount", self.mount_point)
            Subject.alive.remove(self)

    def __exit__(self, *_):
        super().__exit__()
        if self.layered:
            shutil.rmtree(self.layer)

    def stored(self):
        """Bytes of files that the layer takes on disk. A store has its records beside them."""
        os.sync()
        files = self.layer / "store" / "data" if self.name in (OURS, PASSED) else self.layer
        return int(run("du", "-s", "--block-size=1", files).split()[0])

    def put_back(self, name):
        """Removes what a measurement made; what a layer has goes with it."""
        if not self.layered:
            shutil.rmtree(self.scene.source / name)


def huge(scene):
    """A file that is dear to copy."""
    size = (1 if QUICK["on"] else 10) << 30
    path = scene.source / "huge"
    data.random_file(path, size)
    return path, size


def writes(subject):
    """One write into a large file, then many, all at places of their own."""
    _, size = huge(subject.scene)
    dice = random.Random(1)
    places = [place * PAGE for place in dice.sample(range(size // PAGE), WRITES + 1)]
    block = os.urandom(PAGE)
    # What the first write of a mount costs is not what a large file costs.
    (subject.scene.source / "small").write_bytes(block)
    (subject.path / "small").write_bytes(block)
    before = subject.stored() if subject.layered else 0
    start = time.perf_counter()
    file = os.open(subject.path / "huge", os.O_RDWR)
    os.pwrite(file, block, places[0])
    os.close(file)
    found = {"first write ms": 1e3 * (time.perf_counter() - start)}
    copied = subject.stored() if subject.layered else 0
    settle()
    file = os.open(subject.path / "huge", os.O_RDWR)
    start = time.perf_counter()
    for place in places[1:]:
        os.pwrite(file, block, place)
    found["random writes"] = WRITES / (time.perf_counter() - start)
    os.close(file)
    if subject.layered:
        found["first write stored KiB"] = (copied - before) / 1024
        found["random writes stored per byte"] = (subject.stored() - copied) / (WRITES * PAGE)
    return found


# Creates files until its standard input ends, and prints how long the slowest of a hundred took, in microseconds.
CREATOR = """
import os, select, sys, time
took = []
os.mkdir(sys.argv[1])
print(flush=True)
while not select.select([0], [], [], 0)[0]:
    start = time.perf_counter()
    os.close(os.open(f"{sys.argv[1]}/{len(took)}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    took.append(time.perf_counter() - start)
print(1e6 * sorted(took)[len(took) * 99 // 100])
"""


def fsyncs(subject):
    """A write of 4 KiB and fsync(2), into pages that were not written before and again; and another client's creates beside it."""
    rounds = 100 if QUICK["on"] else 300
    file = os.open(subject.path / "over", os.O_RDWR)
    block, took = os.urandom(PAGE), {"first page": [], "again": []}
    made = subject.path / "work" / "made"
    os.fsync(file)
    for turn in took:
        for number in range(rounds):
            os.pwrite(file, block, 2 * number * PAGE)
            start = time.perf_counter()
            os.fsync(file)
            took[turn].append(time.perf_counter() - start)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    creator = subprocess.Popen([sys.executable, "-S", "-c", CREATOR, made], **pipes)
    creator.stdout.readline()
    for number in range(rounds):
        os.pwrite(file, block, 2 * number * PAGE)
        os.fsync(file)
    slowest = float(creator.communicate()[0])
    os.close(file)
    subject.put_back("work/made")
    return {f"fsync {turn} us": 1e6 * statistics.median(times) for turn, times in took.items()} | {
        "create beside fsync p99 us": slowest}


def reads(subject):
    """Files that nobody changed."""
    found = rows.seq_first(subject)
    subject.remount()
    found |= rows.rand4k_hot(subject)
    names.project(subject)
    subject.remount()
    found["grep"] = names.grep(subject)["grep"]
    warm(subject.scene.source / "tree")
    subject.remount()
    return found | {"find -ls": names.walk(subject)}


def untar(subject):
    tar = data.archive(names.project(subject))
    warm(tar)
    settle()
    os.mkdir(subject.path / "work" / "untarred")
    spent = timed("tar", "-C", subject.path / "work" / "untarred", "-xf", tar)
    subject.put_back("work/untarred")
    return {"untar": names.tree_size() / spent}


def clone(subject):
    origin = names.project(subject)
    data.repository(origin)
    settle()
    # A run that was cut short may have left it.
    shutil.rmtree(subject.scene.source / "work" / "cloned", ignore_errors=True)
    target = subject.path / "work" / "cloned"
    spent = timed("git", "-c", "safe.directory=*", "clone", "-q", "--no-hardlinks", origin, target)
    subject.put_back("work/cloned")
    return {"git clone": 1 / spent}


def build(subject):
    data.crates(subject.scene.source / "crates")
    env = {key: value for key, value in os.environ.items() if key != "CARGO_TARGET_DIR"}
    spent = timed("cargo", "build", "--offline", "-q", cwd=subject.path / "crates", env=env)
    subject.put_back("crates/target")
    return {"cargo build": 1 / spent}


def remove(subject):
    """rm -rf of files that the source has."""
    dirs = 20 if QUICK["on"] else 300
    doomed = subject.scene.source / "doomed"
    data.small_files(doomed, dirs, 100)
    settle()
    subject.remount()
    return {"rm -rf": 100 * dirs / timed("rm", "-rf", subject.path / "doomed")}


def change_mode(subject):
    """chmod -R of files that the source has."""
    tree = subject.path / "tree"
    warm(subject.scene.source / "tree")
    before = subject.stored() if subject.layered else 0
    spent = timed("chmod", "-R", "o-r", tree)
    found = {"chmod -R": subject.scene.dirs * subject.scene.files / spent}
    if subject.layered:
        data_bytes = subject.stored() - before
        found["chmod -R stored KiB"] = data_bytes / 1024
    else:
        run("chmod", "-R", "o+r", tree)
    return found


def many(subject):
    """A store with many changed files: time to the mount, and memory."""
    if subject.name != OURS:
        return {}
    dirs, files = (20, 1000) if QUICK["on"] else (1000, 1000)
    source = subject.scene.source / "changed"
    if not (source / f"d{dirs - 1}" / f"f{files - 1}").exists():
        for d in range(dirs):
            (source / f"d{d}").mkdir(parents=True, exist_ok=True)
            for f in range(files):
                (source / f"d{d}" / f"f{f}").touch()
    subject.remount()
    run("chmod", "-R", "o-r", subject.path / "changed")
    subject.unmount()
    start = time.perf_counter()
    subject.mount()
    found = {f"mount with {dirs * files} changed ms": 1e3 * (time.perf_counter() - start)}
    found["RssAnon mounted MiB"] = Usage(subject.daemon.pid).anon / MIB
    warm(subject.path / "changed")
    return found | {"RssAnon walked MiB": Usage(subject.daemon.pid).anon / MIB}


def commit(subject):
    """1 GiB of new files, and 4 KiB in a large file: a commit, which is durable when it ends, and cp without and with sync(1)."""
    if subject.name not in ("native", OURS):
        return {}
    scene = subject.scene
    origin, copied = scene.source / "made", scene.source / "work" / "copied"
    for number in range(128 if QUICK["on"] else 1024):
        below = origin / f"d{number // 64}"
        below.mkdir(parents=True, exist_ok=True)
        data.random_file(below / f"f{number}", MIB)
    path, size = huge(scene)
    found = {}

    def changed(row, words, change):
        settle()
        if subject.name == "native":
            spent = timed("cp", *words)
            synced = spent + timed("sync", "-f", words[-1])
        else:
            change()
            subject.unmount()
            settle()
            spent = synced = timed(scene.tools["mmfs"], "commit", subject.layer / "store")
            subject.mount()
        found.update({f"{row} ms": 1e3 * spent, f"{row} and sync ms": 1e3 * synced})

    changed("commit of 1 GiB", ["-a", origin, copied], lambda: run("cp", "-a", origin, subject.path / "work" / "copied"))
    assert len(list(copied.rglob("f*"))) == len(list(origin.rglob("f*")))
    shutil.rmtree(copied)
    block, place = os.urandom(PAGE), random.randrange(size // PAGE) * PAGE
    changed("commit of 4 KiB", ["--reflink=auto", path, copied], lambda: write_at(subject.path / "huge", block, place))
    if subject.name == "native":
        copied.unlink()
    else:
        with open(path, "rb") as file:
            assert os.pread(file.fileno(), PAGE, place) == block
    return found


def write_at(path, block, place):
    with open(path, "rb+") as file:
        os.pwrite(file.fileno(), block, place)


def of_others(row):
    """A row in which it makes no difference whether the kernel gets new files."""
    return lambda subject: {} if subject.name == PASSED else row(subject)


ROWS = {
    "writes": of_others(writes), "fsyncs": of_others(fsyncs), "reads": of_others(reads), "untar": untar, "clone": clone, "build": build,
    "remove": of_others(remove), "chmod": of_others(change_mode), "many-changed": many,
    "commit": commit,
}
UNITS = {"seq-first": "MiB/s", "grep": "1/s", "git clone": "1/s", "cargo build": "1/s"}
# What is to be reached: against whom, how many times as good; or the most that a value may be.
TARGETS = {
    "first write ms": 1.0, "first write stored KiB": 16, "random writes": ("mmfs", 0.7), "random writes stored per byte": 1.25,
    "fsync first page us": ("native", 1 / 2.5), "fsync again us": ("native", 1 / 1.3), "create beside fsync p99 us": 1000,
    "seq-first": ("mmfs", 0.95), "rand4k-hot": ("mmfs", 0.95), "grep": ("mmfs", 0.95), "find -ls": ("mmfs", 0.95),
    "untar": ("mmfs", 0.8), "git clone": ("mmfs", 0.8), "cargo build": ("mmfs", 0.8), "rm -rf": ("mmfs", 0.8),
    "commit of 1 GiB ms": ("native", 0.8), "commit of 4 KiB ms": ("native", 1.0),
    "chmod -R": ("mmfs", 1.0), "RssAnon mounted MiB": 96, "RssAnon walked MiB": 96,
}


def wanted(results, row):
    """What is to be reached in a row, and whether it was."""
    found = wanted_of_ours(results, row)
    values = results.values[row]
    if row == "cargo build" and PASSED in values and "native" in values:
        found += f"; {PASSED}: " + cell_of("0.9 x native", results.ratio(row, "native", PASSED) / 0.9)
    return found


def wanted_of_ours(results, row):
    target = TARGETS.get(row)
    if target is None or OURS not in results.values[row]:
        return ""
    if isinstance(target, tuple):
        other, factor = target
        if other not in results.values[row]:
            return ""
        return cell_of(f"{factor:.2g} x {other}", results.ratio(row, other, OURS) / factor)
    return cell_of(f"at most {target:g}", target / max(results.median(row, OURS), 1e-9))


def cell_of(words, reached):
    # Two digits are shown, and meant.
    return f"{words}: {'yes' if round(reached, 2) >= 1 else 'no'}"


def table(results, subjects):
    """Markdown: medians, and in brackets how a private view compares with each."""
    lines = ["| row | unit | " + " | ".join(subjects) + " | wanted |", "|---|---|" + "--:|" * len(subjects) + "---|"]
    for row, measured in results.values.items():
        cells = [report.cell(results, row, subject, OURS) if subject in measured else "" for subject in subjects]
        # Nothing stored is neither better nor worse by a factor.
        cells = [shown.replace(" (nan)", "") for shown in cells]
        cells = [f"**{shown}**" if subject == OURS and shown else shown for subject, shown in zip(subjects, cells)]
        lines.append(f"| {row} | {results.unit(row)} | " + " | ".join(cells) + f" | {wanted(results, row)} |")
    return "\n".join(lines) + "\n"
