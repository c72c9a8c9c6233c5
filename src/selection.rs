//! Which changes of a private view a command means: paths and globs of its command line.
//!
//! A path chooses itself and all below it. What was renamed is chosen by either of its paths. A glob without a slash is compared with each
//! component of a path, one with a slash with the path and with the directories above it. So a glob that fits a directory counts for all below it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use rustix::fs::FileType;

use crate::difference::{Difference, Kind};
use crate::refusal::StartError;
use crate::terminal::for_shell;

/// Letters of [`Selection::to_bytes`].
const PATH: u8 = b'p';
const INCLUDE: u8 = b'i';
const EXCLUDE: u8 = b'e';
const LEAVE_CONFLICTS: u8 = b'c';

/// Paths and globs.
#[derive(Debug)]
pub struct Selection {
    /// As they were typed, and as [`Difference`] has them. None: all paths.
    paths: Vec<(PathBuf, Vec<u8>)>,
    /// None: all.
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    leaves_conflicts: bool,
}

/// A glob.
#[derive(Debug)]
struct Pattern {
    glob: GlobMatcher,
    /// It has a slash: it is about a path below the root of the view.
    is_path: bool,
    /// It ends with a slash.
    directories_only: bool,
}

impl Selection {
    /// What these paths and globs choose. Without paths, all paths are meant; without `include`, all of these.
    ///
    /// # Errors
    /// The sentence about a path that is not below the view's root, or about a glob that is none.
    pub fn new(
        paths: &[PathBuf],
        include: &[String],
        exclude: &[String],
    ) -> Result<Self, StartError> {
        let below = |path: &PathBuf| below_root(path).map(|below| (path.clone(), below));
        let patterns = |globs: &[String]| -> Result<_, StartError> {
            globs.iter().map(|glob| Pattern::new(glob)).collect()
        };
        Ok(Self {
            paths: paths.iter().map(below).collect::<Result<_, _>>()?,
            include: patterns(include)?,
            exclude: patterns(exclude)?,
            leaves_conflicts: false,
        })
    }

    /// The same, without what the source has changed, too.
    pub fn without_conflicts(self) -> Self {
        Self {
            leaves_conflicts: true,
            ..self
        }
    }

    /// What these paths and globs are as bytes, for another process: letter and text of each, and a zero byte. `leaves_conflicts`: as
    /// [`Selection::without_conflicts`].
    pub fn to_bytes(
        paths: &[PathBuf],
        include: &[String],
        exclude: &[String],
        leaves_conflicts: bool,
    ) -> Vec<u8> {
        let paths = paths.iter().map(|path| (PATH, path.as_os_str().as_bytes()));
        let include = include.iter().map(|glob| (INCLUDE, glob.as_bytes()));
        let exclude = exclude.iter().map(|glob| (EXCLUDE, glob.as_bytes()));
        let leave = leaves_conflicts.then_some((LEAVE_CONFLICTS, &b""[..]));
        let all = paths.chain(include).chain(exclude).chain(leave);
        all.flat_map(|(letter, text)| [&[letter], text, &[0]].concat())
            .collect()
    }

    /// The paths and globs that [`Selection::to_bytes`] was given.
    ///
    /// # Errors
    /// As [`Selection::new`], and the sentence about bytes that it does not make.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StartError> {
        let garbled = || StartError::Verb("what is chosen cannot be read".into());
        let (mut paths, mut include, mut exclude) = (Vec::new(), Vec::new(), Vec::new());
        let mut leaves_conflicts = false;
        for field in bytes.split_inclusive(|byte| *byte == 0) {
            let field = field.strip_suffix(&[0]).ok_or_else(garbled)?;
            let (letter, text) = field.split_first().ok_or_else(garbled)?;
            let glob = || String::from_utf8(text.to_vec()).map_err(|_| garbled());
            match *letter {
                PATH => paths.push(OsStr::from_bytes(text).into()),
                INCLUDE => include.push(glob()?),
                EXCLUDE => exclude.push(glob()?),
                LEAVE_CONFLICTS if text.is_empty() => leaves_conflicts = true,
                _ => return Err(garbled()),
            }
        }
        Ok(Self {
            leaves_conflicts,
            ..Self::new(&paths, &include, &exclude)?
        })
    }

    /// All there is.
    pub fn all() -> Self {
        Self {
            paths: Vec::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            leaves_conflicts: false,
        }
    }

    /// Whether it chooses all there is.
    pub fn is_all(&self) -> bool {
        let has_no_globs = self.include.is_empty() && self.exclude.is_empty();
        self.paths.is_empty() && has_no_globs && !self.leaves_conflicts
    }

    /// A sentence about changes that depend on each other. What is beside a conflict that stays may have to stay, too.
    pub fn explained(&self, sentence: String) -> String {
        match self.leaves_conflicts {
            true => format!("{sentence}; or leave what is beside a conflict, too: --exclude"),
            false => sentence,
        }
    }

    /// Whether it chooses a change.
    pub fn chooses(&self, one: &Difference) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.fits(one));
        let is_meant =
            self.paths.is_empty() || self.paths.iter().any(|(_, path)| is_chosen(path, one));
        let is_left = self.leaves_conflicts && one.kind == Kind::Conflict;
        is_meant
            && !is_left
            && (self.include.is_empty() || any(&self.include))
            && !any(&self.exclude)
    }

    /// Checks that each path has a change, by itself or below it.
    ///
    /// # Errors
    /// The sentence that names the first one that has none.
    pub fn must_fit(&self, all: &[Difference]) -> Result<(), StartError> {
        let is_unused = |path: &[u8]| !all.iter().any(|one| is_chosen(path, one));
        match self.paths.iter().find(|(_, path)| is_unused(path)) {
            None => Ok(()),
            Some((typed, _)) => Err(StartError::Verb(format!(
                "there is no change at {}; mmfs diff lists the changes, with paths as they are named here",
                for_shell(typed)
            ))),
        }
    }
}

impl Pattern {
    fn new(text: &str) -> Result<Self, StartError> {
        let glob = text.trim_end_matches('/');
        let path = glob.trim_start_matches("./");
        // As rsync and git have it: the slash at the beginning stands for the root of the view.
        let is_path = path.contains('/');
        let built = GlobBuilder::new(path.trim_start_matches('/'))
            .literal_separator(true)
            .backslash_escape(true)
            .build();
        let why = match built {
            Ok(_) if path.trim_start_matches('/').is_empty() => "it is empty".to_owned(),
            Ok(built) => {
                return Ok(Self {
                    glob: built.compile_matcher(),
                    is_path,
                    directories_only: glob.len() < text.len(),
                });
            }
            Err(error) => error.kind().to_string(),
        };
        let text = for_shell(text);
        Err(StartError::Verb(format!("{text} is not a glob: {why}")))
    }

    fn fits(&self, one: &Difference) -> bool {
        let is_directory = |shape: Option<crate::difference::Shape>| {
            shape.is_some_and(|shape| shape.kind == FileType::Directory)
        };
        let may_be = !self.directories_only || is_directory(one.now) || is_directory(one.before);
        ends(one).any(|path| self.fits_path(path, may_be))
    }

    /// `last_counts`: whether the whole path may fit, and not only a directory above it.
    fn fits_path(&self, path: &[u8], last_counts: bool) -> bool {
        let ends = path.iter().enumerate();
        let ends = ends.filter_map(|(at, byte)| (*byte == b'/').then_some(at));
        let last = last_counts.then_some(path.len());
        ends.chain(last).any(|end| {
            let path = &path[..end];
            let part = match self.is_path {
                true => path,
                false => path.rsplit(|byte| *byte == b'/').next().unwrap_or(path),
            };
            self.glob.is_match(OsStr::from_bytes(part))
        })
    }
}

/// The paths of a change: that in the view, and the one that it had.
fn ends(one: &Difference) -> impl Iterator<Item = &[u8]> {
    [Some(one.path.as_slice()), one.from.as_deref()]
        .into_iter()
        .flatten()
}

fn is_chosen(path: &[u8], one: &Difference) -> bool {
    let lies_below = |end: &[u8]| {
        let rest = end.strip_prefix(path);
        path == b"." || rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    };
    ends(one).any(lies_below)
}

/// A path as [`Difference`] has it.
fn below_root(path: &Path) -> Result<Vec<u8>, StartError> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => parts.push(name.as_bytes()),
            _ => {
                return Err(StartError::Verb(format!(
                    "{} is not a path below the root of the view; name paths as mmfs diff prints them",
                    for_shell(path)
                )));
            }
        }
    }
    match parts.is_empty() {
        true => Ok(b".".to_vec()),
        false => Ok(parts.join(&b'/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::difference::{Kind, Shape};

    fn at(path: &str, kind: FileType) -> Difference {
        Difference {
            kind: Kind::Modified,
            path: path.into(),
            from: None,
            now: Some(Shape { kind, size: 0 }),
            before: None,
            ranges: Vec::new(),
        }
    }

    fn file(path: &str) -> Difference {
        at(path, FileType::RegularFile)
    }

    fn renamed(from: &str, to: &str) -> Difference {
        Difference {
            kind: Kind::Renamed,
            from: Some(from.into()),
            ..file(to)
        }
    }

    fn selection(paths: &[&str], include: &[&str], exclude: &[&str]) -> Selection {
        let words = |words: &[&str]| words.iter().map(|word| (*word).into()).collect::<Vec<_>>();
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        Selection::new(&paths, &words(include), &words(exclude)).expect("a selection")
    }

    fn chooses(of: &Selection, path: &str) -> bool {
        of.chooses(&file(path))
    }

    #[test]
    fn another_process_gets_the_same_choice() {
        let strange = PathBuf::from(OsStr::from_bytes(b"a\xff\n"));
        let (include, exclude) = (vec!["*.o".to_owned()], vec!["k*".to_owned()]);
        let bytes = Selection::to_bytes(&[strange], &include, &exclude, true);
        let read = Selection::from_bytes(&bytes).expect("a selection");
        assert_eq!(read.paths[0].1, b"a\xff\n");
        assert!(!read.is_all() && !read.include.is_empty() && !read.exclude.is_empty());
        let nothing = Selection::to_bytes(&[], &[], &[], false);
        assert!(
            Selection::from_bytes(&nothing)
                .expect("a selection")
                .is_all()
        );
        for garbled in [&b"pa"[..], b"\0", b"xa\0", b"i\xff\0", b"p/a\0"] {
            assert!(Selection::from_bytes(garbled).is_err(), "{garbled:?}");
        }
    }

    #[test]
    fn a_path_chooses_itself_and_all_below() {
        let one = selection(&["./src//lib/", "a"], &[], &[]);
        for path in ["src/lib", "src/lib/mod.rs", "a", "a/b/c"] {
            assert!(chooses(&one, path), "{path}");
        }
        for path in ["src", "src/library", "lib", "b/a", "."] {
            assert!(!chooses(&one, path), "{path}");
        }
        assert!(!one.is_all());
        for root in [".", "./", "./."] {
            let all = selection(&[root], &[], &[]);
            assert!(
                chooses(&all, "any/path") && chooses(&all, "."),
                "{root} is all"
            );
        }
        assert!(selection(&[], &[], &[]).is_all());
        assert!(chooses(&selection(&[], &[], &[]), "any"));
    }

    #[test]
    fn paths_that_are_not_below_the_root_are_refused() {
        for path in ["/", "/a", "..", "a/../b", "./.."] {
            let error = Selection::new(&[path.into()], &[], &[]).expect_err(path);
            assert!(
                error.to_string().contains("below the root of the view"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_was_renamed_is_chosen_by_either_path() {
        let one = renamed("old/name", "new/name");
        for path in ["old", "new", "old/name", "new/name"] {
            assert!(selection(&[path], &[], &[]).chooses(&one), "{path}");
        }
        assert!(!selection(&["name"], &[], &[]).chooses(&one));
        assert!(selection(&[], &["old/*"], &[]).chooses(&one));
        assert!(!selection(&[], &["new/*"], &["old"]).chooses(&one));
    }

    #[test]
    fn a_glob_without_a_slash_is_about_each_component() {
        let objects = selection(&[], &["*.o", "node_modules"], &[]);
        for path in [
            "a.o",
            "d/a.o",
            "x/node_modules/y/z",
            "node_modules",
            "d.o/f",
        ] {
            assert!(chooses(&objects, path), "{path}");
        }
        for path in ["a.oo", "d/a", "node_modules2/x"] {
            assert!(!chooses(&objects, path), "{path}");
        }
        assert!(chooses(&selection(&[], &["*.[ch]"], &[]), "x/y.h"));
        assert!(chooses(&selection(&[], &["{a,b}?"], &[]), "bc"));
    }

    #[test]
    fn a_glob_with_a_slash_is_about_the_path() {
        let below = selection(&[], &["src/**"], &[]);
        assert!(chooses(&below, "src/a") && chooses(&below, "src/a/b"));
        assert!(!chooses(&below, "src") && !chooses(&below, "x/src/a"));
        let one = selection(&[], &["./src/*.rs"], &[]);
        assert!(chooses(&one, "src/a.rs") && !chooses(&one, "src/d/a.rs"));
        // What it fits is a directory then.
        assert!(chooses(&selection(&[], &["*/d"], &[]), "src/d/a.rs"));
        assert!(chooses(&selection(&[], &["**/d/*"], &[]), "x/y/d/f"));
        let at_root = selection(&[], &["/a"], &[]);
        assert!(chooses(&at_root, "a") && chooses(&at_root, "a/b"));
        assert!(!chooses(&at_root, "b/a"));
    }

    #[test]
    fn a_glob_that_ends_with_a_slash_is_about_directories() {
        let directories = selection(&[], &["target/"], &[]);
        assert!(chooses(&directories, "target/debug"));
        assert!(!chooses(&directories, "target"));
        assert!(directories.chooses(&at("x/target", FileType::Directory)));
    }

    #[test]
    fn what_is_excluded_is_not_chosen() {
        let one = selection(&["src"], &["*.rs"], &["gen", "src/x/*"]);
        assert!(chooses(&one, "src/a.rs") && chooses(&one, "src/y/x.rs"));
        for path in ["src/gen/a.rs", "src/x/a.rs", "src/a.c", "a.rs"] {
            assert!(!chooses(&one, path), "{path}");
        }
    }

    #[test]
    fn names_may_be_any_bytes() {
        let mut one = file("");
        one.path = b"d\xff/\xfe.o".to_vec();
        assert!(selection(&[], &["*.o"], &[]).chooses(&one));
        assert!(selection(&[], &["d?/*"], &[]).chooses(&one));
        let path = PathBuf::from(OsStr::from_bytes(b"d\xff"));
        assert!(
            Selection::new(&[path], &[], &[])
                .expect("a path")
                .chooses(&one)
        );
    }

    #[test]
    fn globs_that_are_none_are_refused() {
        for glob in ["[", "{a", "", "/", "a[z-a]"] {
            let error = Selection::new(&[], &[glob.into()], &[]).expect_err(glob);
            assert!(error.to_string().contains("is not a glob"), "{error}");
        }
    }

    #[test]
    fn a_path_without_a_change_is_named() {
        let all = [file("a/b"), renamed("old", "new")];
        assert!(selection(&["a", "old"], &[], &["*"]).must_fit(&all).is_ok());
        let error = selection(&["a", "a/c"], &[], &[]).must_fit(&all);
        let error = error.expect_err("no change").to_string();
        assert!(error.starts_with("there is no change at a/c"), "{error}");
    }
}
