//! Bytes in files of the store that are not those that were written.

use super::good::Good;
use super::random::Rng;
use super::{Run, Trust, put, stretch};

pub fn cases(run: &mut Run) {
    let mut rng = Rng::new();
    let tail = run.good.tail();
    let files: Vec<String> = ["format", "base", "state"]
        .map(String::from)
        .into_iter()
        .chain(run.good.tables())
        .chain([tail.clone()])
        .collect();
    for name in &files {
        // Of a tail, the records before the damage count.
        let trust = if *name == tail || name == "base" {
            Trust::Anything
        } else {
            Trust::Nothing
        };
        let trust = if name == "base" {
            Trust::Nothing
        } else {
            trust
        };
        spots(run, name, trust, &mut rng);
        lengths(run, name, trust);
        for other in files.iter().filter(|other| *other != name) {
            let what = format!("{name}: what {other} has");
            run.case(&what, trust, |good| put(good, name, good.file(other)));
        }
    }
}

/// What is done to bytes.
type Damage<'a> = (&'a str, &'a dyn Fn(&mut [u8]));

fn spots(run: &mut Run, name: &str, trust: Trust, rng: &mut Rng) {
    let len = run.good.file(name).len();
    let len = if name.starts_with("tails") {
        used(run.good.file(name))
    } else {
        len
    };
    // About twenty spots of each file, others in each run; the footer and header lie at the ends.
    let step = (len / 14).max(1);
    let ends = [0, 7, 9, 25, len - 61.min(len), len - 30.min(len), len - 2];
    let spots = (0..len)
        .step_by(step)
        .map(|at| at + rng.below(step as u64) as usize);
    let spots: Vec<usize> = spots.chain(ends).filter(|at| *at < len).collect();
    for at in spots {
        let run_len = (1 + rng.below(24) as usize).min(len - at);
        let noise: Vec<u8> = (0..run_len).map(|_| rng.next() as u8).collect();
        let bit = 1 << rng.below(8);
        let change: [Damage<'_>; 4] = [
            ("flipped", &|bytes| bytes[0] ^= bit),
            ("zeroed", &|bytes| bytes.fill(0)),
            ("0xff", &|bytes| bytes.fill(0xff)),
            ("random", &|bytes| bytes.copy_from_slice(&noise)),
        ];
        let (what, change) = change[rng.below(4) as usize];
        let label = format!("{name}: {run_len} bytes at {at} {what}");
        run.case(&label, trust, |good| {
            let mut bytes = good.file(name).to_vec();
            change(&mut bytes[at..at + run_len]);
            put(good, name, &bytes);
        });
    }
}

/// The bytes of a tail up to the end of its records.
fn used(tail: &[u8]) -> usize {
    let (_, payloads) = super::encode::payloads(tail);
    52 + payloads
        .iter()
        .map(|payload| 8 + payload.len())
        .sum::<usize>()
}

fn lengths(run: &mut Run, name: &str, trust: Trust) {
    let len = run.good.file(name).len();
    let cut = |good: &Good, to: usize| put(good, name, &good.file(name)[..to]);
    for to in [0, 1, 8, 52, 60, len / 2, len - 4, len - 1] {
        let to = to.min(len - 1);
        run.case(&format!("{name}: cut to {to}"), trust, |good| cut(good, to));
    }
    for more in [1, 8, 60, 4096] {
        run.case(&format!("{name}: {more} bytes more"), trust, |good| {
            let mut bytes = good.file(name).to_vec();
            bytes.resize(len + more, 0);
            put(good, name, &bytes);
        });
    }
    run.case(&format!("{name}: a long hole behind it"), trust, |good| {
        stretch(&good.path(name), 900 << 20);
    });
}
