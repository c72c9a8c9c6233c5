"""How long `mmfs status` takes while the mount has other things to do: the longest of many, in milliseconds."""

import contextlib
import dataclasses
import signal
import subprocess
import sys
import time

from rows import QUICK
from subjects import Subject

HANGING = 64
# Reads, past the kernel's cache, for as long as it lives; waits for a line first.
READER = """
import mmap, os, sys
file, place = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT), int(sys.argv[2]) << 17
room = mmap.mmap(-1, 1 << 17)
print(flush=True)
sys.stdin.readline()
while True:
    os.preadv(file, [room], place)
"""


def status(subject):
    if subject.name != "mmfs":
        return {}
    with reading(subject, 4) as go:
        idle = longest(subject)
        go()
        busy = longest(subject)
    return {
        "cost status idle ms": idle,
        "cost status at full load ms": busy,
        f"cost status while {HANGING} hang ms": while_hanging(subject),
    }


def longest(subject):
    """Of whole runs of the program, as a person would wait for them."""
    argv = [str(subject.scene.tools["mmfs"]), "status", str(subject.mount_point)]
    took = []
    for _ in range(20 if QUICK["on"] else 100):
        start = time.perf_counter()
        subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
        took.append(time.perf_counter() - start)
    return max(took) * 1e3


@contextlib.contextmanager
def reading(subject, count):
    """So many clients, which read when the function that this gives is called."""
    argv = [sys.executable, "-c", READER, str(subject.path / "big")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    readers = [subprocess.Popen([*argv, str(n)], **pipes) for n in range(count)]
    for reader in readers:
        reader.stdout.readline()  # It has opened the file.

    def go():
        for reader in readers:
            reader.stdin.write(b"\n")
            reader.stdin.flush()
        time.sleep(1)

    try:
        yield go
    finally:
        for reader in readers:
            reader.kill()
        for reader in readers:
            reader.communicate()


def while_hanging(subject):
    """A mount of what another server serves, which is stopped before anybody reads."""
    with Subject("bindfs", subject.scene) as stopped:
        scene = dataclasses.replace(subject.scene, source=stopped.path, mounts=subject.scene.mounts / "above")
        with Subject("mmfs", scene) as above, reading(above, HANGING) as go:
            stopped.daemon.send_signal(signal.SIGSTOP)
            try:
                go()
                return longest(above)
            finally:
                stopped.daemon.send_signal(signal.SIGCONT)


ROWS = {"status": status}
