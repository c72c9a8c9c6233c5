"""The machine: what is installed, what is built, what is cached."""

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "bench"

# Command or file that shows the package is there -> package.
PACKAGES = {
    "fio": "fio", "bindfs": "bindfs", "mergerfs": "mergerfs", "fuse-overlayfs": "fuse-overlayfs",
    "gcc": "gcc", "pkg-config": "pkg-config", "rg": "ripgrep", "git": "git", "find": "findutils",
    "/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c": "libfuse3-dev",
}


def run(*argv, **options):
    """Runs a command that must succeed; its output is shown only when it does not."""
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.STDOUT)
    options.setdefault("text", True)
    done = subprocess.run([str(a) for a in argv], **options)
    if done.returncode != 0:
        said = (done.stderr or done.stdout or "").strip()
        raise RuntimeError(f"{' '.join(map(str, argv))}: exit {done.returncode}: {said[-500:]}")
    return done.stdout


# Who watches what is measured, while that is wanted.
PROFILER = None


@contextmanager
def watched():
    """Around a command that is measured."""
    if PROFILER is None:
        yield
        return
    PROFILER.start()
    try:
        yield
    finally:
        PROFILER.stop()


def timed(*argv, **options):
    """Seconds a command takes that must succeed."""
    options |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with watched():
        start = time.perf_counter()
        run(*argv, **options)
        return time.perf_counter() - start


def install():
    """Installs what is missing, with the system's package manager."""
    missing = sorted({p for proof, p in PACKAGES.items() if not (shutil.which(proof) or Path(proof).exists())})
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"bench: please install {' '.join(missing)}")
    print("bench: installing", *missing, file=sys.stderr)
    run("apt-get", "update")
    run("apt-get", "install", "-y", "--no-install-recommends", *missing, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def descriptor_limit():
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def raise_descriptor_limit():
    """passthrough_ll keeps a descriptor of every inode."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor_limit(),) * 2)


def build():
    """Builds mmfs, the null server and passthrough_ll; returns their paths by name."""
    run("cargo", "build", "--release", "--bins", "--example", "null_server", cwd=ROOT)
    release = OUT.parent / "release"
    tools = OUT.parent / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    passthrough = tools / "passthrough_ll"
    if not passthrough.exists():
        flags = run("pkg-config", "--cflags", "--libs", "fuse3").split()
        source = "/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c"
        run("gcc", "-O2", "-w", source, "-o", passthrough, *flags)
    return {
        "mmfs": Path(os.environ.get("MMFS_BIN", release / "mmfs")),
        "mmfs other": os.environ.get("MMFS_OTHER"),
        "null": release / "examples" / "null_server",
        "passthrough_ll": passthrough,
        "passthrough_hp": os.environ.get("PASSTHROUGH_HP"),
    }


def digests(tools):
    """By which the programs that were built are known again."""
    files = {name: file for name, file in tools.items() if file}
    return {name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for name, file in files.items()}


def can_drop_caches():
    return os.access("/proc/sys/vm/drop_caches", os.W_OK)


# As much of the processors' time as the host may give to others while something is measured.
MOST_STOLEN = 0.03


class Stolen:
    """Around a measurement: which share of the processors' time the host of this virtual machine gave to others (the eighth
    number of /proc/stat, proc(5))."""

    def __enter__(self):
        self.before = self.ticks()
        return self

    def __exit__(self, *_):
        passed = [now - then for now, then in zip(self.ticks(), self.before)]
        self.share = passed[7] / max(sum(passed), 1)

    @staticmethod
    def ticks():
        return [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def drop_caches(what=3):
    """Empties the kernel's caches, after writing back what is dirty: 1 pages, 2 names and inodes, 3 both."""
    os.sync()
    if can_drop_caches():
        Path("/proc/sys/vm/drop_caches").write_text(str(what))


def settle():
    """Leaves no writeback of one measurement for the next to pay."""
    os.sync()


def warm(path):
    """Brings a file into the page cache, or a tree's names and attributes."""
    if path.is_dir():
        run("find", path, "-ls", stdout=subprocess.DEVNULL)
    else:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def describe():
    """One line on what was measured where."""
    def field(path, key):
        lines = Path(path).read_text().splitlines()
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "?")

    memory = int(field("/proc/meminfo", "MemTotal").split()[0]) >> 20
    uname = os.uname()
    kind = run("findmnt", "-n", "-o", "FSTYPE", "-T", OUT).strip()
    return f"Linux {uname.release}, {os.cpu_count()} x {field('/proc/cpuinfo', 'model name')}, {memory} GiB, data on {kind}"


class Usage:
    """What processes have consumed, from /proc."""

    def __init__(self, pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        self.cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        self.switches, self.anon = 0, 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if "ctxt_switches" in line:
                    self.switches += int(line.split()[1])
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                self.anon = int(line.split()[1]) * 1024
