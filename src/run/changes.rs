//! What a run has changed: shown, and then kept or discarded.

use std::io::{self, IsTerminal, Read};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::processes::Processes;
use super::store::RunStore;
use super::wanted::Choice;
use crate::commit;
use crate::difference::Detail;
use crate::refusal::{self, ExitCode, StartError};
use crate::selection::Selection;
use crate::show;
use crate::terminal::for_shell;

/// The longest answer to the question, in bytes. A terminal's line is not longer.
const MAX_ANSWER: usize = 4096;
/// So many changes are listed on a terminal: the question is to be seen.
const MOST_LINES: usize = 50;

/// Shows the changes, and keeps or discards them. Without a choice, the terminal is asked. Where there is none, they are kept. A store
/// that was there before always is.
///
/// # Errors
/// It cannot be told what has changed, or the store cannot be removed.
pub fn show_and_settle(
    source: &Path,
    store: &RunStore,
    choice: Option<Choice>,
    processes: &mut Processes,
) -> Result<(), StartError> {
    let found = show::changes(&store.path, Detail::Kinds);
    let found = found.inspect_err(|_| say_where(source, store))?;
    let told = match io::stderr().is_terminal() {
        true => found.len().min(MOST_LINES),
        false => found.len(),
    };
    show::tell_differences(&found[..told]);
    if told < found.len() {
        let more = found.len() - told;
        let store = for_shell(&store.path);
        refusal::note(format_args!("and {more} more: mmfs diff {store}"));
    }
    let choice = match choice {
        Some(choice) => choice,
        None if !store.is_new => Choice::Keep,
        None if found.is_empty() => Choice::Discard,
        None => ask(processes),
    };
    if found.is_empty() && choice != Choice::Commit {
        refusal::note("nothing was changed");
    }
    match choice {
        Choice::Discard => store.remove(),
        Choice::Commit => commit_all(source, store),
        Choice::Keep => {
            say_where(source, store);
            Ok(())
        }
    }
}

/// Carries the changes into the source.
fn commit_all(source: &Path, store: &RunStore) -> Result<(), StartError> {
    let wanted = commit::Wanted {
        store: store.path.clone(),
        selection: Selection::all(),
        dry_run: false,
        force: false,
        skip_conflicts: false,
        strict: false,
    };
    let done = commit::commit(&wanted).inspect_err(|_| say_where(source, store))?;
    if done == ExitCode::Conflicts {
        say_where(source, store);
        let sentence = "the changes were not committed: the directory has changed, too";
        return Err(StartError::Verb(sentence.into()));
    }
    match store.is_new {
        true => store.remove(),
        // Whoever has named it may want it again. It is empty.
        false => Ok(()),
    }
}

/// Says where the changes are, and what can be done with them.
pub fn say_where(source: &Path, store: &RunStore) {
    let (path, source) = (for_shell(&store.path), for_shell(source));
    refusal::note(format_args!("the changes are in {path}"));
    let mount = match store.lies_in_source {
        // It would be refused.
        true => format!("move the store out of {source} to mount them"),
        false => format!("mount them: mmfs --private {path} {source} MNT"),
    };
    refusal::note(format_args!(
        "list them: mmfs diff {path}; {mount}; carry them into the source: mmfs commit {path}; discard them: rm -r {path}"
    ));
}

/// Asks the terminal. Without one, and at the end of the input or after a signal, the changes are kept.
fn ask(processes: &mut Processes) -> Choice {
    Processes::take_terminal();
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Choice::Keep;
    }
    loop {
        // Notes end with a line's end.
        let _ = io::Write::write_all(
            &mut io::stderr(),
            b"mmfs: keep, commit or discard these changes? [k/c/d] ",
        );
        let Some(line) = line(processes) else {
            let _ = io::Write::write_all(&mut io::stderr(), b"\n");
            return Choice::Keep;
        };
        match line.trim_ascii().to_ascii_lowercase().as_slice() {
            b"k" | b"keep" => return Choice::Keep,
            b"c" | b"commit" => return Choice::Commit,
            b"d" | b"discard" => return Choice::Discard,
            _ => {}
        }
    }
}

/// A line that was typed. `None`: there is none to come, or mmfs is to end.
fn line(processes: &mut Processes) -> Option<Vec<u8>> {
    // A signal may come just before poll(2).
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: 200_000_000,
    };
    while !processes.is_to_end() {
        let stdin = io::stdin();
        let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
        if poll(&mut polled, Some(&pause)).is_ok_and(|ready| ready > 0) {
            let mut line = vec![0; MAX_ANSWER];
            let length = stdin
                .lock()
                .read(&mut line)
                .ok()
                .filter(|&length| length > 0)?;
            line.truncate(length);
            return Some(line);
        }
    }
    None
}
