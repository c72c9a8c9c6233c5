//! How many event loops listen to the kernel. It wakes, for each request, the one that has waited longest: best for a
//! client that waits for every answer, and for sources that are waited for. Where requests come faster than they are
//! answered, each wakes one more thread, which takes the processor from another; fewer listeners find the next request
//! without sleeping. Which of the two it is, is tried out: few listen for a while, then all, and the faster go on.

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
const NIGHT: u32 = 32;

/// So many times it may have slept in them, waiting for requests or within one: measured where few are better, a client
/// reading ahead 3, four readers 1, ripgrep 11; where they are worse, one client that waits 28.
const NAPS: i64 = 21;

/// How often somebody looks whether the few are stuck.
const TICK: Duration = Duration::from_millis(1);

/// Ticks in which nothing is done after which all listen again.
const SILENCE: u32 = 20;

/// How long few listen: at first, and, each time four times as long, in the end.
const TRIALS: (Duration, Duration) = (Duration::from_millis(16), Duration::from_millis(256));

/// How long all listen in between; each trial that fails doubles it, up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(8), Duration::from_millis(512));

/// All have to be so much faster than few to be the better ones: the measure of one pause is rough.
const MARGIN: f64 = 1.25;

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
    /// Requests answered.
    answered: AtomicU64,
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
    /// When the phase began, and how many requests had been answered then.
    began: (Instant, u64),
    trial: Duration,
    pause: Duration,
    /// Requests a second in the trial before, where they can be compared.
    of_few: Option<f64>,
}

/// Why few stop listening alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The time is over: all are measured next.
    Due,
    /// It was the wrong thing to do.
    Failed,
    /// There is nothing to do.
    Silent,
}

/// An event loop that has a request to answer; when dropped it may rest.
#[derive(Debug)]
pub struct Duty<'a>(&'a Listeners);

impl Drop for Duty<'_> {
    fn drop(&mut self) {
        match std::thread::panicking() {
            true => self.0.give_up(),
            false => self.0.done(),
        }
    }
}

impl Listeners {
    /// For so many event loops, on so many processors: half as many are the few.
    pub fn new(loops: usize, processors: usize) -> Arc<Self> {
        let few = (processors / 2).max(1);
        Arc::new(Listeners {
            loops,
            phase: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            progress: (0..few).map(|_| AtomicU64::new(0)).collect(),
            state: Mutex::new(State {
                taken: 0,
                watched: 0,
                began: (Instant::now(), 0),
                trial: TRIALS.0,
                pause: PAUSES.0,
                of_few: None,
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
        self.answered.fetch_add(1, Relaxed);
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

    /// The loop comes to its end.
    fn give_up(&self) {
        let phase = self.phase.load(SeqCst);
        if is_few(phase) && OWN.get().phase == phase {
            self.end(&mut self.state.lock(), phase, End::Failed);
        }
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
        if !is_few(phase)
            && now.duration_since(state.began.0) >= state.pause
            && self.compare(&mut state, now)
        {
            (state.taken, state.began) = (0, self.mark(now));
            self.phase.store(phase + 1, SeqCst);
            self.join(&mut state, phase + 1, own);
        }
    }

    fn mark(&self, now: Instant) -> (Instant, u64) {
        (now, self.answered.load(Relaxed))
    }

    /// Requests a second in this phase.
    fn rate(&self, state: &State, now: Instant) -> f64 {
        let (began, before) = state.began;
        (self.answered.load(Relaxed) - before) as f64 / now.duration_since(began).as_secs_f64()
    }

    /// The pause is over: whether it went no better than the trial before.
    fn compare(&self, state: &mut State, now: Instant) -> bool {
        let Some(of_few) = state.of_few.take() else {
            return true;
        };
        let worth = self.rate(state, now) < of_few * MARGIN;
        if worth {
            state.pause = PAUSES.0;
            state.trial = (state.trial * 4).min(TRIALS.1);
        } else {
            state.fail();
        }
        worth
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
        if own.requests < NIGHT {
            return;
        }
        let switches = voluntary_switches();
        if switches - own.switches > NAPS {
            self.end(&mut self.state.lock(), phase, End::Failed);
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

    /// Rests, and looks now and then whether one of the few is stuck, all have nothing to do, or the time is over.
    fn watch(&self, mut state: MutexGuard<'_, State>, phase: u64) {
        let mut seen = self.counts();
        let mut silence = 0;
        while self.phase.load(SeqCst) == phase {
            if !self.bell.wait_for(&mut state, TICK).timed_out() {
                continue;
            }
            let counts = self.counts();
            let stuck = |(now, before): (&u64, &u64)| now % 2 == 1 && now == before;
            silence = if counts == seen { silence + 1 } else { 0 };
            if counts.iter().zip(&seen).any(stuck) {
                self.end(&mut state, phase, End::Failed);
            } else if silence == SILENCE {
                self.end(&mut state, phase, End::Silent);
            } else if state.began.0.elapsed() > state.trial {
                self.end(&mut state, phase, End::Due);
            }
            seen = counts;
        }
    }

    fn counts(&self) -> Vec<u64> {
        self.progress.iter().map(|one| one.load(Relaxed)).collect()
    }

    /// All listen again.
    fn end(&self, state: &mut State, phase: u64, why: End) {
        if self.phase.load(SeqCst) != phase {
            return;
        }
        let now = Instant::now();
        match why {
            End::Due => state.of_few = Some(self.rate(state, now)),
            End::Failed => state.fail(),
            End::Silent => {}
        }
        state.began = self.mark(now);
        self.phase.store(phase + 1, SeqCst);
        self.bell.notify_all();
    }
}

impl State {
    fn fail(&mut self) {
        self.pause = (self.pause * 2).min(PAUSES.1);
        self.trial = TRIALS.0;
    }
}

fn is_few(phase: u64) -> bool {
    phase % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::thread;

    const LONG: Duration = Duration::from_secs(10);

    fn few_listen(listeners: &Listeners) -> bool {
        is_few(listeners.phase.load(SeqCst))
    }

    fn answer(listeners: &Listeners, requests: u32) {
        (0..requests).for_each(|_| drop(listeners.begin()));
    }

    /// Listeners of which the calling thread is the only one, after brisk rounds.
    fn alone() -> Arc<Listeners> {
        let listeners = Listeners::new(3, 2);
        while !few_listen(&listeners) {
            answer(&listeners, 1);
        }
        listeners
    }

    /// Has one more loop answer a request, then calls `meanwhile`, again and again, until that loop listens once more.
    /// Returns how long that took, and why it was.
    fn until_another_is_back(
        listeners: &Arc<Listeners>,
        mut meanwhile: impl FnMut(),
    ) -> (Duration, End) {
        let (back, is_back) = channel();
        let (other, began) = (listeners.clone(), Instant::now());
        thread::spawn(move || {
            drop(other.begin());
            back.send(()).expect("somebody waits");
        });
        while is_back.recv_timeout(Duration::ZERO) == Err(RecvTimeoutError::Timeout) {
            assert!(began.elapsed() < LONG, "the other loop rests for ever");
            meanwhile();
        }
        let state = listeners.state.lock();
        let why = match (state.pause > PAUSES.0, state.of_few) {
            (true, _) => End::Failed,
            (false, Some(_)) => End::Due,
            (false, None) => End::Silent,
        };
        (began.elapsed(), why)
    }

    /// One of several attempts comes out so: on a busy machine a thread may be kept from its processor for long.
    fn comes_out(what: &str, attempt: impl Fn() -> bool) {
        let end = Instant::now() + LONG;
        while !attempt() {
            assert!(Instant::now() < end, "{what}");
        }
    }

    #[test]
    fn others_rest_while_one_is_busy_until_the_time_is_over() {
        comes_out("nobody rests while one is busy", || {
            let listeners = alone();
            let mut is_over = false;
            let (rested, why) = until_another_is_back(&listeners, || {
                is_over = is_over || !few_listen(&listeners);
                if !is_over {
                    answer(&listeners, 1);
                }
            });
            rested > TRIALS.0 / 2 && why == End::Due
        });
    }

    #[test]
    fn others_are_back_when_one_has_nothing_to_do() {
        comes_out("silence is not noticed", || {
            let listeners = alone();
            listeners.state.lock().trial = LONG;
            until_another_is_back(&listeners, || {}).1 == End::Silent
        });
    }

    #[test]
    fn others_are_back_when_a_request_takes_long() {
        comes_out("the trial has not failed", || {
            let listeners = alone();
            let _duty = listeners.begin();
            until_another_is_back(&listeners, || {}).1 == End::Failed
        });
    }

    #[test]
    fn others_are_back_when_the_one_keeps_sleeping() {
        comes_out("the trial has not failed", || {
            let listeners = alone();
            listeners.state.lock().trial = LONG;
            let nap = || {
                thread::sleep(Duration::from_micros(50));
                answer(&listeners, 1);
            };
            until_another_is_back(&listeners, nap).1 == End::Failed
        });
    }

    #[test]
    fn a_loop_that_fails_is_not_waited_for() {
        let listeners = alone();
        let failing = AssertUnwindSafe(|| {
            let _duty = listeners.begin();
            std::panic::resume_unwind(Box::new("a failure"));
        });
        catch_unwind(failing).expect_err("a failure");
        assert!(!few_listen(&listeners));
    }

    #[test]
    fn few_listen_again_when_all_were_no_faster() {
        for (of_few, again) in [(f64::MAX, true), (f64::MIN_POSITIVE, false)] {
            comes_out(&format!("{of_few} requests a second by few"), || {
                let listeners = alone();
                let phase = listeners.phase.load(SeqCst);
                listeners.end(&mut listeners.state.lock(), phase, End::Due);
                listeners.state.lock().of_few = Some(of_few);
                let began = Instant::now();
                while began.elapsed() < PAUSES.0 * 3 / 2 {
                    answer(&listeners, 1);
                }
                let state = listeners.state.lock();
                let longer = (state.trial > TRIALS.0, state.pause > PAUSES.0);
                (few_listen(&listeners), longer) == (again, (again, !again))
            });
        }
    }

    #[test]
    fn after_a_failure_the_next_trial_has_to_wait() {
        comes_out("a new trial has begun at once", || {
            let listeners = alone();
            let phase = listeners.phase.load(SeqCst);
            listeners.end(&mut listeners.state.lock(), phase, End::Failed);
            answer(&listeners, 3 * ROUND);
            !few_listen(&listeners)
        });
    }

    #[test]
    fn where_there_are_few_anyway_none_rests() {
        let listeners = Listeners::new(2, 4);
        answer(&listeners, 3 * ROUND);
        assert!(!few_listen(&listeners));
    }
}
