//! Counts of requests by duration. Each power of two has four buckets. A quantile is at most 12 % off.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets of a histogram: durations from under a microsecond to over two minutes.
pub const BUCKETS: usize = 4 * 27;

/// Counts of one thread.
#[derive(Debug)]
pub struct Histogram([AtomicU64; BUCKETS]);

impl Histogram {
    pub fn new() -> Self {
        Histogram(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Counts one duration, in nanoseconds.
    pub fn count(&self, nanoseconds: u64) {
        self.0[bucket(nanoseconds / 1000)].fetch_add(1, Relaxed);
    }

    /// Adds these counts to a sum over threads.
    pub fn add_to(&self, sum: &mut [u64; BUCKETS]) {
        for (sum, count) in sum.iter_mut().zip(&self.0) {
            *sum += count.load(Relaxed);
        }
    }
}

/// The bucket of a duration in microseconds. 0, 1, 2 and 3 have one bucket each. From 4 on, each power of two has four.
fn bucket(microseconds: u64) -> usize {
    if microseconds < 4 {
        return microseconds as usize;
    }
    let power = microseconds.ilog2() as usize;
    let quarter = (microseconds >> (power - 2)) as usize & 3;
    (4 * (power - 1) + quarter).min(BUCKETS - 1)
}

/// The shortest duration of a bucket, in microseconds.
fn start(bucket: usize) -> u64 {
    match bucket {
        0..=3 => bucket as u64,
        _ => (4 + bucket as u64 % 4) << (bucket / 4 - 1),
    }
}

/// A quantile in microseconds: `per_mille` of 1,000 requests take no longer. The result is the middle of a bucket. 0 if nothing
/// was counted.
pub fn quantile(counts: &[u64; BUCKETS], per_mille: u64) -> u64 {
    let all: u64 = counts.iter().sum();
    let wanted = (all * per_mille).div_ceil(1000).max(1);
    let mut seen = 0;
    for (number, count) in counts.iter().enumerate() {
        seen += count;
        if seen >= wanted {
            return (start(number) + start(number + 1)) / 2;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_start_where_they_say() {
        assert_eq!(bucket(0), 0);
        for number in 0..BUCKETS {
            assert_eq!(bucket(start(number)), number, "{number}");
            assert_eq!(bucket(start(number + 1) - 1), number, "{number}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_near_the_truth() {
        let histogram = Histogram::new();
        (1..=1000u64).for_each(|micros| histogram.count(micros * 1000));
        let mut counts = [0; BUCKETS];
        histogram.add_to(&mut counts);
        for (per_mille, truth) in [(500, 500.0), (990, 990.0), (1, 1.0)] {
            let found = quantile(&counts, per_mille) as f64;
            assert!((found / truth - 1.0).abs() < 0.13, "{per_mille}: {found}");
        }
        assert_eq!(quantile(&[0; BUCKETS], 500), 0);
    }
}
