//! The table of options in docs/configuration.md, made from the definition that `--help` shows.

use clap::{Arg, Command};

/// The lines that the table stands between.
pub const BEGIN: &str =
    "<!-- options:begin (written by: cargo run --example generate -- --publish) -->\n";
/// See [`BEGIN`].
pub const END: &str = "<!-- options:end -->\n";

/// The table, a line for each option that `--help` shows.
pub fn table(command: &Command) -> String {
    let options = command
        .get_arguments()
        .filter(|arg| !arg.is_positional() && !arg.is_hide_set());
    let rows: String = options.map(row).collect();
    format!("| option | effect |\n|---|---|\n{rows}")
}

/// `page` with the table between the two markers; `None` where one is missing.
pub fn insert(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some([before, BEGIN, table, END, after].concat())
}

fn row(option: &Arg) -> String {
    let value = match option.get_value_names() {
        Some([name]) if option.get_action().takes_values() => format!(" {name}"),
        _ => String::new(),
    };
    let short = option.get_short().map(|short| format!("-{short}"));
    let long = option.get_long().map(|long| format!("--{long}"));
    let mut names: Vec<String> = short.into_iter().chain(long).collect();
    if let Some(last) = names.last_mut() {
        last.push_str(&value);
    }
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    format!(
        "| {} | {} |\n",
        names.join(", ").replace('|', "\\|"),
        effect(option)
    )
}

/// The whole description in one line, as sentences, with the default if there is one.
fn effect(option: &Arg) -> String {
    let help = option.get_long_help().or(option.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let mut text = help.split_whitespace().collect::<Vec<_>>().join(" ");
    if !text.ends_with('.') {
        text.push('.');
    }
    if let [default] = option.get_default_values() {
        if option.get_action().takes_values() {
            text.push_str(&format!(" Default: {}.", default.to_string_lossy()));
        }
    }
    escape(&text)
}

/// Puts a backslash before the characters that mean something to Markdown. An underscore inside a word does not.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    let mut before = ' ';
    for character in text.chars() {
        let is_special = match character {
            '_' => !before.is_alphanumeric(),
            _ => "\\|*<`".contains(character),
        };
        if is_special {
            escaped.push('\\');
        }
        escaped.push(character);
        before = character;
    }
    escaped
}
