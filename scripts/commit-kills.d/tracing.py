"""strace: which system calls a commit makes, and which of them is disturbed how."""

import re
from collections import Counter
from typing import NamedTuple

# Those that can change what is on a disk, or when it gets there. A kill before another call leaves what one before the next of these
# does.
CHANGING = (
    "open openat openat2 creat write pwrite64 writev pwritev pwritev2 sendfile copy_file_range splice ioctl truncate ftruncate fallocate "
    "rename renameat renameat2 link linkat unlink unlinkat rmdir symlink symlinkat mkdir mkdirat mknod mknodat "
    "chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utimensat utime utimes futimesat "
    "setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr setxattrat removexattrat "
    "fsync fdatasync syncfs sync sync_file_range msync exit_group"
).split()
# Those that can fail by what a disk does or has, beside these.
LOOKING = (
    "read pread64 readv preadv preadv2 stat lstat fstat newfstatat statx statfs fstatfs access faccessat faccessat2 "
    "getdents64 readlink readlinkat lseek getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr getxattrat listxattrat "
    "flock fcntl getrandom name_to_handle_at"
).split()
FAILING = [call for call in CHANGING if call != "exit_group"] + LOOKING
SYNCS = ("fsync", "fdatasync", "syncfs")
# After so many other calls of a name at most.
SOON = 20


def of(calls):
    """For strace: not every machine has each of them."""
    return calls if isinstance(calls, str) else ",".join("?" + call for call in calls)


def traced(*faults):
    words = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", "signal=none"]
    calls = {call for names, _ in faults for call in names}
    words += ["-e", f"trace={of(sorted(calls))}"]
    for names, fault in faults:
        words += ["-e", f"inject={of(names)}:{fault}"]
    return words


class Call(NamedTuple):
    """A call of a thread: strace counts those of each name."""

    name: str
    number: int
    # Whether it changes something.
    changes: bool = True

    def killed(self):
        """It is killed before this call."""
        return [self.name], f"signal=KILL:when={self.number}"

    def fails(self, error, is_forever=False):
        """This call fails, or it and all that follow of its name."""
        return [self.name], f"error={error}:when={self.number}{'+' if is_forever else ''}"

    def __str__(self):
        return f"{self.name} {self.number}"


def slowed(microseconds):
    return traced((CHANGING, f"delay_exit={microseconds}"))


def recording(calls, log):
    return ["strace", "-f", "-qqq", "-o", str(log), "-e", f"trace={of(calls)}", "-e", "signal=none"]


def changes(name, rest):
    """Whether a call changes something, by its arguments as strace shows them."""
    if name.startswith("open"):
        return "O_CREAT" in rest or "O_TRUNC" in rest
    return name in CHANGING and (name != "ioctl" or "FICLONE" in rest)


class Calls:
    """The calls of a commit that nobody disturbed, in their order."""

    def __init__(self, log, store):
        threads = {}
        for line in log.read_text(errors="replace").splitlines():
            found = re.match(r"(\d+) +(\w+)\((.*)", line)
            if found:
                threads.setdefault(found[1], []).append((found[2], found[3]))
        counts, self.calls, self.first = Counter(), [], None
        # The first thread. The others wait for it, and make a handful.
        for name, rest in next(iter(threads.values())):
            counts[name] += 1
            self.calls.append(Call(name, counts[name], changes(name, rest)))
            # What comes before is the program's start.
            if self.first is None and str(store) in rest:
                self.first = len(self.calls) - 1
        self.others = [len(calls) for calls in threads.values()][1:]

    def some(self, rng):
        """One of them, rather an early one: a commit that goes on makes fewer."""
        call = rng.choice(self.calls[self.first :])
        return Call(call.name, rng.randint(1, call.number))

    def soon_after(self, at, rng):
        """One that comes soon, if another way is taken from a call on."""
        counts = Counter(call.name for call in self.calls[: at + 1])
        name = rng.choice(("unlinkat", "unlink", "renameat", "renameat2", "openat", "openat2", "utimensat", *SYNCS))
        return Call(name, counts[name] + rng.randint(1, SOON))
