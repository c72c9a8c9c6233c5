//! What is wrong with a command line, in one sentence. The parser says it in several paragraphs.

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What begins the paragraphs that are left out or said in other words.
const PARAGRAPHS: [&str; 3] = ["\n\n  tip: ", "\n\nUsage: ", "\n\nFor more information"];

/// The sentence: what is wrong, and what may have been meant or where it is explained.
pub fn sentence(error: &Error) -> String {
    if let Some(ContextValue::Strings(missing)) = missing(error) {
        let names = missing.join(" and ");
        return match missing.len() {
            1 => format!("{names} is missing; usage: {}", usage(error)),
            _ => format!("{names} are missing; usage: {}", usage(error)),
        };
    }
    let rendered = match one_too_many(error) {
        Some(word) => format!("unexpected argument '{word}' found"),
        None => error.render().to_string(),
    };
    let ends = PARAGRAPHS.iter().filter_map(|begin| rendered.find(begin));
    let wrong = &rendered[..ends.min().unwrap_or(rendered.len())];
    let wrong = wrong.strip_prefix("error: ").unwrap_or(wrong);
    let sentence = wrong.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(meant) = meant(error) {
        return format!("{sentence}; did you mean '{meant}'?");
    }
    match &usage(error)[..] {
        "" => sentence,
        usage => format!("{sentence}; see {}", help_of(usage)),
    }
}

fn missing(error: &Error) -> Option<&ContextValue> {
    let is_missing = error.kind() == ErrorKind::MissingRequiredArgument;
    error.get(ContextKind::InvalidArg).filter(|_| is_missing)
}

/// The first form of the usage, if the parser tells it.
fn usage(error: &Error) -> String {
    let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) else {
        return String::new();
    };
    let usage = usage.to_string();
    let usage = usage.lines().next().unwrap_or_default();
    usage.strip_prefix("Usage: ").unwrap_or(usage).into()
}

/// A word after SRC and MNT. The parser takes it for a verb.
fn one_too_many(error: &Error) -> Option<&str> {
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => Some(word),
        _ => None,
    }
}

/// What is similar to a word that is not known.
fn meant(error: &Error) -> Option<String> {
    let kinds = [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedValue,
        ContextKind::SuggestedSubcommand,
    ];
    // No word after SRC and MNT is a verb.
    if one_too_many(error).is_some() {
        return None;
    }
    let similar = kinds.into_iter().find_map(|kind| error.get(kind))?;
    match similar {
        ContextValue::String(word) => Some(word.clone()),
        ContextValue::Strings(words) => words.first().cloned(),
        _ => None,
    }
}

/// The command that explains what this usage is of: mmfs, or one of its verbs.
fn help_of(usage: &str) -> String {
    let verb = usage.split(' ').nth(1).unwrap_or_default();
    match verb.starts_with(|letter: char| letter.is_ascii_lowercase()) {
        true => format!("mmfs help {verb}"),
        false => "mmfs --help".into(),
    }
}
