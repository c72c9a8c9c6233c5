use super::schedule::{MIN_PAUSE, MIN_TRIAL};
use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

const LONG: Duration = Duration::from_secs(10);

fn few_listen(listeners: &Listeners) -> bool {
    is_trial(listeners.phase.load(SeqCst))
}

fn answer(listeners: &Listeners, requests: u32) {
    (0..requests).for_each(|_| drop(listeners.begin()));
}

/// A trial in which the calling thread is the only listener.
fn alone() -> Arc<Listeners> {
    let listeners = Listeners::new(3, 2);
    while !few_listen(&listeners) {
        answer(&listeners, 1);
    }
    listeners
}

/// Lets a second event loop serve a request, then calls `meanwhile` until that event loop listens again. Returns how long
/// that took, and why the trial ended.
fn until_another_listens(
    listeners: &Arc<Listeners>,
    mut meanwhile: impl FnMut(),
) -> (Duration, TrialEnd) {
    let (listens, listening) = channel();
    let (other, began) = (listeners.clone(), Instant::now());
    thread::spawn(move || {
        drop(other.begin());
        listens.send(()).expect("the test receives");
    });
    while listening.recv_timeout(Duration::ZERO) == Err(RecvTimeoutError::Timeout) {
        assert!(
            began.elapsed() < LONG,
            "the second event loop does not listen again"
        );
        meanwhile();
    }
    let schedule = &listeners.state.lock().schedule;
    let why = match (schedule.pause > MIN_PAUSE, schedule.rate_of_few) {
        (true, _) => TrialEnd::Failed,
        (false, Some(_)) => TrialEnd::TimeOver,
        (false, None) => TrialEnd::Idle,
    };
    (began.elapsed(), why)
}

/// Repeats `attempt` until it succeeds, because a thread may wait long for a CPU on a busy machine.
fn eventually(what: &str, attempt: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !attempt() {
        assert!(Instant::now() < end, "{what}");
    }
}

#[test]
fn others_wait_while_one_listens_until_the_trial_is_over() {
    eventually("no trial lasts until its time is over", || {
        let listeners = alone();
        let mut is_over = false;
        let (waited, why) = until_another_listens(&listeners, || {
            is_over = is_over || !few_listen(&listeners);
            if !is_over {
                answer(&listeners, 1);
            }
        });
        waited > MIN_TRIAL / 2 && why == TrialEnd::TimeOver
    });
}

#[test]
fn others_listen_again_when_no_requests_come() {
    eventually("the trial goes on without requests", || {
        let listeners = alone();
        listeners.state.lock().schedule.trial = LONG;
        until_another_listens(&listeners, || {}).1 == TrialEnd::Idle
    });
}

#[test]
fn others_listen_again_when_a_request_takes_long() {
    eventually("the trial has not failed", || {
        let listeners = alone();
        let _serving = listeners.begin();
        until_another_listens(&listeners, || {}).1 == TrialEnd::Failed
    });
}

#[test]
fn others_listen_again_when_the_one_sleeps_often() {
    eventually("the trial has not failed", || {
        let listeners = alone();
        listeners.state.lock().schedule.trial = LONG;
        let sleep_and_answer = || {
            thread::sleep(Duration::from_micros(50));
            answer(&listeners, 1);
        };
        until_another_listens(&listeners, sleep_and_answer).1 == TrialEnd::Failed
    });
}

#[test]
fn a_trial_ends_when_its_event_loop_panics() {
    let listeners = alone();
    let panicking = AssertUnwindSafe(|| {
        let _serving = listeners.begin();
        std::panic::resume_unwind(Box::new("a failure"));
    });
    catch_unwind(panicking).expect_err("a failure");
    assert!(!few_listen(&listeners));
}

#[test]
fn few_listen_again_when_all_were_no_faster() {
    for (rate_of_few, again) in [(f64::MAX, true), (f64::MIN_POSITIVE, false)] {
        eventually(&format!("{rate_of_few} requests per second by few"), || {
            let listeners = alone();
            let phase = listeners.phase.load(SeqCst);
            listeners.end_trial(&mut listeners.state.lock(), phase, TrialEnd::TimeOver);
            listeners.state.lock().schedule.rate_of_few = Some(rate_of_few);
            let began = Instant::now();
            while began.elapsed() < MIN_PAUSE * 3 / 2 {
                answer(&listeners, 1);
            }
            let schedule = &listeners.state.lock().schedule;
            let longer = (schedule.trial > MIN_TRIAL, schedule.pause > MIN_PAUSE);
            (few_listen(&listeners), longer) == (again, (again, !again))
        });
    }
}

#[test]
fn the_next_trial_after_a_failed_one_begins_later() {
    eventually("a new trial has begun at once", || {
        let listeners = alone();
        let phase = listeners.phase.load(SeqCst);
        listeners.end_trial(&mut listeners.state.lock(), phase, TrialEnd::Failed);
        answer(&listeners, 3 * REQUESTS_PER_ROUND);
        !few_listen(&listeners)
    });
}

#[test]
fn no_trial_begins_if_there_are_no_more_event_loops_than_few() {
    let listeners = Listeners::new(2, 4);
    answer(&listeners, 3 * REQUESTS_PER_ROUND);
    assert!(!few_listen(&listeners));
}
