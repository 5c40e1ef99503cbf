//! Time as certificates and tokens know it: whole seconds since 1970-01-01T00:00:00Z.
//!
//! Nothing else in the workspace reads the wall clock: a [`Clock`] is a parameter, so that a test can own it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

const SECONDS_PER_DAY: i64 = 86_400;

/// A moment, in whole seconds since the Unix epoch, without leap seconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct UnixTime(i64);

/// Where the current time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The current time.
    fn now(&self) -> UnixTime;
}

/// The clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl UnixTime {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// The moment `seconds` after (before, if negative) the epoch.
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since the epoch; negative before it.
    pub const fn as_secs(self) -> i64 {
        self.0
    }

    /// This moment plus `duration` (fractions of a second are dropped), or `None` beyond the range.
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        self.0.checked_add_unsigned(duration.as_secs()).map(Self)
    }

    /// This moment minus `duration` (fractions of a second are dropped), or `None` beyond the range.
    pub fn checked_sub(self, duration: Duration) -> Option<Self> {
        self.0.checked_sub_unsigned(duration.as_secs()).map(Self)
    }

    /// This moment plus `duration`, at most the end of the range.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add_unsigned(duration.as_secs()))
    }

    /// This moment minus `duration`, at least the start of the range.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub_unsigned(duration.as_secs()))
    }

    /// How long ago `earlier` was; zero if it lies in the future of this moment.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The moment of a date and time of day in UTC (proleptic Gregorian calendar), or `None` if a field is
    /// out of range. A leap second (`second` 60) is out of range too: Unix time has no number for it.
    pub fn from_civil(year: i64, month: u8, day: u8, hour: u8, minute: u8, second: u8) -> Option<Self> {
        let in_range = (0..=9999).contains(&year)
            && (1..=12).contains(&month)
            && day >= 1
            && day <= days_in_month(year, month)
            && hour < 24
            && minute < 60
            && second < 60;
        if !in_range {
            return None;
        }
        let seconds_of_day = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
        Some(Self(days_from_civil(year, i64::from(month), i64::from(day)) * SECONDS_PER_DAY + seconds_of_day))
    }

    /// Year, month, day, hour, minute and second in UTC (proleptic Gregorian calendar).
    pub fn to_civil(self) -> (i64, u8, u8, u8, u8, u8) {
        let (year, month, day) = civil_from_days(self.0.div_euclid(SECONDS_PER_DAY));
        let second_of_day = self.0.rem_euclid(SECONDS_PER_DAY);
        // Each field is in its range by construction, so the conversions cannot fail.
        let narrow = |value: i64| u8::try_from(value).unwrap_or(0);
        (
            year,
            narrow(month),
            narrow(day),
            narrow(second_of_day / 3600),
            narrow(second_of_day / 60 % 60),
            narrow(second_of_day % 60),
        )
    }
}

impl fmt::Display for UnixTime {
    /// RFC 3339 in UTC, such as `2026-08-22T09:30:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day, hour, minute, second) = self.to_civil();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    fn now(&self) -> UnixTime {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => UnixTime(i64::try_from(since.as_secs()).unwrap_or(i64::MAX)),
            Err(before) => UnixTime(i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |s| -s)),
        }
    }
}

fn days_in_month(year: i64, month: u8) -> u8 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    }
}

// Both conversions count years from March, so that the leap day is the last of its year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn displays_rfc3339() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(UnixTime::from_secs(seconds).to_string(), text);
        }
    }

    #[test]
    fn the_end_of_the_range_does_not_panic() {
        for seconds in [i64::MIN, i64::MAX] {
            assert!(!UnixTime::from_secs(seconds).to_string().is_empty());
        }
    }

    #[test]
    fn refuses_dates_that_do_not_exist() {
        assert_eq!(UnixTime::from_civil(2023, 2, 29, 0, 0, 0), None);
        assert_eq!(UnixTime::from_civil(1900, 2, 29, 0, 0, 0), None);
        assert_eq!(UnixTime::from_civil(2024, 13, 1, 0, 0, 0), None);
        assert_eq!(UnixTime::from_civil(2024, 0, 1, 0, 0, 0), None);
        assert_eq!(UnixTime::from_civil(2024, 1, 1, 24, 0, 0), None);
        assert_eq!(UnixTime::from_civil(2016, 12, 31, 23, 59, 60), None);
        assert!(UnixTime::from_civil(2024, 2, 29, 23, 59, 59).is_some());
    }

    proptest! {
        #[test]
        fn civil_round_trip(seconds in -62_167_219_200_i64..=253_402_300_799) {
            let (year, month, day, hour, minute, second) = UnixTime::from_secs(seconds).to_civil();
            prop_assert_eq!(
                UnixTime::from_civil(year, month, day, hour, minute, second),
                Some(UnixTime::from_secs(seconds))
            );
        }
    }
}
