//! README against the program.

#[path = "../scripts/options_table.rs"]
mod options_table;

use clap::CommandFactory;
use mmfs::cli::Options;
use options_table::{insert, table};

const README: &str = include_str!("../README.md");

/// The table of options is, word by word, what the generator writes.
#[test]
fn the_table_of_options_is_the_generated_one() {
    let table = table(&Options::command());
    assert!(table.lines().count() > 20, "{table}");
    let generated = insert(README, &table).expect("both markers of the table");
    for (line, wanted) in README.lines().zip(generated.lines()) {
        assert_eq!(
            line, wanted,
            "README.md is out of date: cargo run --example generate -- --publish"
        );
    }
    assert_eq!(README, generated);
}
