//! `mmfs status --watch`: prints the status every second, as top(1) does, until the mount is gone.

use super::asked::All;
use super::out::{print, size};
use super::status::{head, lines, table};
use super::text::long;
use crate::ask::{self, Asking, NoAnswer};
use crate::refusal::StartError;
use crate::report::Status;
use crate::terminal::for_shell;
use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

/// The start of the first line if the mount does not answer.
const NO_ANSWER: &str = "no answer";

const HOME_AND_CLEAR: &str = "\x1b[H\x1b[J";
const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// Standard output.
struct Screen {
    rows: usize,
    columns: usize,
    is_terminal: bool,
    has_colour: bool,
}

impl Screen {
    fn now() -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        // On a dumb terminal, outputs follow one below the other.
        let is_terminal = stdout().is_terminal() && !is_dumb;
        let size = size();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Screen {
            rows: size.map_or(usize::MAX, |(rows, _)| rows),
            columns: size.map_or(usize::MAX, |(_, columns)| columns),
            is_terminal,
            has_colour: is_terminal && !no_colour,
        }
    }

    /// Prints the lines that fit. Highlights headings, and lines about requests that wait.
    fn show(&self, text: &str) -> Result<bool, StartError> {
        let mut shown = String::new();
        if self.is_terminal {
            shown.push_str(HOME_AND_CLEAR);
        }
        let rows = self.rows.saturating_sub(1);
        for line in text.lines().take(rows) {
            let cut: String = line.chars().take(self.columns).collect();
            match self.colour_of(line) {
                Some(colour) => shown.extend([colour, &cut, PLAIN]),
                None => shown.push_str(&cut),
            }
            shown.push('\n');
        }
        print(&shown)
    }

    fn colour_of(&self, line: &str) -> Option<&'static str> {
        let waits = line.starts_with("waiting") && !line.contains("no requests")
            || line.starts_with(NO_ANSWER);
        match () {
            () if !self.has_colour => None,
            () if waits => Some(RED),
            () if line.starts_with("requests") || line.starts_with("mount ") => Some(BOLD),
            () => None,
        }
    }
}

/// Shows a mount, or all mounts, until the mount is gone or the reader has closed standard output.
///
/// # Errors
/// The mount gives no first answer, or the text cannot be written.
pub fn watch(mount_point: Option<&Path>) -> Result<(), StartError> {
    let Some(mount_point) = mount_point else {
        return watch_all();
    };
    let refused = |why: NoAnswer| StartError::NotAnswered(mount_point.into(), why.to_string());
    let mut before: Option<Status> = None;
    let mut now = ask::status(mount_point).map_err(refused)?;
    let mut answered = Instant::now();
    // A question without an answer. No other is asked meanwhile.
    let mut open: Option<Asking<Status>> = None;
    loop {
        let screen = Screen::now();
        let unanswered = open.as_ref().map(|_| answered.elapsed());
        if !screen.show(&text(&now, before.as_ref(), unanswered, screen.columns))? {
            return Ok(());
        }
        thread::sleep(INTERVAL);
        let asking = open.take();
        let asking = asking.map_or_else(|| ask::asking_status(mount_point), Ok);
        let answer = asking.and_then(|mut asking| {
            let answer = asking.wait(INTERVAL);
            open = (answer == Err(NoAnswer::TimedOut)).then_some(asking);
            answer
        });
        match answer {
            // Another mount, whose counts start at 0.
            Ok(next) if (next.pid, next.since) != (now.pid, now.since) => {
                (before, now) = (None, next)
            }
            Ok(next) => before = Some(std::mem::replace(&mut now, next)),
            Err(NoAnswer::TimedOut) => continue,
            Err(why @ (NoAnswer::Dead | NoAnswer::NotOurs)) => {
                print(&format!("{}: {why}\n", for_shell(mount_point)))?;
                return Ok(());
            }
            Err(why) => return Err(refused(why)),
        }
        answered = Instant::now();
    }
}

/// The text for one mount. `unanswered` is the time since its last answer, if a question is open.
fn text(
    now: &Status,
    before: Option<&Status>,
    unanswered: Option<Duration>,
    columns: usize,
) -> String {
    let note = unanswered.map_or_else(String::new, |time| {
        format!("{NO_ANSWER} for {}; before that:\n", long(time.as_secs()))
    });
    let (head, table) = (head(now, columns), table(now, before, usize::MAX));
    format!("{note}{head}\n{table}")
}

fn watch_all() -> Result<(), StartError> {
    let mut all = All::default();
    while Screen::now().show(&lines(&all.ask()?))? {
        thread::sleep(INTERVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_answer_is_noted_above_the_last_status() {
        let status = Status::default();
        let shown = text(&status, None, Some(Duration::from_secs(7)), 80);
        let mut lines = shown.lines();
        assert_eq!(lines.next(), Some("no answer for 7 s; before that:"));
        assert!(lines.next().is_some_and(|line| line.starts_with("mount ")));
        assert!(text(&status, None, None, 80).starts_with("mount "));
    }
}
