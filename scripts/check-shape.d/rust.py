"""Reads Rust source: its text without comments, strings and test code, and the paths it names."""

import re
from bisect import bisect_right
from collections import defaultdict, deque
from dataclasses import dataclass, field
from functools import cached_property

# What is left out becomes spaces, so that every position stays.
TEXT = re.compile(
    r"""//[^\n]*|/\*|(?<!\w)[bc]?r(\#*)".*?"\1|"(?:\\.|[^"\\])*"|'(?:\\(?:u\{[^}]*\}|x..|.)|[^\\'\n])'""", re.S
)


def blank(text):
    """Spaces instead of `text`, line by line."""
    return re.sub(r"[^\n]", " ", text)


def without_text(source):
    """The source without comments and literals."""
    parts, at = [], 0
    while found := TEXT.search(source, at):
        end = comment_end(source, found.start()) if found[0] == "/*" else found.end()
        parts += [source[at : found.start()], blank(source[found.start() : end])]
        at = end
    return "".join(parts) + source[at:]


def comment_end(source, start):
    """The end of a block comment; they nest."""
    depth = 0
    for mark in re.finditer(r"/\*|\*/", source[start:]):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return start + mark.end()
    return len(source)


def matching(code):
    """The position of the closing bracket for that of every opening one."""
    pairs, opened = {}, []
    for bracket in re.finditer(r"[(){}\[\]]", code):
        if bracket[0] in "({[":
            opened.append(bracket.start())
        elif opened:
            pairs[opened.pop()] = bracket.start()
    return pairs


def holds_for_tests_only(condition):
    """Whether a condition of cfg(...) can hold in a test build only."""
    name, _, rest = condition.strip().partition("(")
    inner = re.findall(r"\w+\s*\((?:[^()]|\([^()]*\))*\)|\w+", rest.rpartition(")")[0])
    if name.strip() in ("all", "any"):
        hold = [holds_for_tests_only(part) for part in inner]
        return any(hold) if name.strip() == "all" else bool(hold) and all(hold)
    return name.strip() == "test"


ITEM = re.compile(r"(?:pub(?:\s*\([^)]*\))?\s+)?(?:default\s+)?([A-Za-z_]\w*)(\s+(?:fn|unsafe|async|extern)\b)?")
WITH_BODY = {"fn", "struct", "enum", "union", "trait", "impl", "mod", "unsafe", "async", "extern", "macro_rules"}
WITHOUT_BODY = {"use", "const", "static", "let", "type"}


def item_end(code, pairs, start):
    """The end of the item, statement, field or match arm that begins at `start`."""
    head = ITEM.match(code, start)
    kind = head[1] if head else ""
    whole = kind in WITHOUT_BODY and not (kind == "const" and head[2])
    item = whole or kind in WITH_BODY or kind == "const"
    angles, at = 0, start
    while mark := re.compile(r"[-=]>|[({\[)}\];,<>]").search(code, at):
        sign, at = mark[0], mark.end()
        if sign in "({[":
            at = pairs.get(mark.start(), len(code)) + 1
            if sign == "{" and not whole:
                return at
        elif sign in ")}]":
            return mark.start()
        elif sign in "<>":
            angles += 1 if sign == "<" else -1
        elif sign == ";" or (sign == "," and not item and angles <= 0):
            return at
    return len(code)


def without_tests(code, pairs):
    """The code without what is compiled for tests only, and the names of the test modules in files of their own."""
    parts, modules, at = [], set(), 0
    for mark in re.finditer(r"#\s*(!?)\s*\[\s*(cfg\s*\(|test\s*\])", code):
        if mark.start() < at:
            continue
        close = pairs.get(code.index("[", mark.start()), len(code))
        condition = code[mark.end() : close].rpartition(")")[0] if mark[2].startswith("cfg") else "test"
        if not holds_for_tests_only(condition):
            continue
        if mark[1]:
            return blank(code), modules
        start = close + 1
        while attribute := re.compile(r"\s*#\s*\[").match(code, start):
            start = pairs.get(attribute.end() - 1, len(code)) + 1
        start = re.compile(r"\s*").match(code, start).end()
        end = item_end(code, pairs, start)
        if name := re.match(r"(?:pub(?:\s*\([^)]*\))?\s+)?mod\s+(\w+)\s*;", code[start:end]):
            modules.add(name[1])
        parts += [code[at : mark.start()], blank(code[mark.start() : end])]
        at = end
    return "".join(parts) + code[at:], modules


# ---- one file, and the paths it names

USE = re.compile(r"\b(pub(?:\s*\([^)]*\))?\s+)?use\s+([^;]+);")
PATH = re.compile(r"(?<!\w)(?<![\w>)]::)(?:[A-Za-z_]\w*\s*::\s*)+(?:[A-Za-z_]\w*|(?=[<{*]))")


@dataclass
class Named:
    """A path as it is written somewhere."""

    path: list  # its words; the last one is * for all of them
    at: int  # where it stands in the file
    name: str = ""  # what an import calls it
    public: bool = False  # whether that import is a re-export


def imports(tokens, at, before=()):
    """The paths of a tree like `a::{b, c as d, e::*}` that begins at `at`."""
    while tokens:
        words, alias, start = list(before), None, tokens[0].start()
        while tokens and tokens[0][0] not in ",}":
            word = tokens.popleft()[0]
            if word == "{":
                yield from imports(tokens, at, words)
                words = []
            elif word == "as":
                alias = tokens.popleft()[0]
            else:
                words.append(word)
        if len(words) > len(before):
            # `a::{self}` is `a`.
            words = words[:-1] if words[-1] == "self" and len(words) > 1 else words
            yield Named(words, at + start, alias or words[-1])
        if tokens and tokens.popleft()[0] == "}":
            return


@dataclass
class File:
    """A file of src/ and the module it is."""

    path: str  # as it is reported
    module: tuple  # ("fs", "data") for src/fs/data.rs and src/fs/data/mod.rs
    source: str
    names: dict = field(default_factory=dict)  # what its imports stand for; filled in by Tree
    used: list = field(default_factory=list)  # everything it names; filled in by Tree

    def __post_init__(self):
        self.code = without_text(self.source)  # with test code
        self.pairs = matching(self.code)
        self.live, self.test_modules = without_tests(self.code, self.pairs)
        self.is_test = "tests" in self.path[:-3].split("/")

    @cached_property
    def starts(self):
        return [0, *(newline.end() for newline in re.finditer("\n", self.source))]

    def line(self, at):
        return bisect_right(self.starts, at)

    @cached_property
    def inline_modules(self):
        heads = re.finditer(r"\bmod\s+(\w+)\s*\{", self.live)
        return [(head[1], head.end(), self.pairs.get(head.end() - 1, len(self.live))) for head in heads]

    @cached_property
    def imports(self):
        found = []
        for use in USE.finditer(self.live):
            for named in imports(deque(re.finditer(r"\w+|[{},*]", use[2])), use.start(2)):
                named.public = bool(use[1])
                found.append(named)
        return found

    @cached_property
    def body(self):
        """The code without its imports."""
        return USE.sub(lambda use: blank(use[0]), self.live)

    @cached_property
    def paths(self):
        """Every path outside imports."""
        return [Named(re.findall(r"\w+", path[0]), path.start()) for path in PATH.finditer(self.body)]

    @cached_property
    def defines(self):
        """Whether anything is defined here: more than modules, imports and attributes."""
        declared = r"\b(?:pub(?:\s*\([^)]*\))?\s+)?mod\s+\w+\s*;"
        rest = re.sub(declared, lambda found: blank(found[0]), self.body)
        for mark in re.finditer(r"#\s*!?\s*\[", rest):
            end = self.pairs.get(mark.end() - 1, len(rest) - 1) + 1
            rest = rest[: mark.start()] + " " * (end - mark.start()) + rest[end:]
        return bool(rest.strip())

    def module_at(self, at):
        """The module that a position belongs to: the file's, or one written out in it."""
        return [*self.module, *(name for name, first, last in self.inline_modules if first <= at < last)]

    def is_in(self, places):
        """Whether the file is one of these modules or below one."""
        return any(self.module[: len(parts)] == parts for parts in (tuple(place.split("/")) for place in places))


class Tree:
    """All files, and what a path in one of them means."""

    def __init__(self, root):
        self.files = {}
        for path in sorted((root / "src").rglob("*.rs")):
            module = path.relative_to(root / "src").with_suffix("").parts
            module = module[:-1] if module[-1] in ("mod", "lib") else module
            self.files[module] = File(path.relative_to(root).as_posix(), module, path.read_text())
        tests = [(*file.module, name) for file in self.files.values() for name in file.test_modules]
        for file in self.files.values():
            file.is_test = file.is_test or any(file.module[: len(test)] == test for test in tests)
        self.live = [file for file in self.files.values() if not file.is_test]
        self.children = defaultdict(set)
        for file in self.live:
            for depth in range(len(file.module)):
                self.children[file.module[:depth]].add(file.module[depth])
        for file in self.live:
            file.names = {
                named.name: self.absolute(file, named, {}) for named in file.imports if named.path[-1] != "*"
            }
        for file in self.live:
            file.used = [*self.uses_of(file)]

    def absolute(self, file, named, names):
        """What a path means: (True, words) from the root of this crate on, (False, words) in another crate."""
        first, *rest = named.path
        here = file.module_at(named.at)
        if first == "crate" or (first == "mmfs" and file.module == ("main",)):
            return True, rest
        if first in ("self", "super"):
            while first in ("self", "super"):
                here = here[:-1] if first == "super" else here
                first, *rest = rest or [""]
            return True, [*here, first, *rest] if first else here
        if first in self.children[tuple(here)]:
            return True, [*here, first, *rest]
        if first in names and first != named.name:
            inside, words = names[first]
            return inside, [*words, *rest]
        return False, named.path

    def uses_of(self, file):
        """Everything a file names: (the path as written, whether it leads into this crate, what it means)."""
        root = self.files.get(())
        for named in [*file.imports, *file.paths]:
            inside, words = self.absolute(file, named, file.names)
            # A name that lib.rs gives to what stands deeper.
            if inside and words and root and file is not root and words[0] not in self.children[()]:
                deeper_inside, deeper = root.names.get(words[0], (False, []))
                words = [*deeper, *words[1:]] if deeper_inside else words
            yield named, inside, words

    def origin(self, words):
        """Where a path leads in the end, through the imports of the modules it passes."""
        for _ in range(8):
            depth = 0
            while depth < len(words) and words[depth] in self.children[tuple(words[:depth])]:
                depth += 1
            file = self.files.get(tuple(words[:depth]))
            if depth == len(words) or not file or words[depth] not in file.names:
                break
            inside, deeper = file.names[words[depth]]
            if not inside or deeper == words[: depth + 1]:
                break
            words = [*deeper, *words[depth + 1 :]]
        return words
