//! Parses sizes, times and counts of the command line.

use std::time::Duration;

/// The smallest window, in bytes: half of the largest request of old kernels, which is 128 KiB.
const MIN_WINDOW_SIZE: u64 = 64 << 10;

/// The smallest map budget, in bytes: it has room for the smallest window with the largest request.
const MIN_MAP_BUDGET: u64 = 2 << 20;

/// A number of bytes: `4096`, `64K`, `1g`, `2MiB`. K, M, G and T are powers of 1024.
///
/// # Errors
/// A message for the user.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let (number, unit) = text.split_at(text.len() - digits.len());
    let unit = unit.to_ascii_lowercase();
    let shift = match unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" if unit != "ib" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err("give a whole number of bytes, or one with K, M, G or T".into()),
    };
    match number.parse::<u64>() {
        Ok(number) => number
            .checked_mul(1 << shift)
            .ok_or_else(|| "more than 2^64 bytes".into()),
        Err(_) if number.is_empty() => Err("a size begins with a number".into()),
        Err(_) => Err("more than 2^64 bytes".into()),
    }
}

/// The size of a window, in bytes.
///
/// # Errors
/// A message for the user.
pub fn window_size(text: &str) -> Result<u64, String> {
    let page = rustix::param::page_size() as u64;
    match size(text)? {
        size if size < MIN_WINDOW_SIZE => Err("a window is at least 64K".into()),
        size if size % page != 0 => Err(format!("a window is a multiple of the page size, {page}")),
        size if size > i64::MAX as u64 => Err("a window is less than 2^63 bytes".into()),
        size => Ok(size),
    }
}

/// A size for the map budget.
///
/// # Errors
/// A message for the user.
pub fn map_budget(text: &str) -> Result<u64, String> {
    match size(text)? {
        size if size < MIN_MAP_BUDGET => Err("a map budget is at least 2M".into()),
        size => Ok(size),
    }
}

/// A duration in seconds, not negative: `1`, `0.25`, `.5`. Digits below a nanosecond are ignored.
///
/// # Errors
/// A message for the user.
pub fn seconds(text: &str) -> Result<Duration, String> {
    bounded(decimal(text)?)
}

/// `time`, if it has less than 2^32 seconds.
fn bounded(time: Duration) -> Result<Duration, String> {
    match time.as_secs() <= u32::MAX.into() {
        true => Ok(time),
        false => Err("more than 2^32 seconds".into()),
    }
}

fn decimal(text: &str) -> Result<Duration, String> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_decimal = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_decimal(whole) || !is_decimal(part) || (whole.is_empty() && part.is_empty()) {
        return Err("give seconds as a decimal number, not negative".into());
    }
    let seconds = format!("0{whole}")
        .parse::<u64>()
        .map_err(|_| "more than 2^32 seconds")?;
    let nanos = part.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = nanos.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Ok(Duration::new(seconds, nanos))
}

/// A duration with its unit: `10ms`, `500us`, `2s`.
///
/// # Errors
/// A message for the user.
pub fn time(text: &str) -> Result<Duration, String> {
    let units = [("us", 1_000_000), ("ms", 1000), ("s", 1)];
    let found = units
        .iter()
        .find_map(|(unit, parts)| Some((text.strip_suffix(unit)?, *parts)));
    let (number, parts) = found.ok_or("give a number and its unit: us, ms or s")?;
    bounded(decimal(number)? / parts)
}

/// A number of worker threads.
///
/// # Errors
/// A message for the user.
pub fn threads(text: &str) -> Result<u16, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=256).contains(number));
    number.ok_or_else(|| "give a whole number from 1 to 256".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_take_units_in_either_case() {
        let good = [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("64K", 64 << 10),
            ("64k", 64 << 10),
            ("3KiB", 3 << 10),
            ("2mb", 2 << 20),
            ("1G", 1 << 30),
            ("5TIB", 5 << 40),
        ];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "K",
            "iB",
            "1iB",
            "1.5G",
            "-1",
            "1 K",
            "1P",
            "1KK",
            "1BB",
            "16777216T",
            "é",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn windows_are_whole_pages_from_64k() {
        assert_eq!(window_size("64K"), Ok(64 << 10));
        for text in ["63K", "65537", "0", "9T9", "8388608T"] {
            assert!(window_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_budget_holds_a_window() {
        assert_eq!(map_budget("2M"), Ok(2 << 20));
        for text in ["0", "1K", "2047K", "1M", "-1"] {
            assert!(map_budget(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_has_a_unit() {
        let good = [
            ("10ms", 10_000),
            ("1.5s", 1_500_000),
            ("7us", 7),
            ("0s", 0),
            ("5000000000us", 5_000_000_000),
            ("4294967295s", 4_294_967_295_000_000),
        ];
        for (text, micros) in good {
            assert_eq!(time(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        for text in [
            "10",
            "ms",
            "-1ms",
            "1m",
            "1 ms",
            "",
            "4294967296s",
            "99999999999999999999us",
        ] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_are_decimal_and_not_negative() {
        let good = [
            ("0", Duration::ZERO),
            ("1", Duration::from_secs(1)),
            ("1.", Duration::from_secs(1)),
            (".5", Duration::from_millis(500)),
            ("0.25", Duration::from_millis(250)),
            ("2.0000000019", Duration::new(2, 1)),
        ];
        for (text, time) in good {
            assert_eq!(seconds(text), Ok(time), "{text}");
        }
        for text in [
            "",
            ".",
            "-1",
            "+1",
            "inf",
            "nan",
            "1e3",
            "1.5s",
            "1.2.3",
            "4294967296",
        ] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in ".{0,24}") {
            let _ = (size(&text), window_size(&text), seconds(&text));
        }

        #[test]
        fn whole_numbers_mean_themselves(number in any::<u64>(), short in any::<u32>()) {
            prop_assert_eq!(size(&number.to_string()), Ok(number));
            prop_assert_eq!(seconds(&short.to_string()), Ok(Duration::from_secs(short.into())));
        }
    }
}
