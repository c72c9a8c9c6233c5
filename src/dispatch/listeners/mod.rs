//! Chooses how many event loops listen, that is, read requests from the kernel: all of them, or few while the others wait.
//!
//! For each request, the kernel wakes the listener that has waited longest. With all event loops listening, this is fastest for
//! a client that waits for every answer, and for a source that answers slowly. If requests come faster than they are answered,
//! each of them wakes one more thread, which takes the CPU from another one. With few listeners, a listener finds the next
//! request without sleeping. Two alternating phases measure which is faster:
//!
//! - a *pause*: all event loops listen.
//! - a *trial*: few listen, and the requests answered per second are counted. The trial fails if one of the few sleeps often
//!   or does not finish a request.
//!
//! The pause after a trial is measured, too. Trials get longer while few listeners are faster. Pauses get longer while they
//! are not.

mod schedule;
#[cfg(test)]
mod tests;

use crate::sys::process::voluntary_switches;
use parking_lot::{Condvar, Mutex, MutexGuard};
use schedule::{Schedule, TrialEnd};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::{Duration, Instant};

/// Requests of one event loop that make a round. After a fast round it may begin a trial.
const REQUESTS_PER_ROUND: u32 = 16;

/// A round that takes longer is not fast. At a lower rate the number of listeners does not matter.
const MAX_ROUND_TIME: Duration = Duration::from_millis(20);

/// Requests after which one of the few counts how often it slept.
const REQUESTS_PER_SAMPLE: u32 = 32;

/// A trial fails if a thread sleeps more often than this in one sample, for requests or within one.
/// Measured where few listeners are faster: a client that reads ahead 3, four readers 1, ripgrep 11.
/// Measured where few listeners are slower: one client that waits for every answer 28.
const MAX_SLEEPS_PER_SAMPLE: i64 = 21;

/// How often the few are checked during a trial.
const WATCH_INTERVAL: Duration = Duration::from_millis(1);

/// Intervals without a request after which a trial ends.
const MAX_IDLE_INTERVALS: u32 = 20;

thread_local! {
    static OWN: Cell<Own> = const { Cell::new(Own { phase: 0, index: 0, requests: 0, since: None, switches: 0 }) };
}

/// State of one event loop.
#[derive(Clone, Copy)]
struct Own {
    /// The last trial in which it was one of the few.
    phase: u64,
    /// Its index among the few.
    index: usize,
    /// Requests in this round or sample.
    requests: u32,
    /// Start of the round. `None` in the first round.
    since: Option<Instant>,
    /// Voluntary context switches of the thread before this sample.
    switches: i64,
}

/// The event loops, of which all or few listen.
#[derive(Debug)]
pub struct Listeners {
    loops: usize,
    /// The number of the phase. Even: a pause. Odd: a trial.
    phase: AtomicU64,
    /// Requests answered, of all event loops.
    answered: AtomicU64,
    /// For each of the few: twice the number of requests it has answered in this trial, plus 1 while it serves one.
    progress: Box<[AtomicU64]>,
    state: Mutex<State>,
    phase_changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// How many of the few have been chosen in this trial.
    chosen: usize,
    /// The last trial for which a waiting event loop runs `watch`.
    watched: u64,
    schedule: Schedule,
}

/// A request that an event loop serves. Dropping it may block the event loop until the trial ends.
#[derive(Debug)]
pub struct Serving<'a>(&'a Listeners);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        match std::thread::panicking() {
            true => self.0.abandon(),
            false => self.0.finish(),
        }
    }
}

impl Listeners {
    /// For `loops` event loops on a machine with `processors` CPUs. The few are half as many as the CPUs, at least one.
    pub fn new(loops: usize, processors: usize) -> Arc<Self> {
        let few = (processors / 2).max(1);
        Arc::new(Listeners {
            loops,
            phase: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            progress: (0..few).map(|_| AtomicU64::new(0)).collect(),
            state: Mutex::new(State {
                chosen: 0,
                watched: 0,
                schedule: Schedule::new(Instant::now()),
            }),
            phase_changed: Condvar::new(),
        })
    }

    /// Marks the start of a request on the calling event loop.
    pub fn begin(&self) -> Serving<'_> {
        let own = OWN.get();
        if own.phase == self.phase.load(SeqCst) && is_trial(own.phase) {
            self.progress[own.index].fetch_or(1, Relaxed);
        }
        Serving(self)
    }

    /// Counts an answered request. May block the event loop until the trial ends.
    fn finish(&self) {
        self.answered.fetch_add(1, Relaxed);
        let (phase, mut own) = (self.phase.load(SeqCst), OWN.get());
        if !is_trial(phase) {
            self.count_in_pause(&mut own);
        } else if own.phase == phase {
            self.count_in_trial(phase, &mut own);
        } else {
            self.join_or_wait(phase, &mut own);
        }
        OWN.set(own);
    }

    /// Ends the trial if this event loop, which is panicking, is one of the few.
    fn abandon(&self) {
        let phase = self.phase.load(SeqCst);
        if is_trial(phase) && OWN.get().phase == phase {
            self.end_trial(&mut self.state.lock(), phase, TrialEnd::Failed);
        }
    }

    /// Counts a request in a pause. After a fast round, this event loop may begin a trial.
    fn count_in_pause(&self, own: &mut Own) {
        own.requests += 1;
        if own.requests < REQUESTS_PER_ROUND {
            return;
        }
        let now = Instant::now();
        let fast = own.since.is_some_and(|since| now - since < MAX_ROUND_TIME);
        (own.requests, own.since) = (0, Some(now));
        if !fast || self.loops <= self.progress.len() {
            return;
        }
        let mut state = self.state.lock();
        let phase = self.phase.load(SeqCst);
        if !is_trial(phase) && state.schedule.begin_trial(now, self.answered.load(Relaxed)) {
            state.chosen = 0;
            self.phase.store(phase + 1, SeqCst);
            self.join(&mut state, phase + 1, own);
        }
    }

    /// Counts a request of one of the few. Ends the trial if this event loop sleeps too often.
    fn count_in_trial(&self, phase: u64, own: &mut Own) {
        let progress = &self.progress[own.index];
        progress.store((progress.load(Relaxed) | 1) + 1, Relaxed);
        own.requests += 1;
        if own.requests < REQUESTS_PER_SAMPLE {
            return;
        }
        let switches = voluntary_switches();
        if switches - own.switches > MAX_SLEEPS_PER_SAMPLE {
            self.end_trial(&mut self.state.lock(), phase, TrialEnd::Failed);
        }
        (own.requests, own.switches) = (0, switches);
    }

    /// Makes this event loop one of the few if not all of them are chosen. Otherwise waits for the end of the trial.
    fn join_or_wait(&self, phase: u64, own: &mut Own) {
        let mut state = self.state.lock();
        if self.phase.load(SeqCst) != phase {
            return;
        }
        if state.chosen < self.progress.len() {
            return self.join(&mut state, phase, own);
        }
        if state.watched == phase {
            while self.phase.load(SeqCst) == phase {
                self.phase_changed.wait(&mut state);
            }
        } else {
            state.watched = phase;
            self.watch(state, phase);
        }
    }

    /// Makes this event loop one of the few.
    fn join(&self, state: &mut State, phase: u64, own: &mut Own) {
        self.progress[state.chosen].store(0, Relaxed);
        *own = Own {
            phase,
            index: state.chosen,
            requests: 0,
            since: None,
            switches: voluntary_switches(),
        };
        state.chosen += 1;
    }

    /// Waits for the end of the trial. Ends it if one of the few does not finish its request, if no requests come, or if its time
    /// is over.
    fn watch(&self, mut state: MutexGuard<'_, State>, phase: u64) {
        let mut before = self.read_progress();
        let mut idle_intervals = 0;
        while self.phase.load(SeqCst) == phase {
            let waited = self.phase_changed.wait_for(&mut state, WATCH_INTERVAL);
            if !waited.timed_out() {
                continue;
            }
            let now = self.read_progress();
            let in_one_request = |(now, before): (&u64, &u64)| now % 2 == 1 && now == before;
            idle_intervals = if now == before { idle_intervals + 1 } else { 0 };
            if now.iter().zip(&before).any(in_one_request) {
                self.end_trial(&mut state, phase, TrialEnd::Failed);
            } else if idle_intervals == MAX_IDLE_INTERVALS {
                self.end_trial(&mut state, phase, TrialEnd::Idle);
            } else if state.schedule.trial_is_over() {
                self.end_trial(&mut state, phase, TrialEnd::TimeOver);
            }
            before = now;
        }
    }

    fn read_progress(&self) -> Vec<u64> {
        self.progress.iter().map(|one| one.load(Relaxed)).collect()
    }

    /// Ends the trial numbered `phase`, unless it has ended already. All event loops listen again.
    fn end_trial(&self, state: &mut State, phase: u64, why: TrialEnd) {
        if self.phase.load(SeqCst) != phase {
            return;
        }
        let answered = self.answered.load(Relaxed);
        state.schedule.end_trial(Instant::now(), answered, why);
        self.phase.store(phase + 1, SeqCst);
        self.phase_changed.notify_all();
    }
}

fn is_trial(phase: u64) -> bool {
    phase % 2 == 1
}
