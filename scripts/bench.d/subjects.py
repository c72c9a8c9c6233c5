"""What is measured: native, mmfs, its peers and its limit, each mounted afresh for every measurement."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

# Peers that believe what they cached for a day or for ever: shown, but not the measure.
STALE = {"passthrough_ll always", "fuse-overlayfs"}
PEERS = ["bindfs", "mergerfs", "passthrough_ll auto", "passthrough_ll always", "fuse-overlayfs"]
# A second mmfs, given by MMFS_OTHER, to judge a change by.
OTHER = "mmfs other"
# Open files served by the kernel itself: a class of their own. The peer is libfuse's example from 3.17 on, whose program
# PASSTHROUGH_HP names.
HANDED_OVER = ["mmfs --passthrough", "passthrough_hp"]
NAMES = ["native", "mmfs", OTHER, *PEERS, *HANDED_OVER, "null"]


@dataclass
class Scene:
    """Where the data is, how much of it, and with which programs it is served."""

    source: Path
    mounts: Path
    tools: dict
    size: int
    dirs: int
    files: int

    def argv(self, name, mount_point):
        source = self.source
        low_level = [self.tools["passthrough_ll"], "-f", "-o", "allow_other,default_permissions,xattr"]
        match name:
            case "mmfs" | "mmfs other":
                extra = os.environ.get("MMFS_OPTIONS", "").split()
                return [self.tools[name], "-f", *extra, source, mount_point]
            case "mmfs --passthrough":
                return [self.tools["mmfs"], "-f", "--passthrough", source, mount_point]
            case "passthrough_hp":
                return [self.tools[name], "--foreground", source, mount_point]
            case "bindfs":
                return ["bindfs", "-f", "--multithreaded", source, mount_point]
            case "mergerfs":
                return ["mergerfs", "-f", "-o", "allow_other", source, mount_point]
            case "passthrough_ll auto":
                return [*low_level, "-o", f"source={source},cache=auto", mount_point]
            case "passthrough_ll always":
                return [*low_level, "-o", f"source={source},cache=always", mount_point]
            case "fuse-overlayfs":
                empty, work = self.mounts / "empty", self.mounts / "overlay-work"
                empty.mkdir(exist_ok=True)
                work.mkdir(exist_ok=True)
                layers = f"lowerdir={empty},upperdir={source},workdir={work}"
                return ["fuse-overlayfs", "-f", "-o", f"{layers},allow_other", mount_point]
            case "null":
                return [self.tools["null"], mount_point, str(self.size), str(self.dirs), str(self.files)]
        raise ValueError(name)


class Subject:
    """One subject, ready to be measured under `path`; a context manager that leaves nothing behind."""

    alive = []  # for the trap, should we be interrupted

    def __init__(self, name, scene):
        self.name, self.scene = name, scene
        self.daemon = None
        self.mount_point = scene.mounts / name.replace(" ", "-")

    @property
    def path(self):
        return self.scene.source if self.name == "native" else self.mount_point

    @property
    def served(self):
        return self.name != "native"

    def __enter__(self):
        self.mount()
        return self

    def __exit__(self, *_):
        self.unmount()

    def argv(self):
        return self.scene.argv(self.name, self.mount_point)

    def remount(self):
        """Leaves nothing cached of the mount."""
        self.unmount()
        self.mount()

    def mount(self):
        if not self.served:
            return
        self.mount_point.mkdir(parents=True, exist_ok=True)
        log = open(self.scene.mounts / f"{self.mount_point.name}.log", "wb")
        argv = [str(a) for a in self.argv()]
        self.daemon = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        Subject.alive.append(self)
        for _ in range(500):
            if os.path.ismount(self.mount_point):
                return
            if self.daemon.poll() is not None:
                break
            time.sleep(0.01)
        self.unmount()
        raise RuntimeError(f"{self.name} does not mount, see {log.name}")

    def unmount(self):
        if self.daemon is None:
            return
        for attempt in range(50):
            # A program just ended may still be letting go of its files.
            flags = ["-l"] if attempt == 49 else []
            if subprocess.run(["umount", *flags, self.mount_point], capture_output=True).returncode == 0:
                break
            if not os.path.ismount(self.mount_point):
                break
            time.sleep(0.02)
        try:
            self.daemon.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
        self.daemon = None
        Subject.alive.remove(self)

    @classmethod
    def unmount_all(cls):
        for subject in list(cls.alive):
            subject.unmount()
