//! What is made from the definition that `--help` shows:
//!
//! - `cargo run --example generate -- DIRECTORY` writes mmfs.1, a page for each verb, and the completions for bash, zsh
//!   and fish there.
//! - `cargo run --example generate -- --options` prints the table of options.
//! - `cargo run --example generate -- --publish` writes that table into docs/configuration.md.

mod completions;
mod options_table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use mmfs::cli::{Options, command, topics};
use mmfs::version::VERSION;

fn main() -> io::Result<()> {
    let argument = std::env::args_os().nth(1);
    match argument.as_deref().map(|argument| argument.to_str()) {
        None => Err(io::Error::other(
            "usage: generate DIRECTORY | --options | --publish",
        )),
        Some(Some("--options")) => {
            io::stdout().write_all(options_table::table(&Options::command()).as_bytes())
        }
        Some(Some("--publish")) => publish(),
        Some(_) => write_share(&argument.map(PathBuf::from).unwrap_or_default()),
    }
}

fn publish() -> io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(&path)?;
    let table = options_table::table(&Options::command());
    let page = options_table::insert(&page, &table)
        .ok_or_else(|| io::Error::other("docs/configuration.md lacks a marker of the table"))?;
    std::fs::write(path, page)
}

fn write_share(directory: &Path) -> io::Result<()> {
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
