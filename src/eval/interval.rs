//! Shares with their confidence intervals, where the observations of a group (an identity) depend on each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_985;

/// A share of observations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proportion {
    /// Number of observations that count.
    pub count: u64,
    /// Number of all observations.
    pub of: u64,
    /// `count / of`, in [0, 1].
    pub share: f64,
    /// The confidence interval of 95 %, in [0, 1].
    pub interval: [f64; 2],
}

impl Proportion {
    /// Formats the share in percent.
    pub(crate) fn percent(&self) -> String {
        percent(self.share)
    }

    /// Formats the interval in percent.
    pub(crate) fn percent_interval(&self) -> String {
        let [low, high] = self.interval.map(percent);
        format!("[{low}, {high}]")
    }
}

/// Formats a share in percent: with two digits after the point, or three digits in all where that would show too few.
pub(crate) fn percent(share: f64) -> String {
    let value = 100.0 * share;
    if value == 0.0 || value >= 1.0 {
        return format!("{value:.2}");
    }
    let digits = (2.0 - value.log10().floor()) as usize;
    format!("{value:.digits$}")
}

/// Returns the share of `count` among `of` observations, at least one. `groups` has, for each group, the numbers `[count, of]` of the
/// observations that would be gone without it. An observation may belong to two groups, such as a pair of images to two identities.
///
/// The variance is that of the jackknife over groups, and the interval is symmetric for the logarithm of the odds. At a share of 0 or 1 there is
/// no variance to see: then the interval has the bound that so many independent groups without an exception give. If all groups have the same
/// share, each counts as one observation.
pub(crate) fn jackknife(count: u64, of: u64, groups: impl ExactSizeIterator<Item = [u64; 2]> + Clone) -> Proportion {
    let share = count as f64 / of as f64;
    let n = groups.len() as f64;
    if count == 0 || count == of {
        let room = 1.0 - 0.025f64.powf(1.0 / n.max(1.0));
        let interval = if count == 0 { [0.0, room] } else { [1.0 - room, 1.0] };
        return Proportion { count, of, share, interval };
    }
    // A group with all observations would leave none.
    let without = |[less, fewer]: [u64; 2]| (fewer < of).then(|| (count - less) as f64 / (of - fewer) as f64);
    let rest = groups.filter_map(without);
    let (kept, sum) = rest.clone().fold((0.0, 0.0), |(kept, sum), share| (kept + 1.0, sum + share));
    if kept < 2.0 {
        return Proportion { count, of, share, interval: [0.0, 1.0] };
    }
    let mean = sum / kept;
    let seen = (kept - 1.0) / kept * rest.map(|share| (share - mean).powi(2)).sum::<f64>();
    let variance = if seen > 1e-18 { seen } else { share * (1.0 - share) / kept };
    let odds = (share / (1.0 - share)).ln();
    let half = Z * variance.sqrt() / (share * (1.0 - share));
    let interval = [odds - half, odds + half].map(|odds| 1.0 / (1.0 + (-odds).exp()));
    Proportion { count, of, share, interval }
}

/// Returns the share of true observations, at least one; each belongs to one group.
pub(crate) fn of_groups(observations: impl Iterator<Item = (i64, bool)>) -> Proportion {
    let mut groups: BTreeMap<i64, [u64; 2]> = BTreeMap::new();
    for (group, counts) in observations {
        let [count, of] = groups.entry(group).or_default();
        *count += u64::from(counts);
        *of += 1;
    }
    let [count, of] = groups.values().fold([0, 0], |sum, own| [sum[0] + own[0], sum[1] + own[1]]);
    jackknife(count, of, groups.values().copied())
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::base::rng::{Purpose, stream};

    #[test]
    fn figures_by_hand() {
        // Four groups of one observation each: the jackknife's variance is p (1 - p) / (n - 1).
        let one = of_groups([(1, true), (2, false), (3, false), (4, false)].into_iter());
        let half = Z * (0.25f64 * 0.75 / 3.0).sqrt() / (0.25 * 0.75);
        let want = 1.0 / (1.0 + (-((1.0f64 / 3.0).ln() + half)).exp());
        assert_eq!((one.count, one.of, one.share), (1, 4, 0.25));
        assert!((one.interval[1] - want).abs() < 1e-12, "{one:?}");
        let none = of_groups((0..30).map(|i| (i, false)));
        assert_eq!(none.interval[0], 0.0);
        assert!((none.interval[1] - 0.1157).abs() < 1e-4, "the exact binomial bound: {none:?}");
        let all = of_groups([(1, true), (1, true)].into_iter()).interval;
        assert!((all[0] - 0.025).abs() < 1e-12 && all[1] == 1.0, "one group without an exception: {all:?}");
        assert_eq!(of_groups([(1, true), (1, false)].into_iter()).interval, [0.0, 1.0]);
        let equal = of_groups([(1, true), (1, false), (2, true), (2, false)].into_iter());
        assert!(equal.interval[0] < 0.21 && equal.interval[1] > 0.79, "two groups tell little: {equal:?}");
    }

    #[test]
    fn percents_show_at_least_two_digits() {
        let shown = [0.0, 0.5, 0.0123, 0.001, 0.000_012_34].map(percent);
        assert_eq!(shown, ["0.00", "50.00", "1.23", "0.100", "0.00123"]);
    }

    /// Returns the share of the standard normal distribution below `x`, by the trapezoid rule.
    fn normal_below(x: f64) -> f64 {
        let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let step = 1e-3;
        let steps = ((x + 10.0) / step) as usize;
        (0..steps)
            .map(|i| 0.5 * step * (density(-10.0 + i as f64 * step) + density(-10.0 + (i + 1) as f64 * step)))
            .sum()
    }

    #[test]
    fn intervals_of_pairs_that_share_identities_hold_the_true_share_19_times_in_20() {
        // The distance of two images is the sum of a part of each identity and of noise. One in fifty pairs of the sample is accepted.
        let (identities, spread, trials, accepted) = (60, 0.4, 200, 0.02);
        let mut rng = stream(11, Purpose::Test, 0, 0);
        let mut normal = || -> f64 { StandardNormal.sample(&mut rng) };
        let deviation = (2.0f64 * spread * spread + 1.0).sqrt();
        let mut held = 0;
        for _ in 0..trials {
            let own: Vec<f64> = (0..identities).map(|_| spread * normal()).collect();
            let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
            for i in 0..identities {
                for j in i + 1..identities {
                    pairs.push((own[i] + own[j] + normal(), i, j));
                }
            }
            let mut sorted: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
            sorted.sort_by(f64::total_cmp);
            // As a calibration does, the threshold is chosen by the same pairs.
            let threshold = sorted[(accepted * sorted.len() as f64) as usize - 1];
            let mut groups = vec![[0u64, identities as u64 - 1]; identities];
            for (_, i, j) in pairs.iter().filter(|pair| pair.0 <= threshold) {
                groups[*i][0] += 1;
                groups[*j][0] += 1;
            }
            let count = pairs.iter().filter(|pair| pair.0 <= threshold).count() as u64;
            let [low, high] = jackknife(count, pairs.len() as u64, groups.iter().copied()).interval;
            held += u32::from((low..=high).contains(&normal_below(threshold / deviation)));
        }
        // With a true level of 95 %, 190 ± 3; an interval that takes pairs as independent holds it in about 147.
        assert!((180..=199).contains(&held), "{held} of {trials}");
    }
}
