//! The word that somebody may have meant.

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command, Error};

/// How similar a known word must be to one that is not known, to be proposed. 1 is equal. At 0, as many letters must be changed as the
/// longer word has.
const SIMILAR: f64 = 0.6;

/// The one of the `known` words that is most similar to `word`, which is none of them.
pub fn similar(word: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let rated = known.map(|known| (strsim::normalized_damerau_levenshtein(&known, word), known));
    let rated = rated.filter(|(similarity, _)| *similarity >= SIMILAR);
    let best = rated.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.map(|(_, known)| known)
}

/// If the parser proposes a hidden option, proposes the most similar one that help shows instead, or none.
pub fn propose_no_hidden(command: &Command, error: &mut Error) {
    let options = || {
        let long = |arg: &Arg| Some((format!("--{}", arg.get_long()?), arg.is_hide_set()));
        command.get_arguments().filter_map(long)
    };
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let (proposed, typed) = (
        text(ContextKind::SuggestedArg),
        text(ContextKind::InvalidArg),
    );
    if proposed.is_none_or(|proposed| !options().any(|option| option == (proposed.clone(), true))) {
        return;
    }
    error.remove(ContextKind::SuggestedArg);
    let shown = options().filter_map(|(long, is_hidden)| (!is_hidden).then_some(long));
    if let Some(other) = typed.and_then(|typed| similar(&typed, shown)) {
        error.insert(ContextKind::SuggestedArg, ContextValue::String(other));
    }
}
