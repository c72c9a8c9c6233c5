//! Files that are made from the definition that `--help` shows: manual pages and completions.

mod completions;

use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

use crate::cli::{command, topics};
use crate::refusal::StartError;
use crate::version::VERSION;

/// Writes mmfs.1, a page for each verb, and the completions for bash, zsh and fish into `directory`, which is made if it is
/// missing.
///
/// # Errors
/// A file cannot be written.
pub fn write(directory: &Path) -> Result<(), StartError> {
    let failed = |error| StartError::Verb(format!("cannot write into {directory:?}: {error}"));
    write_all(directory).map_err(failed)
}

fn write_all(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for (name, text) in completions::files() {
        std::fs::write(directory.join(name), text)?;
    }
    let command = command().subcommand_help_heading("VERBS");
    for verb in command.get_subcommands() {
        let name = format!("mmfs-{}", verb.get_name());
        let see_also = ".SH SEE ALSO\n.BR mmfs (1)\n";
        write_page(directory, &name, page_of(verb), see_also)?;
    }
    write_page(directory, "mmfs", command, &topics::sections())
}

/// The verb as a command with a manual page of its own.
fn page_of(verb: &Command) -> Command {
    let name = verb.get_name();
    verb.clone()
        .name("mmfs")
        .bin_name(format!("mmfs {name}"))
        .display_name(format!("mmfs-{name}"))
        .version(VERSION)
        .disable_version_flag(true)
}

fn write_page(directory: &Path, name: &str, command: Command, more: &str) -> io::Result<()> {
    let mut page = Vec::new();
    let command = topics::for_manual(command);
    Man::new(command.clone()).manual("mmfs").render(&mut page)?;
    let page = topics::with_groups(&String::from_utf8_lossy(&page), &command);
    std::fs::write(directory.join(format!("{name}.1")), page + more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Options;
    use clap::CommandFactory;

    #[test]
    fn a_page_for_each_verb_and_completions_without_hidden_options() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("made/for it");
        write(&directory).unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
        assert!(read("mmfs.1").contains(".SH EXAMPLES"));
        for verb in command().get_subcommands() {
            read(&format!("mmfs-{}.1", verb.get_name()));
        }
        let options = Options::command();
        for name in ["mmfs.bash", "_mmfs", "mmfs.fish"] {
            let script = read(name);
            for option in options.get_arguments() {
                let Some(long) = option.get_long() else {
                    continue;
                };
                assert_eq!(
                    script.contains(long),
                    !option.is_hide_set(),
                    "{name}: {long}"
                );
            }
        }
    }

    #[test]
    fn what_cannot_be_written_is_a_sentence_with_the_directory() {
        let error = write(Path::new("/dev/null/pages")).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot write into \"/dev/null/pages\": "),
            "{error}"
        );
    }
}
