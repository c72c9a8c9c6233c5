//! What `mmfs status` and `mmfs trace` print, made from what mounts say of themselves ([`crate::report`]).

mod asked;
mod out;
mod prometheus;
mod status;
mod text;
mod trace;
mod watch;

pub use trace::{answered, trace, unanswered};

use crate::refusal::StartError;
use crate::report::Status;
use asked::{Entry, ask_all};
use out::{print, size};
use serde::Serialize;
use std::path::Path;

/// In which form a status is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// The answer itself.
    Json,
    /// Prometheus' text format 0.0.4.
    Prometheus,
    /// For people, anew every second.
    Watch,
}

/// Prints the status of a mount, or of all that are here.
///
/// # Errors
/// The mount that was named gives no answer.
pub fn status(mount_point: Option<&Path>, form: Form) -> Result<(), StartError> {
    if form == Form::Watch {
        return watch::watch(mount_point);
    }
    let all = ask_all(mount_point)?;
    let named = mount_point.is_some();
    let columns = size().map_or(usize::MAX, |(_, columns)| columns);
    let show = |one: &Status| status::text(one, status::moved(&one.source), columns);
    let text = match (form, &all[..]) {
        (Form::Json, [one]) if named => json(&one.answer.as_ref().ok()),
        (Form::Json, all) => json(&all.iter().map(Entry::new).collect::<Vec<_>>()),
        (Form::Prometheus, all) => prometheus::text(all),
        (_, [one]) if named => one.answer.as_ref().map(show).unwrap_or_default(),
        (_, all) => status::lines(all),
    };
    print(&text);
    Ok(())
}

/// All that a mount says, for people. The source is not looked at.
pub fn describe(status: &Status) -> String {
    status::text(status, None, usize::MAX)
}

fn json<T: Serialize>(value: &T) -> String {
    // Fails for maps whose keys are no text, and there are none.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
