//! The protocol of VehicleID (Liu et al., CVPR 2016): the gallery is one random image of each identity, the same for all queries, which are
//! all other images. The draw is repeated ten times.

use std::collections::{BTreeMap, HashSet};

use rand::RngExt;

use super::single_shot::{Draws, REPEATS, comes_before};
use super::{Labels, RankingOptions};
use crate::base::rng::{Purpose, stream};
use crate::eval::products::Row;

/// Galleries that were drawn from the images of a test.
pub(super) struct Galleries {
    /// The images of each gallery, in the order of their identities.
    drawn: [Vec<usize>; REPEATS],
    /// The same as sets.
    members: [HashSet<usize>; REPEATS],
}

impl Galleries {
    /// Draws from all images; they depend on `seed` and the repeat.
    pub(super) fn new(images: Labels, seed: u64) -> Galleries {
        let mut of_identity: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        images.pids.iter().enumerate().for_each(|(image, pid)| of_identity.entry(*pid).or_default().push(image));
        let drawn: [Vec<usize>; REPEATS] = std::array::from_fn(|repeat| {
            let mut rng = stream(seed, Purpose::SingleShot, repeat as u64, 0);
            of_identity.values().map(|images| images[rng.random_range(0..images.len())]).collect()
        });
        let members = drawn.each_ref().map(|gallery| gallery.iter().copied().collect());
        Galleries { drawn, members }
    }

    /// Ranks query number `query`, an image of identity `pid`, in each gallery that it is not in. Returns `None` if it is in all.
    pub(super) fn rank(
        &self,
        row: Row,
        query: usize,
        pid: i64,
        images: Labels,
        options: &RankingOptions,
    ) -> Option<Draws> {
        let of_repeat = |repeat: usize| {
            if self.members[repeat].contains(&query) {
                return None;
            }
            let gallery = &self.drawn[repeat];
            let own = gallery.iter().copied().find(|&g| images.pids[g] == pid).expect("each identity has an image");
            let mut exact = None;
            let before = |&&g: &&usize| g != own && comes_before(row, g, own, &mut exact, options.pessimistic_ties);
            Some(gallery.iter().filter(before).count() as u32)
        };
        let draws: Draws = std::array::from_fn(of_repeat);
        draws.iter().any(Option::is_some).then_some(draws)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RankingReport, evaluate_distances};
    use super::*;
    use crate::Error;
    use crate::data::Protocol;

    /// Ranks images at places on a line against each other.
    fn report(places: &[f32], pids: &[i64], seed: u64) -> crate::Result<RankingReport> {
        let distances: Vec<f32> = places.iter().flat_map(|a| places.iter().map(move |b| (a - b).abs())).collect();
        let camids: Vec<i64> = (0..pids.len() as i64).collect();
        let labels = Labels { pids, camids: &camids };
        let options =
            RankingOptions { protocol: Protocol::RandomGallery, max_rank: 3, seed, ..RankingOptions::default() };
        evaluate_distances(&distances, labels, labels, &options)
    }

    #[test]
    fn queries_are_the_images_that_were_not_drawn() {
        // Two images of each of three identities, close to each other.
        let places = [0.0, 0.1, 1.0, 1.1, 2.0, 2.1];
        let pids = [1, 1, 2, 2, 3, 3];
        let of_places = report(&places, &pids, 0).unwrap();
        assert_eq!((of_places.map, &of_places.cmc[..]), (1.0, &[1.0, 1.0, 1.0][..]));
        // Each draw has three queries, which are never in the gallery: the two images of an identity are far apart here, so none finds its own
        // first, as it would if it were there.
        let far = [0.0, 2.1, 1.0, 0.1, 2.0, 1.1];
        let galleries = Galleries::new(Labels { pids: &pids, camids: &[0; 6] }, 0);
        assert!(galleries.drawn.iter().all(|gallery| gallery.len() == 3));
        let report = report(&far, &pids, 0).unwrap();
        assert!(report.cmc[0] < 0.5, "{:?}", report.cmc);
        assert!(report.minp.is_nan() && report.per_query.is_empty());
        let table = report.to_string();
        assert!(
            table.contains("mAP (1 / rank") && !table.contains("mINP") && table.contains("mean of 10 draws"),
            "{table}"
        );
    }

    #[test]
    fn figures_are_means_over_draws() {
        // Identity 2 has one image, which is always in the gallery, between the two of identity 1.
        let shares: Vec<(f64, f64)> = (0..100)
            .map(|seed| report(&[0.0, 1.0, 0.4], &[1, 1, 2], seed).unwrap())
            .map(|report| {
                assert_eq!((report.valid_queries, report.skipped_queries, report.cmc[1]), (2, 1, 1.0));
                (report.cmc[0], report.map)
            })
            .collect();
        assert!(shares.iter().all(|&share| share == (0.0, 0.5)));
        // On one side of them, it is nearer to one of the two only.
        let shares: Vec<f64> =
            (0..200).map(|seed| report(&[0.0, 1.0, 1.5], &[1, 1, 2], seed).unwrap().cmc[0]).collect();
        let mean = shares.iter().sum::<f64>() / 200.0;
        assert!((mean - 0.5).abs() < 0.05 && shares.iter().any(|share| *share != shares[0]), "{mean}");
    }

    #[test]
    fn identities_of_one_image_alone_have_no_query() {
        let error = report(&[0.0, 1.0], &[1, 2], 0).unwrap_err();
        assert!(matches!(error, Error::NoValidQuery { queries: 2 }));
    }
}
