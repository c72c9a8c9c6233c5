//! Bytes that say which inode and which offset they belong to, so that a byte out of place is seen as one.
//!
//! Eight bytes: three of the inode's tag, none of them zero; a mark; four of the word's index. A byte is right
//! when it is the expected one or zero (a hole, or cut off meanwhile), so words torn by a race are right, too.

const MARK: u8 = 0xa5;

/// Three bytes, none of them zero.
pub type Tag = [u8; 3];

/// The tag of the `n`-th inode.
pub fn tag(n: u64) -> Tag {
    [n, n / 255, n / (255 * 255)].map(|digit| (digit % 255) as u8 + 1)
}

/// The bytes of `len` from `offset` on in the inode of this tag.
pub fn bytes(tag: Tag, offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64)
        .map(|at| byte(tag, at))
        .collect()
}

fn byte(tag: Tag, at: u64) -> u8 {
    match at % 8 {
        digit @ 0..3 => tag[digit as usize],
        3 => MARK,
        digit => ((at / 8) as u32).to_le_bytes()[digit as usize - 4],
    }
}

/// What was seen of one open file: the first bytes of the tag that are met must stay the same ones.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    tag: Tag,
}

impl Seen {
    /// Of an inode whose tag is known.
    pub fn of(tag: Tag) -> Self {
        Seen { tag }
    }

    /// The tag, once all of it was met.
    pub fn tag(&self) -> Option<Tag> {
        (!self.tag.contains(&0)).then_some(self.tag)
    }

    /// Looks at bytes read at `offset`; says what is wrong with the first that is.
    pub fn check(&mut self, offset: u64, bytes: &[u8]) -> Result<(), String> {
        for (at, &found) in (offset..).zip(bytes) {
            if found == 0 {
                continue;
            }
            let digit = (at % 8) as usize;
            if digit < 3 && self.tag[digit] == 0 {
                self.tag[digit] = found;
            }
            let wanted = byte(self.tag, at);
            if found != wanted {
                let from = at & !7;
                let word = &bytes[(from.max(offset) - offset) as usize..];
                let word = &word[..word.len().min(8)];
                return Err(format!(
                    "byte {at} is {found:#x}, not {wanted:#x} (word {word:x?}, inode {:x?})",
                    self.tag
                ));
            }
        }
        Ok(())
    }
}
