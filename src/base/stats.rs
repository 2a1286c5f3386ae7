//! Tests whether differences between arms are significant: the paired bootstrap, and Holm's correction. An arm is one way of training, run
//! with one or more seeds.

use rand::RngExt;
use rayon::prelude::*;
use serde::Serialize;

use crate::base::rng::{Purpose, stream};

/// The values of one arm on every item, for each of its seeds.
#[derive(Clone, Debug)]
pub struct SeededValues {
    /// The seeds, ascending, without duplicates.
    pub seeds: Vec<u64>,
    /// The values, `[seeds][items]`; all arms have the same items in the same order.
    pub values: Vec<Vec<f64>>,
}

/// Options of the resampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bootstrap {
    /// Number of resamples, at least 1.
    pub resamples: usize,
    /// Seed of the resamples.
    pub seed: u64,
}

/// An arm's mean minus the baseline's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The arm's mean over all items and seeds minus the baseline's.
    pub mean: f64,
    /// 95 % percentile interval.
    pub interval: [f64; 2],
    /// Two-sided p-value: of the resamples at or below 0 and of those at or above 0, twice the smaller share, at most 1. One more
    /// resample is counted in that share and in all.
    pub p: f64,
    /// Whether both arms have the same seeds, which were resampled as pairs.
    pub paired_seeds: bool,
    /// 95 % percentile interval of the arm's own mean.
    #[serde(skip)]
    pub own_interval: [f64; 2],
}

/// Computes the differences of all arms from arm `baseline`, in their order; the baseline's own is 0 with p = 1.
///
/// Paired bootstrap (Efron and Tibshirani, 1993, "An Introduction to the Bootstrap"): each resample draws as many items as there are with
/// replacement, the same for all arms. Of n seeds it draws n - 1 with replacement (Rao and Wu, 1988: drawing n would show only (n - 1)/n
/// of their variance), as pairs if an arm has the baseline's seeds, else separately for each arm. A resample is a function of its number,
/// so results do not depend on threads.
///
/// # Panics
/// If there are no items, seeds or resamples, or the numbers of items differ.
pub fn paired_bootstrap(arms: &[SeededValues], baseline: usize, options: Bootstrap) -> Vec<Difference> {
    let items = arms[0].values[0].len();
    assert!(items > 0 && options.resamples > 0 && arms.iter().all(|arm| arm.values.iter().all(|v| v.len() == items)));
    let paired: Vec<bool> = arms.iter().map(|arm| arm.seeds == arms[baseline].seeds).collect();
    let runs = arms.iter().map(|arm| arm.values.len()).collect::<Vec<_>>();
    let draws: Vec<Vec<f64>> = (0..options.resamples)
        .into_par_iter()
        .map_init(
            || vec![0.0; items],
            |weights, resample| {
                let mut rng = stream(options.seed, Purpose::Bootstrap, 0, resample as u64);
                weights.fill(0.0);
                (0..items).for_each(|_| weights[rng.random_range(0..items)] += 1.0);
                let mut seeds = |count: usize| {
                    let drawn = (count - 1).max(1);
                    (0..drawn).map(|_| rng.random_range(0..count)).collect::<Vec<_>>()
                };
                let shared = seeds(runs[baseline]);
                let means = arms.iter().zip(&paired).zip(&runs).map(|((arm, &paired), &count)| {
                    let means: Vec<f64> = arm.values.iter().map(|v| dot(weights, v) / items as f64).collect();
                    let own = if paired { shared.clone() } else { seeds(count) };
                    own.iter().map(|&seed| means[seed]).sum::<f64>() / own.len() as f64
                });
                means.collect()
            },
        )
        .collect();
    let observed = |arm: &SeededValues| {
        let sums = arm.values.iter().map(|values| values.iter().sum::<f64>());
        sums.sum::<f64>() / (arm.values.len() * items) as f64
    };
    let sorted = |value: &dyn Fn(&Vec<f64>) -> f64| {
        let mut values: Vec<f64> = draws.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let interval = |sorted: &[f64]| [quantile(sorted, 0.025), quantile(sorted, 0.975)];
    let difference = |a: usize| {
        let differences = sorted(&|means| means[a] - means[baseline]);
        Difference {
            mean: observed(&arms[a]) - observed(&arms[baseline]),
            interval: interval(&differences),
            p: two_sided(&differences),
            paired_seeds: paired[a],
            own_interval: interval(&sorted(&|means| means[a])),
        }
    };
    (0..arms.len()).map(difference).collect()
}

/// Returns the p-value of sorted resampled differences; see [`Difference::p`].
fn two_sided(sorted: &[f64]) -> f64 {
    let up_to_0 = sorted.partition_point(|d| *d <= 0.0);
    let from_0 = sorted.len() - sorted.partition_point(|d| *d < 0.0);
    (2.0 * (up_to_0.min(from_0) + 1) as f64 / (sorted.len() + 1) as f64).min(1.0)
}

/// Returns a quantile of the `sorted` values, interpolated linearly as numpy does by default.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + place.fract() * (high - low)
}

/// Returns Σ a b, summed in a fixed order, in eight sums that the compiler vectorises.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Adjusts the p-values of several comparisons (Holm, 1979): in ascending order, the i-th of m is multiplied by m - i + 1, and is at least
/// the one before it.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let (mut adjusted, mut largest) = (vec![0.0; p.len()], 0.0f64);
    for (place, &index) in order.iter().enumerate() {
        largest = largest.max((p.len() - place) as f64 * p[index]).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    const OPTIONS: Bootstrap = Bootstrap { resamples: 2000, seed: 3 };

    /// Items of which a share `p` is right, drawn anew for each seed.
    fn arm(seeds: &[u64], items: usize, p: f64, draw: u64) -> SeededValues {
        let values = |&seed: &u64| {
            let mut rng = stream(seed, Purpose::Test, draw, 0);
            (0..items).map(|_| f64::from(u8::from(rng.random::<f64>() < p))).collect()
        };
        SeededValues { seeds: seeds.to_vec(), values: seeds.iter().map(values).collect() }
    }

    #[test]
    fn a_real_difference_is_found_and_none_is_not() {
        let base = arm(&[0, 1, 2], 500, 0.6, 0);
        let better = arm(&[0, 1, 2], 500, 0.75, 1);
        let [own, equal, better] = paired_bootstrap(&[base.clone(), base.clone(), better], 0, OPTIONS)[..] else {
            panic!("three arms")
        };
        assert_eq!((own.mean, own.interval, own.p), (0.0, [0.0, 0.0], 1.0));
        assert_eq!((equal.p, equal.paired_seeds), (1.0, true));
        assert!(better.p < 0.01 && better.interval[0] > 0.05 && better.interval[1] < 0.25, "{better:?}");
        // The same accuracy of other items and seeds is no difference.
        let same = arm(&[5, 6], 500, 0.6, 2);
        let chance = paired_bootstrap(&[base, same], 0, OPTIONS)[1];
        assert!(!chance.paired_seeds && chance.p > 0.05, "{chance:?}");
        assert!(chance.interval[0] < 0.0 && chance.interval[1] > 0.0, "{chance:?}");
    }

    #[test]
    fn the_interval_is_that_of_the_paired_differences() {
        // One seed; 40 of 200 items are won, 20 lost: mean 0.1, variance of a difference 0.3 - 0.01.
        let base: Vec<f64> = (0..200).map(|i| f64::from(u8::from(i < 120))).collect();
        let other: Vec<f64> = (0..200).map(|i| f64::from(u8::from((20..160).contains(&i)))).collect();
        let arms = [base, other].map(|values| SeededValues { seeds: vec![0], values: vec![values] });
        let found = paired_bootstrap(&arms, 0, Bootstrap { resamples: 20_000, seed: 1 })[1];
        assert!((found.mean - 0.1).abs() < 1e-12);
        let half = 1.96 * (0.29f64 / 200.0).sqrt();
        assert!((found.interval[0] - (0.1 - half)).abs() < 0.006, "{found:?}");
        assert!((found.interval[1] - (0.1 + half)).abs() < 0.006, "{found:?}");
        // Normal: 2 (1 - Φ(0.1 / 0.0381)) = 0.0087.
        assert!((0.004..0.015).contains(&found.p), "{found:?}");
        // Seen from the other arm, it is the same.
        let turned = paired_bootstrap(&arms, 1, Bootstrap { resamples: 20_000, seed: 1 })[0];
        assert_eq!((turned.mean, turned.p), (-found.mean, found.p));
    }

    #[test]
    fn seeds_that_differ_widen_the_interval() {
        // Every item alike within a seed: images say nothing, seeds everything.
        let arm = |means: [f64; 4]| SeededValues {
            seeds: vec![0, 1, 2, 3],
            values: means.iter().map(|&mean| vec![mean; 50]).collect(),
        };
        let arms = [arm([0.1, 0.2, 0.3, 0.4]), arm([0.2, 0.3, 0.4, 0.5]), arm([0.5, 0.1, 0.5, 0.3])];
        let found = paired_bootstrap(&arms, 0, OPTIONS);
        // The same step up for each seed: as pairs there is no spread at all.
        assert!(found[1].interval.iter().all(|end| (end - 0.1).abs() < 1e-12), "{:?}", found[1]);
        assert!(found[2].interval[0] < 0.0 && found[2].interval[1] > 0.2, "{:?}", found[2]);
        let apart = [arms[0].clone(), SeededValues { seeds: vec![4, 5, 6, 7], ..arms[1].clone() }];
        let apart = paired_bootstrap(&apart, 0, OPTIONS)[1];
        assert!(apart.interval[0] < 0.0 && apart.interval[1] > 0.2, "{apart:?}");
    }

    #[test]
    fn threads_do_not_matter() {
        let arms = [arm(&[0, 1], 301, 0.5, 0), arm(&[0, 1], 301, 0.6, 1), arm(&[7, 8, 9], 301, 0.6, 2)];
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| paired_bootstrap(&arms, 0, OPTIONS))
        };
        assert_eq!(with(1), with(3));
        assert_ne!(with(1), paired_bootstrap(&arms, 0, Bootstrap { seed: 4, ..OPTIONS }));
    }

    #[test]
    fn holm_by_hand() {
        // Ascending 0.01, 0.02, 0.03, 0.6 times 4, 3, 2, 1; the third is not below the second.
        assert_eq!(holm(&[0.03, 0.01, 0.6, 0.02]), [0.06, 0.04, 0.6, 0.06]);
        assert_eq!(holm(&[0.7, 0.9]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}
