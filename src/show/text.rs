//! Formats numbers, times and paths.

use crate::terminal::for_shell;
use crate::utc;

/// A path in an answer, as a shell reads it. Empty if it is invalid.
pub fn reported(reported: &crate::report::Path) -> String {
    let found = reported.path();
    found.map_or_else(String::new, for_shell)
}

/// A size: `1.5 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut size, mut unit) = (bytes as f64 / 1024.0, 0);
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        (size, unit) = (size / 1024.0, unit + 1);
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A short duration: `12 us`, `3.4 ms`, `5.0 s`.
pub fn micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        1_000_000..120_000_000 => format!("{:.1} s", micros as f64 / 1e6),
        _ => long(micros / 1_000_000),
    }
}

/// A long duration: `2 h 3 min`.
pub fn long(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// A rate: `0.25`, `12`, `3456`.
pub fn rate(rate: f64) -> String {
    match rate {
        0.0 => "0".into(),
        ..10.0 => format!("{rate:.2}"),
        _ => format!("{rate:.0}"),
    }
}

/// A time in microseconds since 1970: `2026-11-27T02:18:51.145909Z`.
pub fn moment(microseconds: u64) -> String {
    utc::microsecond(microseconds).unwrap_or_else(|| "?".into())
}

/// A time in seconds since 1970: `2026-11-27T02:18:51Z`.
pub fn second(seconds: u64) -> String {
    utc::second(seconds).unwrap_or_else(|| "?".into())
}

/// The text of an errno. `ok` for 0.
pub fn errno(errno: i32) -> String {
    if errno == 0 {
        return "ok".into();
    }
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let sentence = text.split(" (os error").next().unwrap_or_default();
    sentence.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
        for (number, text) in [
            (999, "999 us"),
            (1500, "1.5 ms"),
            (2_500_000, "2.5 s"),
            (7_380_000_000, "2 h 3 min"),
        ] {
            assert_eq!(micros(number), text);
        }
        assert_eq!((long(59), long(90_000)), ("59 s".into(), "1 d 1 h".into()));
        assert_eq!(
            (rate(0.0), rate(0.256), rate(1234.5)),
            ("0".into(), "0.26".into(), "1234".into())
        );
    }

    #[test]
    fn a_moment_that_nobody_lives_to_see_is_a_question_mark() {
        assert_eq!(second(1_000_000_000), "2001-09-09T01:46:40Z");
        assert_eq!(
            (moment(u64::MAX), second(u64::MAX)),
            ("?".into(), "?".into())
        );
    }
}
