//! Two things measured side by side, so that both meet the same machine.

/// Medians of what was measured, each in its own unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pairs {
    pub(crate) ours: f64,
    pub(crate) floor: f64,
    pub(crate) ratio: f64,
}

impl Pairs {
    /// Of rounds that each measured floor, ours, ours, floor.
    pub(crate) fn of(rounds: &[[f64; 4]]) -> Self {
        let pairs = || rounds.iter().map(|[first, a, b, last]| ((a + b) / 2.0, (first + last) / 2.0));
        Self {
            ours: median(pairs().map(|(ours, _)| ours).collect()),
            floor: median(pairs().map(|(_, floor)| floor).collect()),
            ratio: median(pairs().map(|(ours, floor)| ours / floor).collect()),
        }
    }
}

/// The middle one.
pub(crate) fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this part of all values lies. Not a number if there is none.
pub(crate) fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    values.get((last * part).ceil() as usize).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(hundred.clone(), 0.99), 100.0);
        assert_eq!(quantile(hundred, 0.0), 1.0);
        assert!(median(vec![]).is_nan());
        let pairs = Pairs::of(&[[1.0, 2.0, 2.0, 1.0], [2.0, 6.0, 6.0, 2.0], [1.0, 1.0, 3.0, 3.0]]);
        assert_eq!((pairs.ours, pairs.floor, pairs.ratio), (2.0, 2.0, 2.0));
    }
}
