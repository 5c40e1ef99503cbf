//! Points in time, shown both ways: relative for people, absolute for records.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::duration::glance;

/// A point in time, Unix seconds. Serialised as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl Moment {
    /// Zero on the wire means that there is none.
    pub fn from_wire(seconds: i64) -> Option<Self> {
        (seconds != 0).then_some(Self(seconds))
    }

    /// `in 42m (2026-11-22 16:40:12Z)`.
    pub fn relative_to(self, now: Self) -> String {
        let distance = glance(self.0.abs_diff(now.0));
        let words = match self.cmp(&now) {
            std::cmp::Ordering::Less => format!("{distance} ago"),
            std::cmp::Ordering::Equal => "now".into(),
            std::cmp::Ordering::Greater => format!("in {distance}"),
        };
        format!("{words} ({})", self.absolute())
    }

    /// `2026-11-22 16:40:12Z`.
    pub fn absolute(self) -> String {
        Timestamp::from_second(self.0)
            .map_or_else(|_| format!("{} s", self.0), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match Timestamp::from_second(self.0) {
            Ok(time) => serializer.collect_str(&time),
            Err(_) => serializer.serialize_i64(self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        let now = Moment(1_700_000_000);
        assert_eq!(Moment(1_700_003_600).relative_to(now), "in 1h (2023-11-14 23:13:20Z)");
        assert_eq!(Moment(1_699_999_995).relative_to(now), "5s ago (2023-11-14 22:13:15Z)");
        assert_eq!(now.relative_to(now), "now (2023-11-14 22:13:20Z)");
        assert_eq!(serde_json::to_string(&now).unwrap(), "\"2023-11-14T22:13:20Z\"");
    }

    #[test]
    fn times_beyond_the_calendar_do_not_panic() {
        assert!(Moment(i64::MAX).relative_to(Moment(i64::MIN)).contains("in "));
        assert!(serde_json::to_string(&Moment(i64::MIN)).is_ok());
    }
}
