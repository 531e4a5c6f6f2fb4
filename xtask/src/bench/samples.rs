//! Repeated measurements and their median.

use std::time::{Duration, Instant};

/// Measured values of one thing, all in one unit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Measures up to `runs` times. No further run begins after `budget`, so that a slow host gets
    /// fewer samples and not an endless command; there is always one.
    pub(crate) fn take(
        runs: usize,
        budget: Duration,
        mut one: impl FnMut(usize) -> anyhow::Result<f64>,
    ) -> anyhow::Result<Self> {
        let started = Instant::now();
        let mut samples = Self::default();
        for run in 0..runs {
            samples.push(one(run)?);
            if started.elapsed() > budget {
                break;
            }
        }
        Ok(samples)
    }

    /// A single measurement.
    pub(crate) fn one(value: f64) -> Self {
        let mut samples = Self::default();
        samples.push(value);
        samples
    }

    /// One more.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The middle one, or the mean of the two in the middle; 0 where there is none.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match (sorted.get(middle), sorted.len() % 2) {
            (None, _) => 0.0,
            (Some(value), 1) => *value,
            (Some(value), _) => f64::midpoint(sorted[middle - 1], *value),
        }
    }

    /// The same measurements in another unit.
    pub(crate) fn map(&self, convert: impl Fn(f64) -> f64) -> Self {
        Self(self.0.iter().map(|value| convert(*value)).collect())
    }
}

/// Milliseconds since `started`.
pub(crate) fn ms_since(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_mind_one_slow_run() {
        assert!((Samples(vec![3.0, 900.0, 1.0]).median() - 3.0).abs() < 1e-9);
        assert!((Samples(vec![4.0, 1.0, 2.0, 3.0]).median() - 2.5).abs() < 1e-9);
        assert!((Samples(vec![7.0]).median() - 7.0).abs() < 1e-9);
        assert!(Samples::default().median().abs() < 1e-9);
    }

    #[test]
    fn a_slow_measurement_is_repeated_less_often() {
        let slow = |_| {
            std::thread::sleep(Duration::from_millis(15));
            Ok(1.0)
        };
        assert_eq!(Samples::take(5, Duration::ZERO, slow).unwrap().len(), 1);
        assert_eq!(Samples::take(3, Duration::from_secs(60), slow).unwrap().len(), 3);
    }

    #[test]
    fn a_failing_run_fails_the_measurement() {
        let fails = |run| if run == 1 { anyhow::bail!("no") } else { Ok(1.0) };
        assert!(Samples::take(3, Duration::from_secs(60), fails).is_err());
    }
}
