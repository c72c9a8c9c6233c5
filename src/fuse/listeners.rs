//! How many event loops listen to the kernel. It wakes, for each request, the one that has waited longest: best for a
//! client that waits for every answer. Where requests come faster than they are answered, each wakes one more thread, which
//! takes the processor from another; fewer listeners find the next request without sleeping. Which of the two it is shows
//! in how often the few sleep, so they are tried out: the other loops rest meanwhile.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::{Duration, Instant};

use crate::sys::process::voluntary_switches;

/// Requests of one loop after which it is asked whether few would do.
const ROUND: u32 = 16;

/// A loop that takes longer for a round has too little to do for it to matter.
const BRISK: Duration = Duration::from_millis(20);

/// Requests of one of the few after which it is asked whether it sleeps too often.
const TRIAL: u32 = 64;

/// So many times it may have slept in them, waiting for requests or within one: measured where few are better, a client
/// reading ahead 6, four readers 1, ripgrep 22; where they are worse, one client that waits 56.
const NAPS: i64 = 42;

/// How often somebody looks whether the few are stuck.
const TICK: Duration = Duration::from_millis(1);

/// Ticks without any request after which all listen again.
const SILENCE: u32 = 20;

/// Between two trials; each that fails doubles it, up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(512));

/// A trial that lasts so long has succeeded.
const SUCCESS: Duration = Duration::from_millis(50);

thread_local! {
    static OWN: Cell<Own> = const { Cell::new(Own { phase: 0, place: 0, requests: 0, since: None, switches: 0 }) };
}

/// What an event loop remembers of itself.
#[derive(Clone, Copy)]
struct Own {
    /// The phase in which it was one of the few, and its place among them.
    phase: u64,
    place: usize,
    requests: u32,
    since: Option<Instant>,
    switches: i64,
}

/// The event loops, all or few of them listening.
#[derive(Debug)]
pub struct Listeners {
    loops: usize,
    /// Even: all listen. Odd: few do.
    phase: AtomicU64,
    /// Of each of the few: odd while it works, two more for each request.
    progress: Box<[AtomicU64]>,
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug)]
struct State {
    /// The places taken among the few.
    taken: usize,
    /// The phase in which one of those resting looks after the few.
    watched: u64,
    began: Instant,
    pause: Duration,
    /// No trial before.
    next: Option<Instant>,
}

/// An event loop that has a request to answer; when dropped it may rest.
#[derive(Debug)]
pub struct Duty<'a>(&'a Listeners);

impl Drop for Duty<'_> {
    fn drop(&mut self) {
        self.0.done();
    }
}

impl Listeners {
    /// For so many event loops, on so many processors: half as many are the few.
    pub fn new(loops: usize, processors: usize) -> Arc<Self> {
        let few = (processors / 2).max(1);
        Arc::new(Listeners {
            loops,
            phase: AtomicU64::new(0),
            progress: (0..few).map(|_| AtomicU64::new(0)).collect(),
            state: Mutex::new(State {
                taken: 0,
                watched: 0,
                began: Instant::now(),
                pause: PAUSES.0,
                next: None,
            }),
            bell: Condvar::new(),
        })
    }

    /// The calling event loop has a request to answer.
    pub fn begin(&self) -> Duty<'_> {
        let own = OWN.get();
        if own.phase == self.phase.load(SeqCst) && is_few(own.phase) {
            self.progress[own.place].fetch_or(1, Relaxed);
        }
        Duty(self)
    }

    /// It has answered, and may rest before it listens again.
    fn done(&self) {
        let (phase, mut own) = (self.phase.load(SeqCst), OWN.get());
        if !is_few(phase) {
            self.count(&mut own);
        } else if own.phase == phase {
            self.judge(phase, &mut own);
        } else {
            self.rest(phase, &mut own);
        }
        OWN.set(own);
    }

    /// All listen: after a brisk round, this one tries to be one of the few.
    fn count(&self, own: &mut Own) {
        own.requests += 1;
        if own.requests < ROUND {
            return;
        }
        let now = Instant::now();
        let brisk = own.since.is_some_and(|since| now - since < BRISK);
        (own.requests, own.since) = (0, Some(now));
        if !brisk || self.loops <= self.progress.len() {
            return;
        }
        let mut state = self.state.lock();
        let phase = self.phase.load(SeqCst);
        if !is_few(phase) && state.next.is_none_or(|next| now >= next) {
            (state.taken, state.began) = (0, now);
            self.phase.store(phase + 1, SeqCst);
            self.join(&mut state, phase + 1, own);
        }
    }

    /// Takes a place among the few.
    fn join(&self, state: &mut State, phase: u64, own: &mut Own) {
        self.progress[state.taken].store(0, Relaxed);
        *own = Own {
            phase,
            place: state.taken,
            requests: 0,
            since: None,
            switches: voluntary_switches(),
        };
        state.taken += 1;
    }

    /// One of the few: has all listen again when it sleeps too often.
    fn judge(&self, phase: u64, own: &mut Own) {
        let progress = &self.progress[own.place];
        progress.store((progress.load(Relaxed) | 1) + 1, Relaxed);
        own.requests += 1;
        if own.requests < TRIAL {
            return;
        }
        let switches = voluntary_switches();
        if switches - own.switches > NAPS {
            self.end(&mut self.state.lock(), phase, false);
        }
        (own.requests, own.switches) = (0, switches);
    }

    /// Not one of the few, unless there is a place left: rests until all are to listen.
    fn rest(&self, phase: u64, own: &mut Own) {
        let mut state = self.state.lock();
        if self.phase.load(SeqCst) != phase {
            return;
        }
        if state.taken < self.progress.len() {
            return self.join(&mut state, phase, own);
        }
        if state.watched == phase {
            while self.phase.load(SeqCst) == phase {
                self.bell.wait(&mut state);
            }
        } else {
            state.watched = phase;
            self.watch(state, phase);
        }
    }

    /// Rests, and looks now and then whether one of the few is stuck or all have nothing to do.
    fn watch(&self, mut state: MutexGuard<'_, State>, phase: u64) {
        let mut seen: Vec<u64> = self.counts();
        let mut silence = 0;
        while self.phase.load(SeqCst) == phase {
            if !self.bell.wait_for(&mut state, TICK).timed_out() {
                continue;
            }
            let counts = self.counts();
            let stuck = |(now, before): (&u64, &u64)| now % 2 == 1 && now == before;
            if counts.iter().zip(&seen).any(stuck) {
                return self.end(&mut state, phase, false);
            }
            silence = if counts == seen { silence + 1 } else { 0 };
            if silence == SILENCE {
                return self.end(&mut state, phase, true);
            }
            seen = counts;
        }
    }

    fn counts(&self) -> Vec<u64> {
        self.progress.iter().map(|one| one.load(Relaxed)).collect()
    }

    /// All listen again.
    fn end(&self, state: &mut State, phase: u64, good: bool) {
        if self.phase.load(SeqCst) != phase {
            return;
        }
        let now = Instant::now();
        let good = good || now - state.began > SUCCESS;
        state.pause = if good {
            PAUSES.0
        } else {
            (state.pause * 2).min(PAUSES.1)
        };
        state.next = Some(now + state.pause);
        self.phase.store(phase + 1, SeqCst);
        self.bell.notify_all();
    }
}

fn is_few(phase: u64) -> bool {
    phase % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::thread;

    const LONG: Duration = Duration::from_secs(10);

    /// Listeners of which the calling thread is the only one, after two brisk rounds.
    fn alone() -> Arc<Listeners> {
        let listeners = Listeners::new(3, 2);
        while !is_few(listeners.phase.load(SeqCst)) {
            drop(listeners.begin());
        }
        listeners
    }

    /// Has one more loop answer a request, then calls `meanwhile`, again and again, until that loop listens once more.
    /// Returns the pause until the next trial.
    fn until_another_is_back(listeners: &Arc<Listeners>, mut meanwhile: impl FnMut()) -> Duration {
        let (back, is_back) = channel();
        let other = listeners.clone();
        thread::spawn(move || {
            drop(other.begin());
            back.send(()).expect("somebody waits");
        });
        let end = Instant::now() + LONG;
        while is_back.recv_timeout(Duration::ZERO) == Err(RecvTimeoutError::Timeout) {
            assert!(Instant::now() < end, "the other loop rests for ever");
            meanwhile();
        }
        assert!(!is_few(listeners.phase.load(SeqCst)), "all listen again");
        listeners.state.lock().pause
    }

    /// One of several attempts comes out so: on a busy machine a thread may be kept from its processor for long.
    fn comes_out(what: &str, attempt: impl Fn() -> bool) {
        let end = Instant::now() + LONG;
        while !attempt() {
            assert!(Instant::now() < end, "{what}");
        }
    }

    #[test]
    fn others_rest_while_one_is_busy_and_are_back_when_it_has_nothing_to_do() {
        comes_out("nobody rests for as long as one is busy", || {
            let (listeners, began) = (alone(), Instant::now());
            let mut rested = Duration::ZERO;
            let pause = until_another_is_back(&listeners, || {
                if began.elapsed() < SUCCESS * 2 {
                    drop(listeners.begin());
                    rested = began.elapsed();
                }
            });
            rested > SUCCESS && pause == PAUSES.0
        });
    }

    #[test]
    fn others_are_back_when_a_request_takes_long() {
        comes_out("the trial has not failed", || {
            let listeners = alone();
            let _duty = listeners.begin();
            until_another_is_back(&listeners, || {}) == PAUSES.0 * 2
        });
    }

    #[test]
    fn others_are_back_when_the_one_keeps_sleeping() {
        comes_out("the trial has not failed", || {
            let listeners = alone();
            let nap = || {
                thread::sleep(Duration::from_micros(50));
                drop(listeners.begin());
            };
            until_another_is_back(&listeners, nap) == PAUSES.0 * 2
        });
    }

    #[test]
    fn after_a_trial_the_next_has_to_wait() {
        comes_out("a new trial has begun at once", || {
            let listeners = alone();
            let phase = listeners.phase.load(SeqCst);
            listeners.end(&mut listeners.state.lock(), phase, false);
            (0..3 * ROUND).for_each(|_| drop(listeners.begin()));
            !is_few(listeners.phase.load(SeqCst))
        });
    }

    #[test]
    fn where_there_are_few_anyway_none_rests() {
        let listeners = Listeners::new(2, 4);
        (0..3 * ROUND).for_each(|_| drop(listeners.begin()));
        assert!(!is_few(listeners.phase.load(SeqCst)));
    }
}
