//! The filter of a table: it tells which keys are not there, without a read.

use std::io;

use twox_hash::XxHash3_64;

use super::codec::{Reader, damaged};

/// Ten bits and six probes let one key of a hundred through that is not there.
const BITS_PER_KEY: u64 = 10;
const PROBES: u64 = 6;

/// The hash of a key, for the filters of all tables.
pub fn hash(key: &[u8]) -> u64 {
    XxHash3_64::oneshot(key)
}

/// B. Bloom, "Space/time trade-offs in hash coding with allowable errors", 1970.
pub struct Bloom(Vec<u64>);

impl Bloom {
    /// A filter that lets these hashes through.
    pub fn new(hashes: &[u64]) -> Self {
        let words = (hashes.len() as u64 * BITS_PER_KEY).div_ceil(64).max(1);
        let mut bloom = Self(vec![0; words as usize]);
        for &hash in hashes {
            for (word, bit) in bloom.probes(hash) {
                bloom.0[word] |= bit;
            }
        }
        bloom
    }

    /// Whether a key of this hash may be there.
    pub fn may_have(&self, hash: u64) -> bool {
        self.probes(hash).all(|(word, bit)| self.0[word] & bit != 0)
    }

    fn probes(&self, hash: u64) -> impl Iterator<Item = (usize, u64)> + use<> {
        let bits = self.0.len() as u64 * 64;
        let step = hash.rotate_right(32) | 1;
        (0..PROBES).map(move |n| {
            let bit = hash.wrapping_add(n.wrapping_mul(step)) % bits;
            (bit as usize / 64, 1 << (bit % 64))
        })
    }

    /// The filter as bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The filter that these bytes are.
    ///
    /// # Errors
    /// EUCLEAN if they are none.
    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut from = Reader(bytes);
        let mut words = Vec::with_capacity(bytes.len() / 8);
        while !from.0.is_empty() {
            words.push(from.u64()?);
        }
        if words.is_empty() {
            Err(damaged())
        } else {
            Ok(Self(words))
        }
    }
}
