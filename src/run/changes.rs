//! What a run has changed: shown, and then kept or discarded.

use std::io::{self, IsTerminal, Read};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::processes::Processes;
use super::store::RunStore;
use super::wanted::Choice;
use crate::difference::Detail;
use crate::refusal::{self, StartError};
use crate::show;
use crate::terminal::for_shell;

/// The longest answer to the question, in bytes. A terminal's line is not longer.
const MAX_ANSWER: usize = 4096;

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
    show::tell_differences(&found);
    let choice = match choice {
        Some(choice) => choice,
        None if !store.is_new => Choice::Keep,
        None if found.is_empty() => Choice::Discard,
        None => ask(processes),
    };
    if found.is_empty() {
        refusal::note("nothing was changed");
    }
    match choice {
        Choice::Discard => store.remove(),
        Choice::Keep => {
            say_where(source, store);
            Ok(())
        }
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
        "list them: mmfs diff {path}; {mount}; discard them: rm -r {path}"
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
            b"mmfs: keep or discard these changes? [k/d] ",
        );
        let Some(line) = line(processes) else {
            let _ = io::Write::write_all(&mut io::stderr(), b"\n");
            return Choice::Keep;
        };
        match line.trim_ascii().to_ascii_lowercase().as_slice() {
            b"k" | b"keep" => return Choice::Keep,
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
