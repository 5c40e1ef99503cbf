//! The holder's time, made of two clocks, neither of which can prolong a lease alone.

use std::time::Duration;

/// Time since a moment of the holder's choice. It goes on with whichever is faster: the time that has passed since then, or the
/// wall clock. One that is set back changes nothing, and a machine that has slept is not younger than the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    began: i64,
    ahead: Duration,
}

impl Timeline {
    /// Begins at this moment, Unix seconds.
    #[must_use]
    pub const fn new(wall: i64) -> Self {
        Self { began: wall, ahead: Duration::ZERO }
    }

    /// What time it is: so much has passed since the beginning, and so late it is on the wall.
    pub fn now(&mut self, passed: Duration, wall: i64) -> Duration {
        let walled = u64::try_from(wall.saturating_sub(self.began)).unwrap_or_default();
        self.ahead = self.ahead.max(Duration::from_secs(walled).saturating_sub(passed));
        passed.saturating_add(self.ahead)
    }

    /// When a moment of the wall clock comes, seen from now.
    #[must_use]
    pub fn at(now: Duration, wall: i64, moment: i64) -> Duration {
        let ahead = moment.saturating_sub(wall);
        let span = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { now.saturating_sub(span) } else { now.saturating_add(span) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_never_goes_back_and_is_never_behind(steps in prop::collection::vec((0u64..100, -1000i64..1000), 1..50)) {
            let (mut timeline, mut passed, mut before) = (Timeline::new(1_000_000), Duration::ZERO, Duration::ZERO);
            for (step, wall) in steps {
                passed += Duration::from_secs(step);
                let now = timeline.now(passed, 1_000_000 + wall);
                prop_assert!(now >= before && now >= passed);
                prop_assert!(now >= Duration::from_secs(wall.max(0) as u64));
                before = now;
            }
        }
    }

    #[test]
    fn moments_of_the_wall_clock_have_their_place() {
        let now = Duration::from_secs(50);
        assert_eq!(Timeline::at(now, 1000, 1010), Duration::from_secs(60));
        assert_eq!(Timeline::at(now, 1000, 990), Duration::from_secs(40));
        assert_eq!(Timeline::at(now, i64::MAX, i64::MIN), Duration::ZERO);
    }
}
