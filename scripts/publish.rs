//! The table of options in docs/configuration.md, from the definition that `--help` shows:
//!
//! - `cargo run --example generate -- --options` prints it.
//! - `cargo run --example generate -- --publish` writes it into the page.
//!
//! `mmfs --generate DIRECTORY` writes manual pages and completions.

mod options_table;

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use mmfs::cli::Options;

fn main() -> io::Result<()> {
    let table = options_table::table(&Options::command());
    match std::env::args().nth(1).as_deref() {
        Some("--options") => io::stdout().write_all(table.as_bytes()),
        Some("--publish") => publish(&table),
        _ => Err(io::Error::other("usage: generate --options | --publish")),
    }
}

fn publish(table: &str) -> io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(&path)?;
    let page = options_table::insert(&page, table)
        .ok_or_else(|| io::Error::other("docs/configuration.md lacks a marker of the table"))?;
    std::fs::write(path, page)
}
