"""The data: one large file to read, one to overwrite, small files, and a source tree."""

import os
import random
import shutil
import subprocess
from pathlib import Path

from machine import run


def prepare(scene):
    """Makes what is missing."""
    source = scene.source
    for folder in (source / "work", scene.mounts):
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("big", "over"):
        random_file(source / name, scene.size)
    small_files(source / "tree", scene.dirs, scene.files)


def random_file(path, size):
    if path.exists() and path.stat().st_size == size:
        return
    with open(path, "wb") as file:
        for _ in range(0, size, 1 << 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())


def small_files(folder, dirs, files):
    """`dirs` directories of `files` files of 4 KiB, named as the null server names its own."""
    if (folder / f"d{dirs - 1:03}" / f"f{files - 1:03}").exists() and not (folder / f"d{dirs:03}").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    block = os.urandom(4096)
    for d in range(dirs):
        below = folder / f"d{d:03}"
        below.mkdir(parents=True)
        for f in range(files):
            (below / f"f{f:03}").write_bytes(block)


def source_tree(folder, count):
    """A tree shaped like a large project's: `count` text files, lognormal sizes around 4 KiB; always the same."""
    done = folder.with_name(folder.name + f".{count}")
    if done.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    for old in folder.parent.glob(f"{folder.name}.*"):  # other counts, and the archive
        old.unlink()
    dice = random.Random(4)
    words = ["".join(dice.choices("etaoinshrdlu_", k=dice.randint(2, 9))) for _ in range(4000)]
    lines = [" ".join(dice.choices(words, k=9)) + "\n" for _ in range(4000)]
    folders = [folder]
    for i in range(count):
        if i % 14 == 0:
            below = dice.choice(folders[-300:]) / f"{dice.choice(words)}{i}"
            if len(below.relative_to(folder).parts) > 6:
                below = folder / below.name
            below.mkdir(parents=True)
            folders.append(below)
        size = min(int(dice.lognormvariate(4.4, 1.2)), 6000)
        first = dice.randrange(4000)
        text = "".join((lines * 3)[first:first + size])
        (dice.choice(folders[-20:]) / f"{dice.choice(words)}{i}.c").write_text(text)
    done.touch()
    return folder


def archive(folder):
    """The tree as a tar file beside it."""
    path = folder.with_name(folder.name + ".tar")
    if not path.exists():
        run("tar", "-C", folder.parent, "-cf", path, folder.name)
    return path


def repository(folder):
    """Makes the tree a git repository with everything committed."""
    if (folder / ".git" / "HEAD").exists() and (folder / ".git" / "index").exists():
        return
    git = ["git", "-C", folder, "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]
    run(*git, "init", "-q")
    run(*git, "add", "-A")
    run(*git, "commit", "-q", "-m", "tree")


def crates(folder, count=24):
    """A cargo workspace of small crates that depend on each other in a chain of three."""
    if (folder / "Cargo.toml").exists():
        return folder
    for i in range(count):
        below = folder / f"c{i}"
        (below / "src").mkdir(parents=True)
        above = f'c{i - 1} = {{ path = "../c{i - 1}" }}\n' if i % 3 else ""
        (below / "Cargo.toml").write_text(
            f'[package]\nname = "c{i}"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\n{above}'
        )
        body = "".join(f"pub fn f{n}(x: &[u64]) -> u64 {{ x.iter().map(|v| v.rotate_left({n})).sum() }}\n" for n in range(60))
        (below / "src" / "lib.rs").write_text(body)
    (folder / "Cargo.toml").write_text('[workspace]\nresolver = "2"\nmembers = ["c*"]\n')
    return folder


def copy_natively(origin: Path, target: Path):
    """A fresh copy, made behind the mount."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", origin, target], check=True)
