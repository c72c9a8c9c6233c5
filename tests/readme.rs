//! README and docs/ against the program.

#[path = "../scripts/options_table.rs"]
mod options_table;

use std::collections::BTreeSet;

use clap::CommandFactory;
use mmfs::cli::{Options, command};
use options_table::{BEGIN, END, insert, table};

const README: &str = include_str!("../README.md");
const CONFIGURATION: &str = include_str!("../docs/configuration.md");

/// The table of options is, word by word, what the generator writes.
#[test]
fn the_table_of_options_is_the_generated_one() {
    let table = table(&Options::command());
    assert!(table.lines().count() > 20, "{table}");
    let generated = insert(CONFIGURATION, &table).expect("both markers of the table");
    for (line, wanted) in CONFIGURATION.lines().zip(generated.lines()) {
        assert_eq!(
            line, wanted,
            "docs/configuration.md is out of date: cargo run --example generate -- --publish"
        );
    }
    assert_eq!(CONFIGURATION, generated);
}

/// README groups all options, and docs/configuration.md says of each when to use it, beside the generated table.
#[test]
fn every_option_is_named_and_no_other() {
    let command = Options::command();
    let shown = command
        .get_arguments()
        .filter(|arg| !arg.is_positional() && !arg.is_hide_set());
    let wanted: BTreeSet<String> = shown
        .map(|arg| match arg.get_long() {
            Some(long) => format!("--{long}"),
            None => format!("-{}", arg.get_short().expect("a name")),
        })
        .collect();
    let (before, rest) = CONFIGURATION.split_once(BEGIN).expect("the first marker");
    let (_, after) = rest.split_once(END).expect("the second marker");
    for (page, text, heading) in [
        ("README.md", README, "## Options"),
        (
            "docs/configuration.md",
            &[before, after].concat(),
            "## When to use which",
        ),
    ] {
        let named = options_in(section(text, heading));
        assert_eq!(named, wanted, "options in {page}, {heading}");
    }
}

/// README names every verb.
#[test]
fn every_verb_is_named() {
    let command = command();
    for verb in command.get_subcommands() {
        let name = verb.get_name();
        let named = [format!("`{name}`"), format!("`mmfs {name}`")];
        assert!(named.iter().any(|named| README.contains(named)), "{name}");
    }
}

/// The text from this heading to the next one of its level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n{heading}\n")).expect(heading);
    rest.split("\n## ").next().unwrap_or(rest)
}

/// The long options that the first two cells of a table's lines name, and `-o`.
fn options_in(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let cells = rows.flat_map(|row| row.split(" | ").take(2));
    let code = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    code.filter_map(|code| code.split([' ', '[']).next())
        .filter(|option| option.starts_with("--") || *option == "-o")
        .map(Into::into)
        .collect()
}
