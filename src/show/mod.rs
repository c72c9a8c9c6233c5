//! The output of `mmfs status` and `mmfs trace`, made from the answers of mounts ([`crate::report`]), and of `mmfs check`,
//! `mmfs diff` and `mmfs discard`.

mod asked;
mod changes;
mod checked;
mod diff;
mod discarded;
mod out;
mod prometheus;
mod status;
mod text;
mod trace;
mod watch;

pub use changes::{changes, must_be_of};
pub use checked::store;
pub use diff::{DiffForm, differences, tell_differences};
pub use discarded::{discard, discard_some, discardable, must_be_unmounted};
pub use trace::{answered, end, trace, unanswered};

use crate::refusal::StartError;
use crate::report::Status;
use crate::terminal::is_command;
use asked::{All, Entry, ask_one};
use out::{print, size};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// The output format of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text.
    Text,
    /// The answer in JSON.
    Json,
    /// Prometheus' text format 0.0.4.
    Prometheus,
    /// Text, printed again every second.
    Watch,
}

/// Prints a page of help.
///
/// # Errors
/// It cannot be written.
pub fn page(text: &str) -> Result<(), StartError> {
    print(text).map(drop)
}

/// Prints the status of a mount, or of all that are here.
///
/// # Errors
/// The mount at `mount_point` gives no answer, or the text cannot be written.
pub fn status(mount_point: Option<&Path>, form: Form) -> Result<(), StartError> {
    if form == Form::Watch {
        return watch::watch(mount_point);
    }
    let all = match mount_point {
        Some(path) => vec![ask_one(path)?],
        None => All::default().ask()?,
    };
    let named = mount_point.is_some();
    let columns = size().map_or(usize::MAX, |(_, columns)| columns);
    let show = |one: &Status| status::text(one, columns);
    let text = match (form, &all[..]) {
        (Form::Json, [one]) if named => json(&one.answer.as_ref().ok()),
        (Form::Json, all) => json(&all.iter().map(Entry::new).collect::<Vec<_>>()),
        (Form::Prometheus, all) => prometheus::text(all),
        (_, [one]) if named => one.answer.as_ref().map(show).unwrap_or_default(),
        (_, all) => status::lines(all),
    };
    print(&text).map(drop)
}

/// The status of one mount as text.
pub fn describe(status: &Status) -> String {
    status::text(status, usize::MAX)
}

fn json<T: Serialize>(value: &T) -> String {
    // Fails only for maps whose keys are no strings. No answer has such a map.
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    shown(&text)
}

/// JSON that a terminal only shows.
fn shown(text: &str) -> String {
    // Strings of JSON may contain control characters beyond ASCII, which a terminal would interpret.
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if char != '\n' && is_command(char) {
            let _ = write!(shown, "\\u{:04x}", u32::from(char));
        } else {
            shown.push(char);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_no_control_characters_and_keeps_its_value() {
        let hostile = "a\u{1b}[2J\u{9b}2J\u{7f}\u{202e}\n\"\\ä";
        let text = json(&[hostile]);
        assert!(
            !text.chars().any(|char| char != '\n' && is_command(char)),
            "{text:?}"
        );
        let read: Vec<String> = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read, [hostile]);
    }
}
