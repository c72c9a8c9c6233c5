"""The rows on bytes of open files. Each takes a mounted subject and returns rates by the name of the sub-row."""

import json
import os
import subprocess
import time

from machine import drop_caches, run, settle, timed, warm, watched
from subjects import HANDED_OVER

MIB = 1 << 20
QUICK = {"on": False}


def seconds():
    """How long fio measures what has no end of its own."""
    return 0.4 if QUICK["on"] else 1.5


def span():
    return f"--runtime={int(seconds() * 1000)}ms"


def fio(path, *options):
    """Runs one fio job description on one file; returns the jobs of its report."""
    argv = ["fio", "--name=j", f"--filename={path}", "--output-format=json", "--invalidate=0",
            "--allow_file_create=0", "--ioengine=psync", *options]
    with watched():
        report = run(*argv)
    # It prints notes before the report.
    return json.loads(report[report.index("{"):])["jobs"]


def rate(jobs, kind, unit="iops"):
    return sum(job[kind][unit] for job in jobs)


def dd_read(path):
    size = os.stat(path).st_size
    return size / MIB / timed("dd", f"if={path}", "of=/dev/null", "bs=1M")


def seq_first(subject):
    warm(subject.scene.source / "big")
    return {"seq-first": dd_read(subject.path / "big")}


def seq_again(subject):
    dd_read(subject.path / "big")
    return {"seq-again": dd_read(subject.path / "big")}


def seq_cold(subject):
    drop_caches(1)
    return {"seq-cold": dd_read(subject.path / "big")}


def random_reads(subject, jobs, name):
    """First touch. Direct I/O on the mount, so that every read reaches the daemon; some peers pass O_DIRECT on and so ask
    the disk, hence also buffered reads of blocks not read before, without read-ahead. Native is buffered in both, and so
    are files that the kernel serves from the source's own cache."""
    warm(subject.scene.source / "big")
    how = ["--rw=randread", "--bs=4k", f"--numjobs={jobs}", span(), "--group_reporting"]
    direct = f"--direct={int(subject.served and subject.name not in HANDED_OVER)}"
    first = rate(fio(subject.path / "big", *how, direct, "--time_based"), "read")
    subject.remount()
    buffered = rate(fio(subject.path / "big", *how, "--fadvise_hint=random"), "read")
    return {name: first, f"{name} buffered": buffered}


def rand4k_1(subject):
    return random_reads(subject, 1, "rand4k-1")


def rand4k_4(subject):
    return random_reads(subject, 4, "rand4k-4")


def rand4k_hot(subject):
    dd_read(subject.path / "big")
    how = ["--rw=randread", "--bs=4k", span(), "--time_based"]
    return {"rand4k-hot": rate(fio(subject.path / "big", *how), "read")}


def mapped_reads(subject, kind, size, count, name):
    warm(subject.scene.source / "big")
    how = [f"--rw={kind}", f"--bs={size}", "--ioengine=mmap", f"--io_size={count}"]
    return {
        name: rate(fio(subject.path / "big", *how), "read"),
        f"{name} again": rate(fio(subject.path / "big", *how), "read"),
    }


def mmap_seq(subject):
    return mapped_reads(subject, "read", "64k", subject.scene.size, "mmap-seq")


def mmap_rand(subject):
    return mapped_reads(subject, "randread", "4k", (16 if QUICK["on"] else 128) * MIB, "mmap-rand")


def overwrite(subject, name, kind, size, bytes_plain, bytes_synced):
    """In place, over a file whose pages are cached and clean; then with an fsync every 32 writes."""
    warm(subject.scene.source / "over")
    settle()
    how = [f"--rw={kind}", f"--bs={size}", "--overwrite=1", "--fallocate=none", f"--size={bytes_plain}"]
    plain = rate(fio(subject.path / "over", *how), "write")
    settle()
    how[-1] = f"--size={bytes_synced}"
    synced = rate(fio(subject.path / "over", *how, "--fsync=32"), "write")
    return {name: plain, f"{name} fsync": synced}


def over4k(subject):
    plain, synced = (16, 4) if QUICK["on"] else (128, 32)
    return overwrite(subject, "over4k", "randwrite", "4k", plain * MIB, synced * MIB)


def over1m(subject):
    return overwrite(subject, "over1m", "write", "1m", subject.scene.size, subject.scene.size)


def append(subject):
    target = subject.path / "work" / "appended"
    count = subject.scene.size // MIB
    settle()
    large = timed("dd", "if=/dev/zero", f"of={target}", "bs=1M", f"count={count}", "conv=excl")
    remove(subject, "appended")
    settle()
    blocks = 4096 if QUICK["on"] else 16384
    small = timed("dd", "if=/dev/zero", f"of={target}", "bs=4k", f"count={blocks}", "oflag=append", "conv=notrunc,excl")
    remove(subject, "appended")
    return {"append 1M": count / large, "append 4k": blocks / small}


def remove(subject, name):
    path = subject.scene.source / "work" / name
    path.unlink(missing_ok=True)
    subject.remount()


def many(subject):
    """32 processes at once: two in three read, one in three writes; fairness is the slowest reader's share of
    the fastest's."""
    warm(subject.scene.source / "big")
    settle()
    base = ["fio", "--output-format=json", "--ioengine=psync", "--invalidate=0", "--runtime=3",
            "--time_based", "--allow_file_create=0"]
    big, over = subject.path / "big", subject.path / "over"
    argv = [*base,
            "--name=rand", f"--filename={big}", "--rw=randread", "--bs=4k", "--fadvise_hint=random", "--numjobs=12",
            "--name=seq", f"--filename={big}", "--rw=read", "--bs=128k", "--numjobs=10",
            "--name=write", f"--filename={over}", "--rw=randwrite", "--bs=4k", "--numjobs=10"]
    report = run(*argv)
    jobs = json.loads(report[report.index("{"):])["jobs"]
    speeds = [job["read"]["iops"] for job in jobs if job["jobname"] == "rand"]
    total = sum(job["read"]["iops"] + job["write"]["iops"] for job in jobs)
    return {"many": total, "many fairness": min(speeds) / max(max(speeds), 1e-9)}


UNITS = {
    "seq-first": "MiB/s", "seq-again": "MiB/s", "seq-cold": "MiB/s",
    "append 1M": "MiB/s", "over1m": "MiB/s", "over1m fsync": "MiB/s", "many fairness": "min/max",
}

ROWS = {
    "seq-first": seq_first, "seq-again": seq_again, "seq-cold": seq_cold,
    "rand4k-1": rand4k_1, "rand4k-4": rand4k_4, "rand4k-hot": rand4k_hot,
    "mmap-seq": mmap_seq, "mmap-rand": mmap_rand,
    "over4k": over4k, "over1m": over1m, "append": append, "many": many,
}
