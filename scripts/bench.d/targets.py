"""What mmfs is to reach in each row, as ratios of medians in one run, and whether it did."""

from dataclasses import dataclass

from profiler import KINDS

READS = ("seq-", "rand4k-", "mmap-")
WRITES = ("over", "append")
# How far above the best peer that revalidates within a second, where it is not simply at its side.
LEADS = {"seq-first": 1.8, "over4k": 1.1, "over4k fsync": 1.1, "stat": 1.2}
# Warm walks are held against a server that believes its cache for a day.
BELIEVER = "passthrough_ll always"
ALONE = ("many", "cost ", "growth ")
LEAST_OF_NULL, LEAST_OF_NATIVE, FLAT = 0.95, 0.95, 1.2
MOST = {
    "cost RssAnon idle MiB": 16, "cost RssAnon 100000 known MiB": 64,
    "cost status while 64 hang ms": 100, "cost status at full load ms": 100,
}


@dataclass
class Target:
    """One thing to reach: by whom, in which row, how, and how far it got; 1 and more is there."""

    subject: str
    row: str
    wanted: str
    reached: float

    @property
    def met(self):
        # Two digits are shown, and meant.
        return round(self.reached, 2) >= 1


def of_run(results, ours):
    """All targets that this run can tell of; of `ours` whoever has no value in a row has failed there."""
    found = [
        Target(subject, row, "a value", 0.0)
        for row in results.values if not row.startswith(ALONE)
        for subject in ours if subject not in results.values[row]
    ]
    for row in results.values:
        if row.startswith("cost "):
            found += bound(results, row)
        elif not row.startswith(ALONE):
            found += speed(results, row)
            found += passed(results, row)
    return found + growth(results)


def speed(results, row):
    best, measured = results.best_peer(row), results.values[row]
    if best is None or "mmfs" not in measured:
        return []
    if row == "list" and BELIEVER in measured:
        return [against(results, "mmfs", row, BELIEVER, 0.9)]
    if not row.startswith(READS) or row in LEADS:
        return [against(results, "mmfs", row, best, LEADS.get(row, 1.0))]
    bounds = [against(results, "mmfs", row, best, 1.25)]
    if "null" in measured:
        bounds.append(against(results, "mmfs", row, "null", LEAST_OF_NULL))
    return [max(bounds, key=lambda target: target.reached)]


def passed(results, row):
    """Files that the kernel serves by itself."""
    measured = results.values[row]
    if "mmfs --passthrough" not in measured:
        return []
    if row.startswith(READS) and "native" in measured:
        return [against(results, "mmfs --passthrough", row, "native", LEAST_OF_NATIVE)]
    if row.startswith(WRITES) and "passthrough_hp" in measured:
        return [against(results, "mmfs --passthrough", row, "passthrough_hp", 1.0)]
    return []


def against(results, subject, row, other, factor):
    wanted = other if factor == 1 else f"{factor:g} x {other}"
    return Target(subject, row, wanted, results.ratio(row, other, subject) / factor)


def bound(results, row):
    most = MOST.get(row)
    if most is None or "mmfs" not in results.values[row]:
        return []
    return [Target("mmfs", row, f"under {most} {row.split()[-1]}", most / max(results.median(row, "mmfs"), 1e-9))]


def growth(results):
    """The cost of one operation, at the largest size against the smallest."""
    families = {}
    for row in results.values:
        # Threads are ours to choose, and walking with one is not the same work.
        if row.startswith("growth ") and "threads" not in row and "mmfs" in results.values[row]:
            families.setdefault(row.split()[1], []).append(row)
    found = []
    for rows in families.values():
        first, last = (results.median(row, "mmfs") for row in (rows[0], rows[-1]))
        wanted = f"{FLAT:g} x {rows[0].removeprefix('growth ').removesuffix(' us')}"
        found.append(Target("mmfs", rows[-1], wanted, FLAT * first / last))
    return found


def table(targets, profiles):
    """Markdown: what was met in one sentence, what was missed row by row, with what a profile says of it."""
    missed = [target for target in targets if not target.met]
    counted = f"{len(targets) - len(missed)} of {len(targets)} targets were met"
    if not missed:
        return counted + ".\n"
    shown = KINDS if profiles else []
    about = ", and where the time goes (perf; 100 % is what the processors spent not idle, warming up included)" if shown else ""
    lines = [f"{counted}. The table shows the others{about}.\n",
             "| " + " | ".join(["who", "row", "wanted", "reached, of that", *shown]) + " |",
             "|---|---|---|" + "--:|" * (1 + len(shown))]
    for target in missed:
        shares = profiles.get((target.subject, target.row), {})
        cells = [target.subject, target.row, target.wanted, f"{target.reached:.2f}"]
        cells += [f"{shares[kind]:.0f} %" if kind in shares else "" for kind in shown]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
