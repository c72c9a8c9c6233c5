//! The lengths of trials and of the pauses between them.

use std::time::{Duration, Instant};

/// Length of the first trial. Each further trial is four times as long while few listeners are faster, up to `MAX_TRIAL`.
pub(super) const MIN_TRIAL: Duration = Duration::from_millis(16);
pub(super) const MAX_TRIAL: Duration = Duration::from_millis(256);

/// Length of the first pause. Each failed trial doubles it, up to `MAX_PAUSE`.
pub(super) const MIN_PAUSE: Duration = Duration::from_millis(8);
pub(super) const MAX_PAUSE: Duration = Duration::from_millis(512);

/// All listeners count as faster if they answer at least this many times the requests per second of few. The margin is large
/// because one pause is a rough measurement.
const MIN_SPEEDUP_OF_ALL: f64 = 1.25;

/// Why a trial ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TrialEnd {
    /// It has lasted its full length. The next pause is compared with it.
    TimeOver,
    /// Few listeners are too slow.
    Failed,
    /// No requests come.
    Idle,
}

/// Length and outcome of the phases.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Start of the phase.
    began: Instant,
    /// Requests that had been answered at its start.
    answered_before: u64,
    /// Length of a trial.
    pub(super) trial: Duration,
    /// Minimum length of a pause.
    pub(super) pause: Duration,
    /// Requests per second in the trial before this pause. `None` if it ended early.
    pub(super) rate_of_few: Option<f64>,
}

impl Schedule {
    /// Starts the first pause.
    pub fn new(now: Instant) -> Self {
        Schedule {
            began: now,
            answered_before: 0,
            trial: MIN_TRIAL,
            pause: MIN_PAUSE,
            rate_of_few: None,
        }
    }

    /// Begins a trial if the pause is over and all listeners were not faster in it than few were in the trial before.
    pub fn begin_trial(&mut self, now: Instant, answered: u64) -> bool {
        let begins =
            now.duration_since(self.began) >= self.pause && self.few_may_be_faster(now, answered);
        if begins {
            (self.began, self.answered_before) = (now, answered);
        }
        begins
    }

    /// Whether the trial has lasted long enough.
    pub fn trial_is_over(&self) -> bool {
        self.began.elapsed() > self.trial
    }

    /// Begins a pause.
    pub fn end_trial(&mut self, now: Instant, answered: u64, why: TrialEnd) {
        match why {
            TrialEnd::TimeOver => self.rate_of_few = Some(self.rate(now, answered)),
            TrialEnd::Failed => self.fail(),
            TrialEnd::Idle => {}
        }
        (self.began, self.answered_before) = (now, answered);
    }

    /// Compares this pause with the trial before it. Only the first call after a trial compares.
    fn few_may_be_faster(&mut self, now: Instant, answered: u64) -> bool {
        let Some(rate_of_few) = self.rate_of_few.take() else {
            return true;
        };
        let may_be = self.rate(now, answered) < rate_of_few * MIN_SPEEDUP_OF_ALL;
        if may_be {
            self.pause = MIN_PAUSE;
            self.trial = (self.trial * 4).min(MAX_TRIAL);
        } else {
            self.fail();
        }
        may_be
    }

    /// Requests per second in this phase.
    fn rate(&self, now: Instant, answered: u64) -> f64 {
        let seconds = now.duration_since(self.began).as_secs_f64();
        (answered - self.answered_before) as f64 / seconds
    }

    fn fail(&mut self) {
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        self.trial = MIN_TRIAL;
    }
}
