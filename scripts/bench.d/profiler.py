"""Where the processors' time goes while a row is measured: perf over the whole system, sorted by who and what for.

The commands that warm a row up are in it, and all sub-rows of a row are one."""

import os
import shutil
import signal
import subprocess
import time
from collections import Counter

import machine
from subjects import Subject

SLEEP = ("schedule", "__schedule", "try_to_wake_up", "__wake_up", "wake_up_q")
OTHERS, OURS = "clients and others", "daemon itself"
WAKING, COPYING, FUSE, SOURCE = "kernel for it: waking", "copying", "FUSE", "source and the rest"
KINDS = [OTHERS, OURS, WAKING, COPYING, FUSE, SOURCE]
KERNEL = 1 << 63


class Profiler:
    """Watches the commands that `machine.watched` is put around, for as long as it is entered."""

    def __init__(self, folder):
        self.file = folder / "perf.data"
        self.counts = Counter()
        self.recording = None

    def __enter__(self):
        machine.PROFILER = self
        return self

    def __exit__(self, *_):
        machine.PROFILER = None
        self.file.unlink(missing_ok=True)

    def start(self):
        argv = ["perf", "record", "-q", "-a", "-g", "-F", "997", "-o", str(self.file)]
        self.recording = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.3)  # it says nothing when it has begun

    def stop(self):
        daemons = {subject.daemon.pid for subject in Subject.alive}
        self.recording.send_signal(signal.SIGINT)
        self.recording.wait()
        own = {os.getpid(), self.recording.pid}
        for process, command, chain in samples(self.file):
            if process not in own and command not in ("swapper", "perf"):
                self.counts[kind(chain) if process in daemons else OTHERS] += 1

    def shares(self):
        """Per cent of the time of all processors that were not idle."""
        total = sum(self.counts.values())
        return {kind: 100 * self.counts[kind] / total for kind in KINDS} if total else {}


def available():
    return shutil.which("perf") is not None and os.geteuid() == 0


def samples(file):
    """Of each sample the process, its command and its call chain, leaf first, as addresses and symbols."""
    argv = ["perf", "script", "--no-inline", "-i", file, "-F", "comm,pid,ip,sym"]
    text = subprocess.run(argv, capture_output=True, text=True, errors="replace").stdout
    for block in text.split("\n\n"):
        lines = block.strip("\n").splitlines()
        if len(lines) > 1:
            command, process = lines[0].rsplit(None, 1)
            chain = [line.split(None, 1) for line in lines[1:]]
            yield int(process), command.strip(), [(int(a, 16), s[0] if s else "") for a, *s in chain]


def kind(chain):
    """What the daemon's time of one sample was for."""
    if chain[0][0] < KERNEL:
        return OURS
    names = [symbol for address, symbol in chain if address >= KERNEL]
    if any(name.startswith(SLEEP) for name in names):
        return WAKING
    if any(name.startswith("fuse_copy") for name in names):
        return COPYING
    return FUSE if any(name.startswith("fuse_dev_") for name in names) else SOURCE
