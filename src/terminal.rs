//! Text that a terminal shows and a shell reads: no character of it is a command to the terminal, and a path can be copied into a
//! command line.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Whether a terminal would interpret this character instead of showing it: a control character, or one that changes the direction
/// of text.
pub fn is_command(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` as one line that a terminal only shows: it may come from an argument, or from another user's mount. A line's end becomes
/// a blank, another character that a terminal would interpret becomes U+FFFD.
pub fn one_line(text: &str) -> String {
    let shown = |char: char| match char {
        '\n' => ' ',
        char if is_command(char) => '\u{fffd}',
        char => char,
    };
    text.chars().map(shown).collect()
}

/// `path` as a word of a command line, quoted where the shell needs it. Bytes that a terminal cannot show are written in octal,
/// which bash, zsh and ksh read. A path that looks like an option begins with `./`.
pub fn for_shell(path: impl AsRef<Path>) -> String {
    let bytes = path.as_ref().as_os_str().as_bytes();
    let begin = if bytes.starts_with(b"-") { "./" } else { "" };
    let is_plain = |char: char| char.is_alphanumeric() || "/._-+=:,@%".contains(char);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.chars().all(is_plain) => format!("{begin}{text}"),
        Ok(text) if !text.contains(is_command) => {
            format!("'{begin}{}'", text.replace('\'', r"'\''"))
        }
        _ => format!("$'{begin}{}'", in_octal(bytes)),
    }
}

/// `bytes` between `$'` and `'`.
fn in_octal(bytes: &[u8]) -> String {
    let octal = |bytes: &[u8]| -> String {
        let each = bytes.iter().map(|byte| format!("\\{byte:03o}"));
        each.collect()
    };
    let shown = |char: char| match char {
        '\'' | '\\' => format!("\\{char}"),
        char if is_command(char) => octal(char.to_string().as_bytes()),
        char => char.into(),
    };
    let chunks = bytes.utf8_chunks().map(|chunk| {
        let valid: String = chunk.valid().chars().map(shown).collect();
        valid + &octal(chunk.invalid())
    });
    chunks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::process::Command;

    #[test]
    fn a_line_has_no_characters_that_a_terminal_interprets() {
        assert_eq!(one_line("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb c");
        assert_eq!(one_line("a\u{9b}\u{202e}b"), "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn a_shell_reads_the_path_that_was_quoted() {
        for (path, plain) in [("/mnt/view", true), ("/é/a_b-1.2", true), ("/a b", false)] {
            assert_eq!(for_shell(path) == path, plain, "{path}");
        }
        assert_eq!(for_shell("-x"), "./-x");
        for bytes in [
            &b""[..],
            b"/mnt/view",
            b"/a b",
            b"~/x;y|z&(q)*?[a]#!{b,c}<>",
            b"/it's $(id) `id` \"$HOME\" \\",
            b"/a\nb\t'\\",
            b"/\x1b[2J7",
            b"/caf\xe9 x1",
            "/\u{202e}a\u{9b}".as_bytes(),
        ] {
            let path = OsStr::from_bytes(bytes);
            let word = for_shell(path);
            assert!(!word.contains(is_command), "{word}");
            let script = format!("printf %s {word}");
            let shell = Command::new("bash").args(["-c", &script]).output();
            assert_eq!(shell.expect("bash").stdout, bytes, "{word}");
        }
    }
}
