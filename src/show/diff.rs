//! `mmfs diff`: what a private view has changed, a line for each path.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;
use serde::Serialize;

use super::text::bytes;
use super::{out, shown};
use crate::difference::{Difference, Kind, Shape};
use crate::refusal::StartError;
use crate::report;
use crate::terminal::for_shell;

/// The output format of differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiffForm {
    /// A letter and the path.
    Lines,
    /// With how many bytes differ, and a line with sums.
    Stat,
    /// With a line for each range of pages that differs.
    Pages,
    /// A JSON object for each path. True: with the ranges of pages.
    Json(bool),
    /// As `Lines`, each ended by a zero byte, paths as they are.
    Zero,
}

/// All kinds, in the order of the sums.
const KINDS: [(Kind, &str); 7] = [
    (Kind::Added, "added"),
    (Kind::Modified, "modified"),
    (Kind::Deleted, "deleted"),
    (Kind::Renamed, "renamed"),
    (Kind::Type, "of another type"),
    (Kind::Permissions, "with other permissions"),
    (Kind::Conflict, "in conflict"),
];

/// Prints differences.
///
/// # Errors
/// They cannot be written.
pub fn differences(all: &[Difference], form: DiffForm) -> Result<(), StartError> {
    let mut text = Vec::new();
    for one in all {
        match form {
            DiffForm::Zero => zero(&mut text, one),
            DiffForm::Json(pages) => text.extend(object(one, pages).into_bytes()),
            _ => text.extend(lines(one, form).into_bytes()),
        }
    }
    if form == DiffForm::Stat {
        text.extend(sums(all).into_bytes());
    }
    out::print_bytes(&text).map(drop)
}

/// Prints differences to standard error, a line for each. An error of the write is ignored.
pub fn tell_differences(all: &[Difference]) {
    let lines: String = all.iter().map(|one| lines(one, DiffForm::Lines)).collect();
    let _ = std::io::stderr().write_all(lines.as_bytes());
}

fn quoted(path: &[u8]) -> String {
    // `./` is for words that may be taken for options.
    for_shell(Path::new(OsStr::from_bytes(path)))
}

fn lines(one: &Difference, form: DiffForm) -> String {
    let mut line = format!("{} ", one.kind.letter());
    if let Some(from) = &one.from {
        let _ = write!(line, "{} -> ", quoted(from));
    }
    line += &quoted(&one.path);
    if form == DiffForm::Stat {
        if let Some(amount) = amount(one) {
            let _ = write!(line, "  {amount}");
        }
    }
    line.push('\n');
    if form == DiffForm::Pages {
        for range in &one.ranges {
            let _ = writeln!(line, "  {} {}", range.start, range.end - range.start);
        }
    }
    line
}

/// How much of a file differs.
fn amount(one: &Difference) -> Option<String> {
    let size = |shape: &Option<Shape>| shape.filter(|shape| shape.kind == FileType::RegularFile);
    let differing = bytes(changed(one));
    match (one.kind, size(&one.now), size(&one.before)) {
        (Kind::Permissions, ..) => None,
        (_, None, Some(before)) if one.now.is_none() => Some(bytes(before.size)),
        (Kind::Added, Some(now), _) => Some(bytes(now.size)),
        (_, Some(now), Some(before)) if now.size != before.size => {
            let (now, before) = (bytes(now.size), bytes(before.size));
            Some(format!("{differing} of {now}, was {before}"))
        }
        (_, Some(now), _) => Some(format!("{differing} of {}", bytes(now.size))),
        _ => None,
    }
}

/// Bytes in the ranges that differ.
fn changed(one: &Difference) -> u64 {
    let lengths = one.ranges.iter().map(|range| range.end - range.start);
    lengths.sum()
}

fn sums(all: &[Difference]) -> String {
    let count = |kind| all.iter().filter(|one| one.kind == kind).count();
    let of_kind = KINDS
        .iter()
        .filter(|(kind, _)| count(*kind) > 0)
        .map(|(kind, word)| format!("{} {word}", count(*kind)));
    let mut words: Vec<String> = of_kind.collect();
    if words.is_empty() {
        words.push("no changes".into());
    }
    let total: u64 = all.iter().map(changed).sum();
    format!("{}; {} differ\n", words.join(", "), bytes(total))
}

fn zero(to: &mut Vec<u8>, one: &Difference) {
    // Neither fails.
    let _ = write!(to, "{} ", one.kind.letter());
    let _ = to.write_all(&one.path);
    to.push(0);
    if let Some(from) = &one.from {
        to.extend(from);
        to.push(0);
    }
}

/// What there is at a path, for JSON.
#[derive(Serialize)]
struct ShapeObject {
    r#type: &'static str,
    size: u64,
}

/// A difference, for JSON. docs/private.md describes the fields.
#[derive(Serialize)]
struct Object {
    kind: char,
    path: report::Path,
    from: Option<report::Path>,
    now: Option<ShapeObject>,
    before: Option<ShapeObject>,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ranges: Option<Vec<[u64; 2]>>,
}

fn shape_object(shape: &Shape) -> ShapeObject {
    ShapeObject {
        r#type: match shape.kind {
            FileType::RegularFile => "file",
            FileType::Directory => "directory",
            FileType::Symlink => "symlink",
            FileType::Fifo => "fifo",
            FileType::Socket => "socket",
            FileType::CharacterDevice => "character device",
            FileType::BlockDevice => "block device",
            FileType::Unknown => "unknown",
        },
        size: shape.size,
    }
}

fn object(one: &Difference, pages: bool) -> String {
    let path = |path: &[u8]| report::Path::new(Path::new(OsStr::from_bytes(path)));
    let lengths = |range: &std::ops::Range<u64>| [range.start, range.end - range.start];
    let object = Object {
        kind: one.kind.letter(),
        path: path(&one.path),
        from: one.from.as_deref().map(path),
        now: one.now.as_ref().map(shape_object),
        before: one.before.as_ref().map(shape_object),
        bytes: changed(one),
        ranges: pages.then(|| one.ranges.iter().map(lengths).collect()),
    };
    // Fails only for maps whose keys are no strings.
    shown(&serde_json::to_string(&object).unwrap_or_default()) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed() -> Difference {
        let shape = Shape {
            kind: FileType::RegularFile,
            size: 9000,
        };
        Difference {
            kind: Kind::Renamed,
            path: b"new\nline".to_vec(),
            from: Some(b"old name".to_vec()),
            now: Some(shape),
            before: Some(shape),
            ranges: vec![0..4096, 8192..9000],
        }
    }

    #[test]
    fn each_form_has_its_line() {
        let one = renamed();
        assert_eq!(
            lines(&one, DiffForm::Lines),
            "R 'old name' -> $'new\\012line'\n"
        );
        let pages = lines(&one, DiffForm::Pages);
        assert!(pages.ends_with("\n  0 4096\n  8192 808\n"), "{pages}");
        let stat = lines(&one, DiffForm::Stat);
        assert!(stat.contains("  4.8 KiB of 8.8 KiB\n"), "{stat}");
        let mut raw = Vec::new();
        zero(&mut raw, &one);
        assert_eq!(raw, b"R new\nline\0old name\0");
        assert!(sums(&[one]).starts_with("1 renamed; "));
        assert!(sums(&[]).starts_with("no changes; "));
    }

    #[test]
    fn an_object_is_one_line_of_json() {
        let line = object(&renamed(), true);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read["kind"], "R");
        assert_eq!(read["from"]["text"], "old name");
        assert_eq!(read["bytes"], 4096 + 808);
        assert_eq!(read["ranges"], serde_json::json!([[0, 4096], [8192, 808]]));
        assert!(!object(&renamed(), false).contains("ranges"));
    }
}
