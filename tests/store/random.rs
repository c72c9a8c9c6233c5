//! Random operations on a store and on the model, which have to agree after each.
//!
//! MMFS_STORE_SEQUENCES: how many sequences, instead of as many as end in half a minute. MMFS_STORE_SEED: the only sequence.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::operation::{Operation, Step};
use super::place::{Random, number};
use super::run::Run;

/// Operations of a sequence.
const STEPS: u64 = 60;

/// What went wrong, and at which step.
type Failure = (usize, String);

fn failure(steps: &[Step]) -> Option<Failure> {
    let mut at = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut run = Run::new();
        for (number, step) in steps.iter().enumerate() {
            at = number;
            run.step(step)?;
        }
        at = steps.len();
        run.end()
    }));
    match outcome {
        Ok(Ok(())) => None,
        Ok(Err(difference)) => Some((at, difference)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Some((at, format!("panic: {}", text.unwrap_or_default())))
        }
    }
}

/// Drops operations that the failure does not need.
fn shrink(mut steps: Vec<Step>, mut found: Failure) -> (Vec<Step>, Failure) {
    steps.truncate(found.0 + 1);
    let mut len = steps.len() / 2;
    while len > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + len).min(steps.len()));
            match failure(&fewer) {
                Some(still) => (steps, found) = (fewer, still),
                None => at += len,
            }
        }
        len /= 2;
    }
    (steps, found)
}

#[test]
fn a_store_does_what_its_model_does() {
    let only = number("MMFS_STORE_SEED");
    let wanted = number("MMFS_STORE_SEQUENCES");
    let first = only.unwrap_or_else(|| u64::from(std::process::id()) << 32);
    let began = Instant::now();
    let mut count = 0;
    loop {
        let goes_on = match (only, wanted) {
            (Some(_), _) => count < 1,
            (None, Some(wanted)) => count < wanted,
            // The rest of the 30 seconds is for the last sequence, and for a machine that does other things too.
            (None, None) => count < 20 || began.elapsed() < Duration::from_secs(12),
        };
        if !goes_on {
            break;
        }
        let seed = first.wrapping_add(count);
        let mut random = Random(seed);
        let large = random.below(5) == 0;
        let steps: Vec<Step> = (0..STEPS)
            .map(|_| Operation::random(&mut random, large))
            .collect();
        if let Some(found) = failure(&steps) {
            let (steps, (at, difference)) = shrink(steps, found);
            panic!("MMFS_STORE_SEED={seed}: {difference}\nin step {at} of {steps:#?}");
        }
        count += 1;
    }
    println!("{count} sequences from seed {first}");
}
