//! `mmfs status --watch`: as top(1), anew every second, until the mount is gone.

use super::asked::ask_all;
use super::out::{print, size};
use super::status::{head, lines, moved, table};
use super::text::{clean, path};
use crate::ask;
use crate::refusal::StartError;
use crate::report::Status;
use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::thread;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(1);

const HOME_AND_CLEAR: &str = "\x1b[H\x1b[J";
const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// The terminal, or what takes its place.
struct Screen {
    rows: usize,
    columns: usize,
    is_terminal: bool,
    has_colour: bool,
}

impl Screen {
    fn now() -> Self {
        let is_terminal = stdout().is_terminal();
        let size = size();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Screen {
            rows: size.map_or(usize::MAX, |(rows, _)| rows),
            columns: size.map_or(usize::MAX, |(_, columns)| columns),
            is_terminal,
            has_colour: is_terminal && !no_colour && !is_dumb,
        }
    }

    /// What fits on it, with headings and what waits highlighted.
    fn show(&self, text: &str) -> bool {
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
        let waits = line.starts_with("waiting") && !line.contains("no requests");
        match () {
            () if !self.has_colour => None,
            () if waits => Some(RED),
            () if line.starts_with("requests") || line.starts_with("mount ") => Some(BOLD),
            () => None,
        }
    }
}

/// Shows a mount, or all, until it is gone or nobody looks any more.
///
/// # Errors
/// The mount gives no answer at first.
pub fn watch(mount_point: Option<&Path>) -> Result<(), StartError> {
    let Some(mount_point) = mount_point else {
        return watch_all();
    };
    let refused = |why: ask::NoAnswer| StartError::NotAnswered(mount_point.into(), why.to_string());
    let mut before: Option<Status> = None;
    let mut now = ask::status(mount_point).map_err(refused)?;
    loop {
        let screen = Screen::now();
        let text = format!(
            "{}\n{}",
            head(&now, moved(&now.source), screen.columns),
            table(&now, before.as_ref(), usize::MAX)
        );
        if !screen.show(&text) {
            return Ok(());
        }
        thread::sleep(INTERVAL);
        match ask::status(mount_point) {
            // Another mount by now: it counts from 0.
            Ok(next) if (next.pid, next.since) != (now.pid, now.since) => {
                (before, now) = (None, next)
            }
            Ok(next) => before = Some(std::mem::replace(&mut now, next)),
            Err(ask::NoAnswer::TimedOut) => {
                print(&format!("{}: no answer\n", path(mount_point)));
            }
            Err(why) => {
                print(&format!(
                    "{}: {}\n",
                    path(mount_point),
                    clean(&why.to_string())
                ));
                return Ok(());
            }
        }
    }
}

fn watch_all() -> Result<(), StartError> {
    while Screen::now().show(&lines(&ask_all(None)?)) {
        thread::sleep(INTERVAL);
    }
    Ok(())
}
