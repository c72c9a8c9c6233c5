"""What was found: medians, ratios, a table, plots."""

import json
import os
import shutil
from html import escape
from pathlib import Path
from statistics import median, mode

from machine import MOST_STOLEN
from subjects import HANDED_OVER, PEERS, STALE

COLOURS = {"native": "#8a8a8a", "mmfs": "#d1495b", "null": "#c9c9c9"}
PASSED = HANDED_OVER[0]
LIMITS = ["native", "null"]
KEPT = ["values", "row_of", "again", "disturbed"]
# Where --publish writes: everything into one page, the rows that a new reader wants into the other.
BEGIN, END = "<!-- bench:begin (written by: scripts/bench --publish) -->", "<!-- bench:end -->"
BEGIN_PRIVATE, END_PRIVATE = "<!-- private:begin (written by: scripts/bench --private --publish) -->", "<!-- private:end -->"
PAGE, README = Path("docs", "benchmarks.md"), Path("README.md")
PLOTS = Path("docs", "plots")
SUMMARY = {
    "seq-first": "read in order, first time",
    "seq-again": "read in order, again",
    "rand4k-1 buffered": "random 4 KiB reads",
    "over4k": "overwrite, 4 KiB",
    "over1m": "overwrite, 1 MiB",
    "stat": "stat",
    "create": "create files",
    "git-status": "git status, cold",
}
SUMMARY_OF = ["native", "bindfs", "mmfs", PASSED]


class Results:
    """Values by sub-row and subject, one per round; and which row a sub-row is of."""

    def __init__(self, units):
        self.values, self.row_of, self.again, self.disturbed = {}, {}, {}, {}
        self.units = units

    def add(self, row, sub_row, subject, value):
        self.row_of[sub_row] = row
        self.values.setdefault(sub_row, {}).setdefault(subject, []).append(value)

    def count(self, row, again, disturbed):
        """How often the host made a value be measured again, and how often that did not help."""
        self.again[row] = self.again.get(row, 0) + again
        self.disturbed[row] = self.disturbed.get(row, 0) + disturbed

    def sub_rows(self, row):
        return [sub_row for sub_row, of in self.row_of.items() if of == row]

    def forget(self, row):
        """Leaves nothing of a row that is measured again."""
        for sub_row in self.sub_rows(row):
            del self.values[sub_row], self.row_of[sub_row]
        self.again.pop(row, None)
        self.disturbed.pop(row, None)

    def arrange(self, rows):
        """Brings the sub-rows into the order of their rows."""
        place = {sub_row: rows.index(row) for sub_row, row in self.row_of.items()}
        self.values = {sub_row: self.values[sub_row] for sub_row in sorted(self.values, key=place.get)}

    def save(self, file, about):
        new = file.with_suffix(".new")
        new.write_text(json.dumps({"about": about} | {part: getattr(self, part) for part in KEPT}, indent=1))
        new.replace(file)

    def load(self, file, about):
        """Takes up what was saved, if it is `about` the same things."""
        try:
            kept = json.loads(file.read_text())
        except FileNotFoundError:
            return
        other = [what for what in about if kept["about"].get(what) != about[what]]
        if other:
            raise SystemExit(f"bench: {file} was measured with other {' and '.join(other)}; start anew without --resume")
        for part in KEPT:
            setattr(self, part, kept[part])

    def median(self, row, subject):
        return median(self.values[row].get(subject) or [float("nan")])

    def unit(self, row):
        return "" if lower_is_better(row) else self.units.get(row, "op/s")

    def noise(self, row, subject):
        """Spread of a subject: half the distance between its quartile-like extremes over its median, in per cent."""
        values = sorted(self.values[row].get(subject, []))
        if len(values) < 2 or not median(values):
            return None
        trim = len(values) // 5
        kept = values[trim:len(values) - trim]
        return 50 * (kept[-1] - kept[0]) / median(values)

    def ratio(self, row, subject, ours="mmfs"):
        """mmfs against a subject; above 1 mmfs is the better one."""
        ours, theirs = self.median(row, ours), self.median(row, subject)
        if lower_is_better(row):
            ours, theirs = theirs, ours
        return ours / theirs if theirs else float("nan")

    def best_peer(self, row):
        """The best of those that revalidate within a second."""
        fresh = [p for p in PEERS if p not in STALE and p in self.values[row]]
        best = min if lower_is_better(row) else max
        return best(fresh, key=lambda p: self.median(row, p), default=None)


def lower_is_better(row):
    return row.startswith(("cost ", "growth ")) or row.endswith((" ms", " us", " KiB", " MiB", " per byte"))


def number(value):
    if value != value:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cell(results, row, subject, ours="mmfs"):
    """A subject's median, and in brackets how `ours` compares with it."""
    value = number(results.median(row, subject))
    if subject == ours or ours not in results.values[row]:
        return value
    return f"{value} ({results.ratio(row, subject, ours):.2f})"


def table(results, subjects):
    """Markdown: medians, and in brackets how mmfs compares with each."""
    lines = ["| row | unit | " + " | ".join(subjects) + " | noise | mmfs / best peer | --passthrough / native |",
             "|---|---|" + "--:|" * (len(subjects) + 3)]
    for row in results.values:
        cells = [cell(results, row, subject) if subject in results.values[row] else "" for subject in subjects]
        cells = [f"**{shown}**" if subject == "mmfs" and shown else shown for subject, shown in zip(subjects, cells)]
        best = results.best_peer(row)
        cells.append(noise(results, row))
        cells.append(f"{results.ratio(row, best):.2f} {best}" if best and "mmfs" in results.values[row] else "")
        passed = {PASSED, "native"} <= results.values[row].keys()
        cells.append(f"{results.ratio(row, 'native', PASSED):.2f}" if passed else "")
        lines.append(f"| {row} | {results.unit(row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def legend(machine, rounds, quick, dropped, ours="mmfs"):
    size = " (quick: small data)" if quick else ""
    caches = "" if dropped else " Caches could not be dropped (that needs root): cold rows are not cold."
    usual = mode(rounds.values())
    others = [f"{row} {count}" for row, count in rounds.items() if count != usual]
    counted = f"{usual} interleaved rounds" + (f" ({', '.join(others)})" if others else "")
    text = (f"{machine}. Values are medians of {counted}{size}. In brackets stands {ours} against that subject: above 1, {ours} is "
            f"better. More is better in all rows but cost, growth, and those of times and sizes.{caches} ")
    if ours == "mmfs":
        text += (f"Noise is the spread between rounds. {' and '.join(sorted(STALE))} trust their caches for longer than a second, "
                 "so they do not count as best peer.")
    return f"{text.rstrip()}\n\n"


def noise(results, row):
    """How much the two limits vary between rounds: native for the machine, null for its waking of servers."""
    found = [(limit, results.noise(row, limit)) for limit in LIMITS]
    return ", ".join(f"{limit} ±{value:.0f} %" for limit, value in found if value is not None)


def spread(results):
    """How noisy the machine was, over all rows."""
    noise = []
    for limit in LIMITS:
        found = [value for row in results.values if (value := results.noise(row, limit)) is not None]
        if found:
            noise.append(f"{limit} ±{median(found):.0f} % in the median row and ±{max(found):.0f} % in the worst")
    said = [f"The machine's noise, as the spread between rounds: {'; '.join(noise)}."] if noise else []
    again, still = sum(results.again.values()), [row for row, times in results.disturbed.items() if times]
    if again:
        said.append(f"{again} values were measured again because the host took more than {100 * MOST_STOLEN:.0f} % of the "
                    "processors' time.")
    if still:
        said.append(f"It took as much at the last try, too, in {', '.join(f'{row} ({results.disturbed[row]})' for row in still)}.")
    return " ".join(said) + "\n\n" if said else ""


def plot(results, rows, subjects, title):
    """A bar chart: one block per row, bars relative to the row's best."""
    left, width, bar, gap = 170, 420, 13, 22
    y, parts = 34, [f'<text x="10" y="20" font-size="15">{escape(title)}</text>']
    for row in rows:
        present = [s for s in subjects if s in results.values[row]]
        most = max((results.median(row, s) for s in present), default=0) or 1
        parts.append(f'<text x="10" y="{y + 12}" font-weight="bold">{escape(row)} {escape(results.unit(row))}</text>')
        y += 18
        for subject in present:
            value = results.median(row, subject)
            length = width * value / most
            parts.append(
                f'<text x="{left - 6}" y="{y + 10}" text-anchor="end">{escape(subject)}</text>'
                f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" fill="{COLOURS.get(subject, "#5b8db8")}"/>'
                f'<text x="{left + length + 5:.1f}" y="{y + 10}">{number(value)}</text>'
            )
            y += bar
        y += gap - bar
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{y + 6}" '
            f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n')


FAMILIES = {
    "reads": ("seq", "rand", "mmap"),
    "writes": ("over", "append"),
    "names": ("create", "stat", "list", "unlink"),
    "trees": ("untar", "git", "grep", "build", "many"),
    "cost": ("cost",),
    "growth": ("growth",),
}


def write(folder, results, subjects, text):
    """The table and the plots of what was measured; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "table.md"]
    files[0].write_text(text)
    for family, prefixes in FAMILIES.items():
        rows = [row for row in results.values if row.startswith(prefixes)]
        if rows:
            files.append(folder / f"{family}.svg")
            files[-1].write_text(plot(results, rows, subjects, f"mmfs: {family}"))
    return files


def summary(results):
    """README's table: few rows, few subjects."""
    present = [subject for subject in SUMMARY_OF if any(subject in results.values.get(row, {}) for row in SUMMARY)]
    lines = ["| | unit | " + " | ".join(present) + " |", "|---|---|" + "--:|" * len(present)]
    for row, words in SUMMARY.items():
        if row in results.values:
            cells = [number(results.median(row, subject)) for subject in present]
            lines.append(f"| {words} | {results.unit(row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def insert(file, text, begin=BEGIN, end=END):
    """Puts the text between the file's two markers."""
    old = file.read_text()
    if begin not in old or end not in old:
        raise SystemExit(f"bench: {file} lacks the markers {begin} and {end}")
    before, rest = old.split(begin, 1)
    file.write_text(f"{before}{begin}\n{text}{end}{rest.split(end, 1)[1]}")


def publish(root, results, text, plots):
    """Puts the table into its page, followed by the plots, which stand in docs/plots; and a few rows into README, if all
    of them were measured."""
    folder = root / PLOTS
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shown = []
    for file in plots:
        shutil.copy(file, folder)
        shown.append(f"![{file.stem}]({os.path.relpath(folder / file.name, (root / PAGE).parent)})")
    insert(root / PAGE, f"{text}\n{' '.join(shown)}\n")
    if SUMMARY.keys() <= results.values.keys():
        insert(root / README, summary(results))
