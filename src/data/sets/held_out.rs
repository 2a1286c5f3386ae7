//! Training identities as query and gallery, so that nothing is chosen on the test of a data set.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::{IndexedRandom, SliceRandom};

use crate::base::rng::{Purpose, stream};
use crate::base::text::{listed, plural};
use crate::data::SameCamera;
use crate::data::dataset::{Dataset, ImageRecord, Protocol};
use crate::{Error, Result};

/// An identity that means "nobody" in a gallery.
const DISTRACTOR: i64 = 0;

/// Draws `ids` of the training identities of `dataset`, as in its protocol. Their images are the gallery, from which queries are drawn
/// ([`draw_test`]); in the single-shot protocol, all of their images are both. The data set's own query and gallery are dropped. The draw
/// depends on `seed` and on the identities and images.
///
/// Identity 0 is never held out, because in a gallery it matches no query.
///
/// # Errors
/// [`Error::Setting`]: there are not more than `ids` identities, or none of those held out can be searched for.
pub(super) fn measure_on(dataset: &mut Dataset, ids: usize, seed: u64) -> Result<()> {
    let refuse =
        |reason: String| Err(Error::Setting { setting: "`data.val_ids`".into(), value: ids.to_string(), reason });
    let mut pids = dataset.train_pids();
    let found = pids.len();
    pids.retain(|&pid| pid != DISTRACTOR);
    if ids >= found || ids > pids.len() {
        let identities = plural(found, "training identity", "training identities");
        return refuse(format!(
            "{} has {identities}, of which some must be left to train on: choose fewer",
            dataset.name
        ));
    }
    pids.shuffle(&mut stream(seed, Purpose::HeldOutIds, 0, 0));
    let held_out: BTreeSet<i64> = pids[..ids].iter().copied().collect();
    dataset.whole = Some(dataset.counts());
    let (test, train): (Vec<_>, Vec<_>) =
        std::mem::take(&mut dataset.train).into_iter().partition(|record| held_out.contains(&record.pid));
    dataset.train = train;
    let same_camera = match dataset.protocol {
        Protocol::SingleGalleryShot | Protocol::RandomGallery => None,
        Protocol::CrossCamera => Some(SameCamera::Drop),
        Protocol::AnyCamera => Some(SameCamera::Keep),
    };
    (dataset.query, dataset.gallery) = match same_camera {
        None => (test.clone(), test),
        Some(same_camera) => {
            let Drawn { query, gallery, alone } = draw_test(test, same_camera, seed);
            let why = same_camera.alone();
            if query.is_empty() {
                let way_out = same_camera.way_out();
                let place = &dataset.name;
                return refuse(format!(
                    "each of the held-out identities of {place} has {why}, so none can be searched for{way_out}"
                ));
            }
            if !alone.is_empty() {
                dataset.warnings.push(format!(
                    "{} {why}, so no image of them is searched for ({})",
                    plural(alone.len(), "held-out identity has", "held-out identities have"),
                    listed(dataset.names.of_ids(&alone))
                ));
            }
            (query, gallery)
        }
    };
    let identities = plural(ids, "training identity", "training identities");
    dataset.label = format!("{} ({identities} held out for validation, seed {seed})", dataset.label);
    Ok(())
}

/// Queries and gallery of a test whose images are not divided.
pub(super) struct Drawn {
    pub query: Vec<ImageRecord>,
    pub gallery: Vec<ImageRecord>,
    /// Identities without a query, because they have no match for one. Their images are only there to be mistaken for others.
    pub alone: Vec<i64>,
}

/// Draws queries from the images of a test; `seed` and the images decide. With [`SameCamera::Drop`], a query is one image of each identity and
/// camera, and all images are the gallery. With [`SameCamera::Keep`], it is one image of each identity, and the gallery is the rest.
pub(super) fn draw_test(images: Vec<ImageRecord>, same_camera: SameCamera, seed: u64) -> Drawn {
    let mut by_id: BTreeMap<i64, BTreeMap<i64, Vec<usize>>> = BTreeMap::new();
    for (index, record) in images.iter().enumerate() {
        let group = if same_camera == SameCamera::Drop { record.camid } else { 0 };
        by_id.entry(record.pid).or_default().entry(group).or_default().push(index);
    }
    let is_alone = |groups: &BTreeMap<i64, Vec<usize>>| match same_camera {
        SameCamera::Drop => groups.len() == 1,
        SameCamera::Keep => groups.values().all(|images| images.len() == 1),
    };
    let mut chosen = BTreeSet::new();
    for (pid, groups) in by_id.iter().filter(|(_, groups)| !is_alone(groups)) {
        let mut rng = stream(seed, Purpose::HeldOutIds, 1, *pid as u64);
        chosen.extend(groups.values().map(|group| *group.choose(&mut rng).expect("a group that is here has images")));
    }
    let alone = by_id.iter().filter(|(_, groups)| is_alone(groups)).map(|(pid, _)| *pid).collect();
    let query = chosen.iter().map(|&index| images[index].clone()).collect();
    let is_in_gallery = |index: &usize| same_camera == SameCamera::Drop || !chosen.contains(index);
    let gallery = images.into_iter().enumerate().filter(|(index, _)| is_in_gallery(index)).map(|(_, record)| record);
    Drawn { query, gallery: gallery.collect(), alone }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DatasetKind;

    /// Returns 12 identities from 1 on, with two images of each of two cameras; the first has one camera.
    fn dataset() -> Dataset {
        let record = |pid: i64, camid: i64, shot: i64| ImageRecord {
            path: format!("{pid}_c{camid}_{shot}.jpg").into(),
            pid,
            camid,
        };
        let of_camera = |pid, camid| [record(pid, camid, 1), record(pid, camid, 2)];
        let mut train: Vec<ImageRecord> = (1..=12).flat_map(|pid| of_camera(pid, 1)).collect();
        train.extend((2..=12).flat_map(|pid| of_camera(pid, 4)));
        let test = vec![record(99, 1, 1), record(99, 2, 1)];
        Dataset {
            name: "there".into(),
            label: "auto".into(),
            train,
            query: test.clone(),
            gallery: test,
            ..Dataset::default()
        }
    }

    fn pids(records: &[ImageRecord]) -> BTreeSet<i64> {
        records.iter().map(|record| record.pid).collect()
    }

    #[test]
    fn held_out_identities_are_measured_and_not_trained() {
        let mut held_out = dataset();
        measure_on(&mut held_out, 5, 3).unwrap();
        let (train, gallery) = (pids(&held_out.train), pids(&held_out.gallery));
        assert_eq!((train.len(), gallery.len()), (7, 5));
        assert!(train.is_disjoint(&gallery) && !gallery.contains(&99));
        assert_eq!(held_out.train.len() + held_out.gallery.len(), dataset().train.len());
        let with_two: BTreeSet<i64> = gallery.iter().copied().filter(|&pid| pid != 1).collect();
        assert_eq!(pids(&held_out.query), with_two);
        assert_eq!(held_out.query.len(), 2 * with_two.len(), "a query for each camera");
        assert!(held_out.query.iter().all(|query| held_out.gallery.contains(query)));
        assert_eq!(held_out.label, "auto (5 training identities held out for validation, seed 3)");

        let mut again = dataset();
        measure_on(&mut again, 5, 3).unwrap();
        assert_eq!((again.query, again.gallery), (held_out.query, held_out.gallery.clone()));
        let others = (4..9).filter(|&seed| {
            let mut other = dataset();
            measure_on(&mut other, 5, seed).unwrap();
            pids(&other.gallery) != gallery
        });
        assert!(others.count() >= 4);
    }

    #[test]
    fn identities_of_one_camera_are_in_the_gallery_alone() {
        let mut held_out = dataset();
        measure_on(&mut held_out, 11, 0).unwrap();
        let alone = pids(&held_out.gallery).contains(&1);
        assert_eq!(held_out.warnings.iter().any(|text| text.contains("one camera") && text.ends_with("(1)")), alone);
        let mut one_camera = dataset();
        one_camera.train.retain(|record| record.camid == 1);
        let error = measure_on(&mut one_camera, 3, 0).unwrap_err().to_string();
        let reason = "each of the held-out identities of there has images of one camera, so none can be searched for: for data of one camera";
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn where_every_camera_counts_a_query_is_not_in_the_gallery() {
        let mut held_out = Dataset { protocol: Protocol::AnyCamera, ..dataset() };
        held_out.train.retain(|record| record.pid > 2 || record.path.ends_with("1_c1_1.jpg") || record.pid == 2);
        measure_on(&mut held_out, 11, 0).unwrap();
        let (queries, gallery) = (pids(&held_out.query), pids(&held_out.gallery));
        let alone = usize::from(gallery.contains(&1));
        assert_eq!((held_out.query.len(), queries.len(), gallery.len()), (11 - alone, 11 - alone, 11));
        assert!(held_out.query.iter().all(|query| !held_out.gallery.contains(query)));
        assert_eq!(
            held_out.warnings.iter().any(|text| text.contains("has one image, so") && text.ends_with("(1)")),
            alone == 1
        );
    }

    #[test]
    fn too_many_are_refused_and_identity_0_stays() {
        let error = measure_on(&mut dataset(), 12, 0).unwrap_err().to_string();
        assert_eq!(
            error,
            "`data.val_ids` = 12: there has 12 training identities, of which some must be left to train on: choose fewer"
        );
        let mut with_zero = dataset();
        with_zero.train.iter_mut().for_each(|record| record.pid -= 1);
        measure_on(&mut with_zero, 11, 0).unwrap();
        assert_eq!(pids(&with_zero.train), [0].into());
    }

    #[test]
    fn counts_are_those_of_the_whole_data_set() {
        let mut held_out = Dataset { kind: DatasetKind::Market1501, ..dataset() };
        let before = held_out.verdict();
        measure_on(&mut held_out, 5, 3).unwrap();
        assert_eq!(held_out.verdict(), before);
    }

    #[test]
    fn the_single_shot_protocol_searches_for_every_image() {
        let mut held_out = Dataset { protocol: Protocol::SingleGalleryShot, ..dataset() };
        measure_on(&mut held_out, 4, 0).unwrap();
        assert_eq!(held_out.query, held_out.gallery);
    }
}
