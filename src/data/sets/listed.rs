//! Data sets of users: numbers the identities and cameras that a table, folders or names of files tell, and draws queries where none are
//! named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::base::text::{listed, plural};
use crate::data::dataset::{Dataset, ImageRecord, Names};
use crate::data::folder::by_bytes;
use crate::data::named::unify;
use crate::data::{LoadOptions, Subsets};

use super::held_out::draw_test;

/// What an image is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Train,
    Query,
    Gallery,
    /// Query or gallery, which a draw decides.
    Test,
}

impl Part {
    /// Returns the part that a word means, in upper or lower case.
    ///
    /// # Errors
    /// The reason: it means none.
    pub(super) fn of(word: &str) -> Result<Part, String> {
        match word.to_ascii_lowercase().as_str() {
            "train" | "training" => Ok(Part::Train),
            "query" | "probe" => Ok(Part::Query),
            "gallery" => Ok(Part::Gallery),
            "test" | "testing" => Ok(Part::Test),
            "val" | "valid" | "validation" => Err(format!(
                "its split is {word:?}: choose train, query, gallery or test; `data.val_ids` holds training identities out for validation"
            )),
            _ => Err(format!("its split is {word:?}: choose train, query, gallery or test")),
        }
    }
}

/// An image, with its identity and camera as texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub path: PathBuf,
    pub id: String,
    /// The camera, or the sequence that takes its place; `None` if neither is known.
    pub camera: Option<String>,
    /// `None` if the data set is not divided; then no image has a part.
    pub part: Option<Part>,
}

impl Listed {
    /// Checks the text of an identity.
    ///
    /// # Errors
    /// The reason: it is a negative number.
    pub(super) fn check_id(id: &str) -> Result<(), String> {
        match id.parse::<i128>() {
            Ok(..0) => {
                Err(format!("its id is {id}: negative numbers mean images of nobody in some data sets, leave them out"))
            }
            _ => Ok(()),
        }
    }
}

/// Makes a data set of `images`. Of one that is not divided, all images are for training, or all are test images if only these are asked for.
/// Queries are drawn from the test images, with the seed `options.split`.
pub(super) fn dataset(mut images: Vec<Listed>, label: String, options: &LoadOptions) -> Dataset {
    let has_no_split = images.iter().all(|image| image.part.is_none());
    unify(images.iter_mut().map(|image| &mut image.id));
    unify(images.iter_mut().filter_map(|image| image.camera.as_mut()));
    images.sort_by(|a, b| by_bytes(&a.path, &b.path));
    let (ids, id_names) = numbered(images.iter().map(|image| image.id.as_str()));
    let (cameras, camera_names) = numbered(images.iter().filter_map(|image| image.camera.as_deref()));
    let whole = if options.subsets == Subsets::All { Part::Train } else { Part::Test };
    let mut dataset =
        Dataset { label, has_no_split, names: Names { ids: id_names, cameras: camera_names }, ..Dataset::default() };
    let mut test = Vec::new();
    for image in &images {
        let record = ImageRecord {
            path: image.path.clone(),
            pid: ids[image.id.as_str()],
            camid: image.camera.as_deref().map_or(0, |camera| cameras[camera]),
        };
        match image.part.unwrap_or(whole) {
            Part::Train if options.subsets == Subsets::All => dataset.train.push(record),
            Part::Train => {}
            Part::Query => dataset.query.push(record),
            Part::Gallery => dataset.gallery.push(record),
            Part::Test => test.push(record),
        }
    }
    if !test.is_empty() && options.val_ids == 0 {
        let seed = options.split as u64;
        let drawn = draw_test(test, options.same_camera, seed);
        if !drawn.alone.is_empty() {
            dataset.warnings.push(format!(
                "{} {}, so no image of them is searched for ({})",
                plural(drawn.alone.len(), "test identity has", "test identities have"),
                options.same_camera.alone(),
                listed(dataset.names.of_ids(&drawn.alone))
            ));
        }
        (dataset.query, dataset.gallery) = (drawn.query, drawn.gallery);
        dataset.label = format!("{} (queries drawn, seed {seed})", dataset.label);
    }
    dataset
}

/// Numbers texts. Whole numbers of at least 1 stay as they are, unless two texts mean the same number. Other texts are numbered from 1 on, in
/// the order of their values if all are whole numbers, else of their bytes. Returns the number of each text, and the texts of numbers that are
/// not written like them.
fn numbered<'a>(texts: impl Iterator<Item = &'a str>) -> (BTreeMap<&'a str, i64>, BTreeMap<i64, String>) {
    let texts: BTreeSet<&str> = texts.collect();
    let values: Option<Vec<i64>> = texts.iter().map(|text| text.parse().ok()).collect();
    let numbers: BTreeMap<&str, i64> = match values {
        Some(values) => {
            let distinct = values.iter().collect::<BTreeSet<_>>().len() == values.len();
            if distinct && values.iter().all(|&value| value > 0) {
                texts.into_iter().zip(values).collect()
            } else {
                let mut order: Vec<(i64, &str)> = values.into_iter().zip(texts).collect();
                order.sort_unstable();
                order.into_iter().map(|(_, text)| text).zip(1..).collect()
            }
        }
        None => texts.into_iter().zip(1..).collect(),
    };
    let differs = |(text, number): &(&&str, &i64)| number.to_string() != **text;
    let names = numbers.iter().filter(differs).map(|(text, number)| (*number, (*text).to_string())).collect();
    (numbers, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_texts_are_numbered_in_their_order() {
        let of = |texts: &[&str]| {
            let (numbers, names) = numbered(texts.iter().copied());
            (texts.iter().map(|text| numbers[text]).collect::<Vec<_>>(), names.into_values().collect::<Vec<_>>())
        };
        let none: Vec<String> = Vec::new();
        assert_eq!(of(&["12", "3", "12", "400"]), (vec![12, 3, 12, 400], none.clone()));
        assert_eq!(of(&["0012", "3"]), (vec![12, 3], vec!["0012".to_string()]));
        assert_eq!(of(&["0", "10", "9"]), (vec![1, 3, 2], ["0", "9", "10"].map(String::from).to_vec()));
        assert_eq!(of(&["7", "07", "8"]).0, [2, 1, 3]);
        assert_eq!(of(&["b", "10", "a"]).0, [3, 1, 2]);
        assert_eq!(of(&[]), (Vec::new(), none));
    }
}
