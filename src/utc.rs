//! Moments as text, in UTC.

/// After the last second of the year 9999.
const END: u64 = 253_402_300_800;
const DAY: u64 = 86_400;

/// A moment, in seconds since 1970: `2026-11-27T02:18:51Z`. `None` after the year 9999.
pub fn second(seconds: u64) -> Option<String> {
    stamp(seconds).map(|stamp| stamp + "Z")
}

/// A moment, in microseconds since 1970: `2026-11-27T02:18:51.145909Z`. `None` after the year 9999.
pub fn microsecond(microseconds: u64) -> Option<String> {
    let (seconds, rest) = (microseconds / 1_000_000, microseconds % 1_000_000);
    stamp(seconds).map(|stamp| format!("{stamp}.{rest:06}Z"))
}

fn stamp(seconds: u64) -> Option<String> {
    if seconds >= END {
        return None;
    }
    let (year, month, day) = date(seconds / DAY);
    let (hour, minute, second) = (seconds % DAY / 3600, seconds / 60 % 60, seconds % 60);
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
    ))
}

/// Year, month and day of the Gregorian calendar, for a number of days since 1970.
///
/// It counts in years that begin on the 1st of March of the year 0: their leap day is their last one. From March on, five
/// months have 153 days, which gives the month.
fn date(days: u64) -> (u64, u64, u64) {
    const TO_1970: u64 = 719_468;
    const IN_400_YEARS: u64 = 146_097;
    let days = days + TO_1970;
    let (centuries, day) = (days / IN_400_YEARS, days % IN_400_YEARS);
    // A leap day every 4 years, none every 100, and the last one of 400.
    let year = (day - day / 1460 + day / 36_524 - day / (IN_400_YEARS - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = 400 * centuries + year;
    match month {
        0..10 => (year, month + 3, day),
        _ => (year + 1, month - 9, day),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(year: u64, month: u64) -> u64 {
        let leaps = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        match month {
            2 if leaps => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    #[test]
    fn every_day_until_the_year_10000_has_its_date() {
        let mut number = 0;
        for year in 1970..10_000 {
            for month in 1..=12 {
                for day in 1..=length(year, month) {
                    assert_eq!(date(number), (year, month, day));
                    number += 1;
                }
            }
        }
        assert_eq!(number * DAY, END);
    }

    #[test]
    fn moments_are_utc() {
        let text = |moment: &str| Some(moment.to_owned());
        assert_eq!(second(0), text("1970-01-01T00:00:00Z"));
        assert_eq!(second(1_000_000_000), text("2001-09-09T01:46:40Z"));
        assert_eq!(second(951_868_799), text("2000-02-29T23:59:59Z"));
        assert_eq!(second(END - 1), text("9999-12-31T23:59:59Z"));
        let microseconds = microsecond(1_000_000_000_000_001);
        assert_eq!(microseconds, text("2001-09-09T01:46:40.000001Z"));
        assert_eq!((second(END), microsecond(u64::MAX)), (None, None));
    }
}
