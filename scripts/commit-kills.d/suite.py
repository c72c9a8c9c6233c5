"""The trials of scripts/suites/commit-kills, and their sum. It runs in a mount namespace of its own, as root."""

import argparse
import multiprocessing
import os
import random
import sys
import time
import traceback
from collections import Counter

import tracing
import tree
from listing import Between, differences, listing
from place import Place, Wrong, end_with_parent, own_namespace, remove_directories, run

FILESYSTEMS = ("ext4", "xfs", "btrfs")
# The store lies beside the source, or on a filesystem of its own; or only some changes are committed.
WAYS = {"beside": "the store beside", "apart": "the store apart", "some": "some changes"}
# A quick run: so many of each kind, in each of these ways.
SAMPLES = {"kill": 12, "sync": 10, "ENOSPC": 4, "EIO+": 3, "ENOSPC+": 3, "EIO": 5}
# All of the others in a full run. Of these there are too many.
UNSYNCED = 200


class Trials:
    """Commits from the same beginning, each disturbed in its own way."""

    def __init__(self, place, moment, before, after):
        self.place, self.moment, self.before, self.after = place, moment, before, after
        self.between = Between(before, after, tree.STEADY)
        self.figures = Counter()

    def learn(self):
        """The calls that a commit makes: those that change something, and those that can fail."""
        if self.place.chosen:
            self.learn_some()
        self.changing, self.failing = self.calls(tracing.CHANGING), self.calls(tracing.FAILING)

    def learn_some(self):
        """What is there when some changes are committed, and what is said when that is tried again."""
        self.place.mount(self.moment)
        status, words = self.place.commit()
        if status:
            raise RuntimeError(f"mmfs commit: {status}: {words}")
        self.some, self.rest = listing(self.place.source), self.place.says("diff")
        self.again = self.place.commit()
        self.place.end()

    def calls(self, names):
        log = self.place.work / "calls"
        self.place.mount(self.moment)
        status, words = self.place.commit(*tracing.recording(names, log))
        if status:
            raise RuntimeError(f"mmfs commit: {status}: {words}")
        self.is_done(words)
        self.place.end()
        return tracing.Calls(log, self.place.store)

    # ---- what must be

    def nothing_is_torn(self):
        told, files = self.between.wrong(self.place.source)
        self.figures["files looked at"] += files
        if told:
            raise Wrong(told)

    def is_done(self, words):
        """The source and the store are as after an undisturbed commit."""
        if self.place.chosen:
            self.is_done_in_part(words)
        told = differences(self.after, listing(self.place.source)) + self.place.store_is_empty()
        if told:
            raise Wrong(told + [f"mmfs commit said: {words}"])
        self.figures["results compared"] += 1

    def is_done_in_part(self, words):
        """What was chosen is in the source, the view is what it was, and the rest can be committed."""
        told = differences(self.some, listing(self.place.source)) + self.place.store_is_sound()
        if not told:
            told = [f"the view: {one}" for one in differences(self.after, self.place.view_listing())]
        if self.place.says("diff") != self.rest:
            told.append(f"mmfs diff: {self.place.says('diff')} instead of {self.rest}")
        if not told:
            status, said = self.place.says("commit")
            told = [f"mmfs commit of the rest: {status}: {said}"] if status else []
        if told:
            raise Wrong(told + [f"mmfs commit said: {words}"])

    def finishes(self):
        """Nothing is torn, and another commit ends as an undisturbed one does."""
        self.nothing_is_torn()
        status, words = self.place.commit()
        was_done = self.place.chosen and (status, words) == self.again
        if status and not was_done:
            raise Wrong([f"the next mmfs commit: {status}: {words}"])
        self.is_done(words)

    # ---- trials

    def watched(self, microseconds):
        """A commit whose calls are slow, looked at all the time."""
        self.place.mount(self.moment)
        end, told = multiprocessing.Event(), multiprocessing.Queue()
        watcher = multiprocessing.Process(target=self.watch, args=(end, told))
        watcher.start()
        status, words = self.place.commit(*tracing.slowed(microseconds), limit=600)
        end.set()
        wrong, looks, files = told.get(timeout=60)
        watcher.join()
        if status or wrong:
            raise Wrong([f"mmfs commit: {status}: {words}", *wrong[:5]])
        self.is_done(words)
        self.place.end()
        self.figures["looks while one ran"] += looks
        self.figures["files looked at"] += files

    def watch(self, end, told):
        end_with_parent()
        wrong, looks, files = [], 0, 0
        while not end.is_set():
            found, seen = self.between.wrong(self.place.source)
            # A name is looked for after the file was.
            wrong += found
            looks, files = looks + 1, files + seen
        told.put((wrong, looks, files))

    def kill(self, number, rng):
        """Killed before a call: the next one finishes on the same mount, and after power cuts."""
        self.disturbed([self.changing.calls[number].killed()], rng, is_killed=True)

    def sync(self, number, rng):
        """A sync fails, and soon it is killed, unless it ends."""
        syncs = [at for at, call in enumerate(self.changing.calls) if call.name in tracing.SYNCS]
        at = syncs[number % len(syncs)]
        sync, killed = self.changing.calls[at], self.changing.soon_after(at, rng)
        faults = [sync.fails("EIO"), killed.killed()]
        if sync.name == killed.name:
            # strace takes one fault for a name.
            faults = [sync.fails("EIO", is_forever=True)]
        self.disturbed(faults, rng, is_killed=False)

    def blind(self, number, rng):
        """No sync does anything, and it is killed: that is to be found out."""
        try:
            self.disturbed([(tracing.SYNCS, "retval=0"), self.changing.calls[number].killed()], rng, is_killed=True)
        except Wrong:
            give_up(self.place)
        else:
            raise Wrong(["syncs that do nothing are not found out"])

    def disturbed(self, faults, rng, is_killed):
        self.place.mount(self.moment)
        status, said = self.place.commit(*tracing.traced(*faults))
        if is_killed and status != -9:
            raise Wrong([f"it was not killed: {status}: {said}"])
        self.figures["killed"] += status == -9
        cuts = [self.place.cut("cut"), self.place.cut_late("late")]
        try:
            self.then("on the same mount", self.finishes)
            self.place.end()
            for name, cut in zip(("after a power cut", "after a power cut behind a write of the journal"), cuts):
                self.from_cut(cut)
                self.then(name, self.finishes)
                self.place.end()
            self.twice(rng.choice(cuts), rng)
        finally:
            for cut in cuts:
                cut.remove()

    def from_cut(self, cut):
        self.place.start_machine_anew()
        self.place.mount(cut)
        self.figures["power cuts"] += 1

    def twice(self, cut, rng):
        """The one that finishes is cut short, too."""
        call = self.changing.some(rng)
        self.from_cut(cut)
        self.then(f"killed again before {call}", lambda: self.killed_again(call))
        again = self.place.cut("again") if rng.random() < 0.5 else self.place.cut_late("again")
        try:
            self.then(f"killed again before {call}, on the same mount", self.finishes)
            self.place.end()
            self.from_cut(again)
            self.then(f"killed again before {call}, after a power cut", self.finishes)
            self.place.end()
        finally:
            again.remove()

    def killed_again(self, call):
        status, said = self.place.commit(*tracing.traced(call.killed()))
        if status not in (0, -9) and not (self.place.chosen and (status, said) == self.again):
            raise Wrong([f"the next mmfs commit: {status}: {said}"])
        self.figures["killed again"] += status == -9

    def fault(self, number, error, is_forever):
        """A call fails: the commit says so, or does without it."""
        self.place.mount(self.moment)
        call = self.failing.calls[number]
        status, said = self.place.commit(*tracing.traced(call.fails(error, is_forever)))
        self.figures[f"failing calls, exit status {status}"] += 1
        is_silenced = call.name == "write"
        told = []
        if status not in (0, 1) or "panicked" in said:
            told.append(f"exit status {status}: {said}")
        elif status == 1 and "mmfs: " not in said and not is_silenced:
            told.append(f"exit status 1, and it says: {said!r}")
        if "nothing was changed" in said:
            told += [f"it says that nothing was changed: {one}" for one in differences(self.before, listing(self.place.source))]
        if told:
            raise Wrong(told)
        cut = self.place.cut_late("late")
        try:
            self.then(f"exit status {status}, {said!r}, on the same mount", self.finishes)
            self.place.end()
            self.from_cut(cut)
            self.then(f"exit status {status}, {said!r}, after a power cut", self.finishes)
            self.place.end()
        finally:
            cut.remove()

    @staticmethod
    def then(name, act):
        try:
            act()
        except Wrong as wrong:
            raise Wrong([name, *wrong.args[0]]) from None

    def trial(self, kind, number, seed):
        rng = random.Random(f"{seed} {kind} {number}")
        match kind:
            case "kill":
                self.kill(number, rng)
            case "sync":
                self.sync(number, rng)
            case "blind":
                self.blind(number, rng)
            case "watch":
                self.watched(number)
            case _:
                self.fault(number, kind.rstrip("+"), kind.endswith("+"))

    def name(self, kind, number):
        calls = {"kill": self.changing, "blind": self.changing, "sync": None, "watch": None}.get(kind, self.failing)
        return f"{kind} {number}" + (f" ({calls.calls[number]})" if calls else "")


def spread(numbers, count):
    """So many of them, all over."""
    return sorted({numbers[round((len(numbers) - 1) * at / max(1, count - 1))] for at in range(count)})


def planned(trials, is_all):
    """All trials of a run. A call that changes nothing is disturbed in one way only, and with the store beside the source."""
    jobs = [("watch", 300), ("watch", 2000)] if is_all else [("watch", 500)]
    changing = [at for at, call in enumerate(trials.changing.calls) if call.changes]
    # The last step that moves a name: nothing has been synced since the first.
    jobs.append(("blind", max(at for at in changing if trials.changing.calls[at].name == "renameat2")))
    failing = range(trials.failing.first, len(trials.failing.calls))
    some = [at for at in failing if trials.failing.calls[at].changes]
    numbers = {"kill": changing, "sync": range(UNSYNCED), "EIO": failing if trials.place.way == "beside" else some}
    for kind, count in SAMPLES.items():
        these = numbers.get(kind, some)
        # The first syncs are those of the journal.
        some_of_these = these[:count] if kind == "sync" else spread(these, count)
        jobs += [(kind, number) for number in (these if is_all else some_of_these)]
    # Where no times can be set any more, those of directories cannot be as they were.
    return [job for job in jobs if not (job[0].endswith("+") and trials.failing.calls[job[1]].name == "utimensat")]


def work_off(trials, jobs, results, seed):
    """A worker: trials until there are none."""
    end_with_parent()
    own_namespace()
    while (job := jobs.get()) is not None:
        trials.figures = Counter()
        told = None
        try:
            trials.trial(*job, seed)
        except Wrong as wrong:
            told = list(wrong.args[0])
        except Exception:
            told = [traceback.format_exc()]
        if told:
            give_up(trials.place)
        results.put((job, told, trials.figures))
    results.put(None)


def give_up(place):
    """Leaves no mount to the next trial."""
    for point in (place.view, *reversed(place.points)):
        while os.path.ismount(point):
            run("umount", "--lazy", point)
    for image in (place.work / "images").glob(f"*-{os.getpid()}-*"):
        image.unlink()


def prepared(place):
    """In a process of its own, as its mounts end with it."""
    own_namespace()
    moment, before, after = place.prepare()
    trials = Trials(place, moment, before, after)
    trials.learn()
    return trials


def in_child(function, *arguments):
    queue = multiprocessing.Queue()

    def target():
        try:
            queue.put((function(*arguments), None))
        except Exception:
            queue.put((None, traceback.format_exc()))

    child = multiprocessing.Process(target=target)
    child.start()
    result, error = queue.get(timeout=600)
    child.join()
    if error:
        sys.exit(f"commit-kills: {error}")
    return result


def run_all(trials, jobs, title, seed, workers):
    """Runs them, and returns how many failed."""
    queue, results = multiprocessing.Queue(), multiprocessing.Queue()
    for job in [*jobs, *[None] * workers]:
        queue.put(job)
    crew = [multiprocessing.Process(target=work_off, args=(trials, queue, results, seed)) for _ in range(workers)]
    for worker in crew:
        worker.start()
    figures, failed, done, ended, told_at = Counter(), 0, 0, 0, time.monotonic()
    while ended < workers:
        # A worker that died says nothing more.
        result = results.get(timeout=900)
        if result is None:
            ended += 1
            continue
        job, told, counted = result
        figures += counted
        done += 1
        figures[f"trials of {job[0]}"] += 1
        if told:
            failed += 1
            print(f"FAILED: {title}: {trials.name(*job)}, seed {seed}", *told[:8], sep="\n    ", flush=True)
        if time.monotonic() - told_at > 60:
            told_at = time.monotonic()
            print(f"{title}: {done} of {len(jobs)} trials, {failed} failed", flush=True)
    for worker in crew:
        worker.join()
    sums = ", ".join(f"{name}: {count}" for name, count in sorted(figures.items()))
    print(f"commit-kills: {title}: {done} trials, {failed} failed ({sums})", flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mmfs", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", nargs="+", metavar=("KIND", "NUMBER"))
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("filesystems", nargs="*", default=["ext4"])
    given = parser.parse_args()
    for kind in given.filesystems:
        if kind not in FILESYSTEMS:
            sys.exit(f"commit-kills: {' or '.join(FILESYSTEMS)}, not {kind!r}")
    seed = int(os.environ.get("MMFS_SEED") or random.randrange(1 << 32))
    failed, started = 0, time.monotonic()
    for kind in given.filesystems:
        for way in [given.way] if given.way else WAYS:
            place, title = Place(given.work, kind, way, given.mmfs), f"{kind}, {WAYS[way]}"
            trials = in_child(prepared, place)
            changing, failing = trials.changing, trials.failing
            count = sum(call.changes for call in changing.calls)
            print(f"{title}: {count} calls that change something, {len(failing.calls)} that can fail", flush=True)
            jobs = planned(trials, given.all)
            if given.only:
                name, *numbers = given.only
                jobs = [job for job in planned(trials, True) if job[0] == name and (not numbers or str(job[1]) in numbers)]
            # They wait for mounts more than they compute. Two filesystems with one UUID are too much for btrfs.
            workers = 1 if kind == "btrfs" else 3 * (os.cpu_count() or 1)
            failed += run_all(trials, jobs, title, seed, workers)
            trials.moment.remove()
            remove_directories(place)
    print(f"commit-kills: seed {seed}, {failed} trials failed, {round(time.monotonic() - started)} s", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
