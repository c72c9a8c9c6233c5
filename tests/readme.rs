//! README against the program.

mod common;

use common::builder::binary;
use std::collections::BTreeSet;
use std::process::Command;

const README: &str = include_str!("../README.md");

/// The part of README between two markers.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let start = text.find(begin).expect("the begin marker") + begin.len();
    let length = text[start..].find(end).expect("the end marker");
    &text[start..start + length]
}

/// Words that look like options.
fn options(text: &str) -> BTreeSet<String> {
    text.split(|c: char| c.is_whitespace() || "`,[]|<>=().;".contains(c))
        .filter(|word| word.starts_with('-') && word.len() > 1)
        .filter(|word| {
            word.trim_start_matches('-')
                .starts_with(|c: char| c.is_ascii_alphabetic())
        })
        .map(str::to_owned)
        .collect()
}

/// README's table names every option of `--help` and no other.
#[test]
fn the_table_of_options_is_that_of_help() {
    let help = Command::new(binary()).arg("--help").output().expect("mmfs");
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    let listed: String = help
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .map(|line| {
            line.trim_start()
                .split("  ")
                .next()
                .unwrap_or_default()
                .replace("...", "")
                + "\n"
        })
        .collect();
    let table: String = between(README, "<!-- options:begin", "<!-- options:end")
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .map(|line| line.split(" | ").next().unwrap_or_default().to_owned() + "\n")
        .collect();
    assert!(options(&listed).len() > 20, "{listed}");
    assert_eq!(options(&table), options(&listed));
}
