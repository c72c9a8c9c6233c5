"""The rows on names and trees."""

import os
import shutil
import subprocess
import sys

import data
from machine import descriptor_limit, drop_caches, run, settle, timed, warm
from rows import QUICK

# Directories and files of 4 KiB, as fast as a program can ask for them.
MAKER = """
import os, sys
block = bytes(4096)
top, dirs, files = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.mkdir(top)
for d in range(dirs):
    below = f"{top}/d{d:03}"
    os.mkdir(below)
    for f in range(files):
        fd = os.open(f"{below}/f{f:03}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(fd, block)
        os.close(fd)
"""


def small_file_count(subject):
    return subject.scene.dirs * subject.scene.files


def create(subject):
    settle()
    top = subject.path / "work" / "made"
    spent = timed(sys.executable, "-S", "-c", MAKER, top, subject.scene.dirs, subject.scene.files)
    shutil.rmtree(subject.scene.source / "work" / "made", ignore_errors=True)
    return {"create": small_file_count(subject) / spent}


def walk(subject):
    return small_file_count(subject) / timed("find", subject.path / "tree", "-ls")


def stat(subject):
    warm(subject.scene.source / "tree")
    return {"stat": walk(subject)}


def list_again(subject):
    warm(subject.scene.source / "tree")
    walk(subject)
    return {"list": walk(subject)}


def unlink(subject):
    doomed = subject.scene.source / "doomed"
    data.copy_natively(subject.scene.source / "tree", doomed)
    settle()
    subject.remount()
    spent = timed("rm", "-r", subject.path / "doomed")
    shutil.rmtree(doomed, ignore_errors=True)
    return {"unlink": small_file_count(subject) / spent}


def tree_size():
    """About 20,000 files where passthrough_ll, which keeps a descriptor of each, can have as many."""
    return 1500 if QUICK["on"] else min(20_000, descriptor_limit() * 9 // 10)


def project(subject):
    return data.source_tree(subject.scene.source / "project", tree_size())


def untar(subject):
    tar = data.archive(project(subject))
    warm(tar)
    settle()
    target = subject.path / "work" / "untarred"
    shutil.rmtree(subject.scene.source / "work" / "untarred", ignore_errors=True)
    os.mkdir(subject.scene.source / "work" / "untarred")
    spent = timed("tar", "-C", target, "-xf", tar)
    shutil.rmtree(subject.scene.source / "work" / "untarred")
    return {"untar": tree_size() / spent}


def git_status(subject):
    """The index is refreshed first: subjects show different inode numbers and devices."""
    data.repository(project(subject))
    git = ["git", "-c", "safe.directory=*", "-C", subject.path / "project", "status", "--short"]
    run(*git)
    subject.remount()
    cold = timed(*git)
    warm_one = timed(*git)
    return {"git-status": 1 / cold, "git-status warm": 1 / warm_one}


def grep(subject):
    search = ["rg", "--no-ignore", "-c", "e"]
    found = [*search, subject.path / "project"]
    run(*search, project(subject), stdout=subprocess.DEVNULL)
    return {"grep": 1 / timed(*found), "grep again": 1 / timed(*found)}


def build(subject):
    """cargo build with sources and target on the mount."""
    data.crates(subject.scene.source / "crates")
    folder = subject.path / "crates"
    env = {key: value for key, value in os.environ.items() if key != "CARGO_TARGET_DIR"}
    spent = timed("cargo", "build", "--offline", "-q", cwd=folder, env=env)
    shutil.rmtree(subject.scene.source / "crates" / "target")
    return {"build": 1 / spent}


UNITS = {"git-status": "1/s", "git-status warm": "1/s", "grep": "1/s", "grep again": "1/s", "build": "1/s"}

ROWS = {
    "create": create, "stat": stat, "list": list_again, "unlink": unlink, "untar": untar,
    "git-status": git_status, "grep": grep, "build": build,
}

# The null server has no such trees.
NOT_NULL = {"untar", "git-status", "grep", "build"}
