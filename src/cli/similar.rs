//! The word that somebody may have meant.

/// How similar a known word must be to one that is not known, to be proposed: 1 is equal, 0 has no letter in common.
const SIMILAR: f64 = 0.6;

/// The one of the `known` words that is most similar to `word`, which is none of them.
pub fn similar(word: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let rated = known.map(|known| (strsim::normalized_damerau_levenshtein(&known, word), known));
    let rated = rated.filter(|(similarity, _)| *similarity >= SIMILAR);
    let best = rated.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.map(|(_, known)| known)
}
