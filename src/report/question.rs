//! The names of questions.

use rustix::io::Errno;

use super::VERSION;

/// Prefix of the names of all questions. A question is an extended attribute of a mount's root.
pub const PREFIX: &[u8] = b"system.mmfs.";

/// A question to a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// `system.mmfs.1.status`: a [`Status`].
    Status,
    /// `system.mmfs.1.trace.N`: a [`Trace`] of answered requests from number N on.
    Trace(u64),
    /// `system.mmfs.1.waiting`: a [`Trace`] of requests that are not answered yet, the oldest first.
    Waiting,
    /// `system.mmfs.1.discard.N`: what has become of a discard ([`super::Discarded`]). It begins with the first question. Before that, what is
    /// chosen is set as the attribute's value ([`crate::selection`]). N is drawn by the process that asks.
    Discard(u64),
}

impl Question {
    /// Parses the name of an attribute. `None` if it does not begin with [`PREFIX`].
    ///
    /// # Errors
    /// EOPNOTSUPP for another version or an unknown question. EINVAL for an invalid number.
    pub fn parse(name: &[u8]) -> Option<Result<Self, Errno>> {
        let rest = name.strip_prefix(PREFIX)?;
        let mut words = rest.split(|&byte| byte == b'.');
        let known = match (words.next(), words.next(), words.next(), words.next()) {
            (Some(b"1"), Some(b"status"), None, None) => Ok(Self::Status),
            (Some(b"1"), Some(b"waiting"), None, None) => Ok(Self::Waiting),
            (Some(b"1"), Some(b"trace"), Some(from), None) => number(from).map(Self::Trace),
            (Some(b"1"), Some(b"discard"), Some(own), None) => number(own).map(Self::Discard),
            (Some(b"1"), Some(b"status" | b"trace" | b"waiting" | b"discard"), ..) => {
                Err(Errno::INVAL)
            }
            _ => Err(Errno::OPNOTSUPP),
        };
        Some(known)
    }

    /// The name of the attribute.
    pub fn name(self) -> String {
        let prefix = String::from_utf8_lossy(PREFIX);
        match self {
            Self::Status => format!("{prefix}{VERSION}.status"),
            Self::Trace(from) => format!("{prefix}{VERSION}.trace.{from}"),
            Self::Discard(own) => format!("{prefix}{VERSION}.discard.{own}"),
            Self::Waiting => format!("{prefix}{VERSION}.waiting"),
        }
    }
}

fn number(digits: &[u8]) -> Result<u64, Errno> {
    let all_digits = digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| all_digits);
    text.and_then(|text| text.parse().ok()).ok_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_as_they_are_written() {
        for question in [
            Question::Status,
            Question::Waiting,
            Question::Trace(0),
            Question::Trace(u64::MAX),
            Question::Discard(7),
        ] {
            let name = question.name();
            assert_eq!(Question::parse(name.as_bytes()), Some(Ok(question)));
        }
    }

    #[test]
    fn other_names_are_refused_and_those_of_others_left_alone() {
        for (name, errno) in [
            (&b"system.mmfs."[..], Errno::OPNOTSUPP),
            (b"system.mmfs.1", Errno::OPNOTSUPP),
            (b"system.mmfs.1.", Errno::OPNOTSUPP),
            (b"system.mmfs.2.status", Errno::OPNOTSUPP),
            (b"system.mmfs.01.status", Errno::OPNOTSUPP),
            (b"system.mmfs.1.Status", Errno::OPNOTSUPP),
            (b"system.mmfs.1.\xff\xfe", Errno::OPNOTSUPP),
            (b"system.mmfs.1.status.", Errno::INVAL),
            (b"system.mmfs.1.trace", Errno::INVAL),
            (b"system.mmfs.1.discard.x", Errno::INVAL),
            (b"system.mmfs.1.trace.", Errno::INVAL),
            (b"system.mmfs.1.trace.-1", Errno::INVAL),
            (b"system.mmfs.1.trace.+1", Errno::INVAL),
            (b"system.mmfs.1.trace.1.2", Errno::INVAL),
            (b"system.mmfs.1.trace.18446744073709551616", Errno::INVAL),
            (b"system.mmfs.1.trace.\xff", Errno::INVAL),
        ] {
            assert_eq!(Question::parse(name), Some(Err(errno)), "{name:?}");
        }
        for name in [
            &b"system.mmfs"[..],
            b"system.posix_acl_access",
            b"user.mmfs.1.status",
            b"",
        ] {
            assert_eq!(Question::parse(name), None, "{name:?}");
        }
    }
}
