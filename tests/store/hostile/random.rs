//! Random damage: bytes of entries and records, with right checksums around them.

use std::time::{Duration, Instant};

use super::encode::{self, Entry, Table};
use super::good::Good;
use super::{Run, Trust, put};

/// Small and repeatable: xorshift64*.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Seeded by `MMFS_SEED` or the clock; says which.
    pub fn new() -> Self {
        let given = std::env::var("MMFS_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |since| since.as_nanos() as u64)
        });
        println!("MMFS_SEED={seed}");
        eprintln!("MMFS_SEED={seed}");
        Self(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

const NUMBERS: [u64; 17] = [
    0,
    1,
    2,
    255,
    4095,
    4096,
    1 << 14,
    u32::MAX as u64,
    1 << 51,
    1 << 52,
    (1 << 62) - 1,
    1 << 62,
    (1 << 62) + 2,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

pub fn cases(run: &mut Run) {
    let seconds = std::env::var("MMFS_SOAK")
        .ok()
        .and_then(|seconds| seconds.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(2));
    let mut rng = Rng::new();
    for number in 0u64.. {
        // One case has one seed: with MMFS_CASE it comes again without those before it.
        let case = Rng(rng.next() | 1);
        if Instant::now() > end && (seconds.is_some() || number > 20) {
            return;
        }
        run.case(&format!("random {number}"), Trust::Anything, |good| {
            damage(good, case.clone())
        });
    }
}

fn damage(good: &Good, mut rng: Rng) {
    for _ in 0..=rng.below(2) {
        match rng.below(8) {
            0 => state(good, &mut rng),
            1..4 => table(good, &mut rng),
            4..7 => tail(good, &mut rng),
            _ => raw(good, &mut rng),
        }
    }
}

/// Changes, cuts or lengthens a string of bytes.
fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..=rng.below(3) {
        let len = bytes.len() as u64;
        let at = rng.below(len) as usize;
        match rng.below(8) {
            _ if bytes.is_empty() => bytes.push(rng.next() as u8),
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = [0, 1, 2, 0x7f, 0xff][rng.below(5) as usize],
            2..4 => {
                let number = NUMBERS[rng.below(17) as usize].wrapping_add(rng.below(3));
                let number = if rng.below(4) == 0 {
                    number.to_be_bytes()
                } else {
                    number.to_le_bytes()
                };
                let wide = [1, 2, 4, 8, 8, 8][rng.below(6) as usize].min(bytes.len() - at);
                bytes[at..at + wide].copy_from_slice(&number[..wide]);
            }
            4 => bytes.truncate(at),
            5 => {
                let part = bytes[at..(at + 1 + rng.below(20) as usize).min(bytes.len())].to_vec();
                let to = rng.below(len) as usize;
                bytes.splice(to..to, part);
            }
            6 => {
                let end = (at + 1 + rng.below(9) as usize).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => bytes.insert(at, rng.next() as u8),
        }
    }
}

fn state(good: &Good, rng: &mut Rng) {
    let mut state = good.state.clone();
    let number = NUMBERS[rng.below(17) as usize];
    // Just below a limit, a store opens for the last time.
    let number = if number == (1 << 62) - 1 {
        1 << 61
    } else {
        number
    };
    match rng.below(8) {
        0 => state.first = number,
        1 => state.tail = number,
        2 => state.next = number,
        3 => state.used = number,
        4 => state.closed = 1,
        5 => state.tables.push(state.tables[0]),
        6 => drop(
            state
                .tables
                .remove(rng.below(state.tables.len() as u64) as usize),
        ),
        _ => state.tables.rotate_left(1),
    }
    put(good, "state", &state.file());
}

fn table(good: &Good, rng: &mut Rng) {
    let name = &good.tables()[rng.below(good.state.tables.len() as u64) as usize];
    let mut entries = Table::entries(good.file(name));
    for _ in 0..=rng.below(4) {
        if entries.is_empty() {
            break;
        }
        let at = rng.below(entries.len() as u64) as usize;
        let (key, value) = &mut entries[at];
        match rng.below(6) {
            0 => mutate(key, rng),
            1 => *value = None,
            2 => drop(entries.remove(at)),
            3 => {
                let other: Entry = entries[rng.below(entries.len() as u64) as usize].clone();
                entries[at].1 = other.1;
            }
            _ => mutate(value.get_or_insert_default(), rng),
        }
    }
    if rng.below(8) != 0 {
        entries.sort();
        entries.dedup_by(|a, b| a.0 == b.0);
    }
    entries.iter_mut().for_each(|(key, _)| key.truncate(60_000));
    let number = u64::from_str_radix(&name[7..], 16).expect("a table's number");
    let mut table = Table::new(number, &entries, 4092);
    match rng.below(24) {
        // All entries are gone.
        _ if table.blocks.is_empty() => {}
        0 => mutate(&mut table.bloom, rng),
        1 => table.count = NUMBERS[rng.below(17) as usize],
        2 => table.footer[rng.below(4) as usize] = Some(NUMBERS[rng.below(17) as usize]),
        3 => {
            let at = rng.below(table.index.len() as u64) as usize;
            mutate(&mut table.index[at].0, rng);
        }
        4 => {
            let at = rng.below(table.blocks.len() as u64) as usize;
            mutate(&mut table.blocks[at], rng);
            table.index[at].1 = table.blocks[at].len() as u32 + 4;
        }
        _ => {}
    }
    put(good, name, &table.file());
}

fn tail(good: &Good, rng: &mut Rng) {
    let name = good.tail();
    let (first, mut payloads) = encode::payloads(good.file(&name));
    for _ in 0..=rng.below(4) {
        let len = payloads.len() as u64;
        let at = rng.below(len) as usize;
        match rng.below(6) {
            _ if payloads.is_empty() => payloads.push(vec![rng.next() as u8]),
            0 => payloads.swap(at, rng.below(len) as usize),
            1 => payloads.insert(rng.below(len) as usize, payloads[at].clone()),
            2 => drop(payloads.remove(at)),
            _ => mutate(&mut payloads[at], rng),
        }
    }
    put(
        good,
        &name,
        &encode::tail(&good.state.uuid, good.state.tail, first, &payloads),
    );
}

fn raw(good: &Good, rng: &mut Rng) {
    let (path, bytes) = &good.files[rng.below(good.files.len() as u64) as usize];
    let mut bytes = bytes.clone();
    mutate(&mut bytes, rng);
    std::fs::write(good.store.join(path), bytes).expect("a file of the store");
}
