//! Data sets of users: numbers the identities and cameras that a table, folders or names of files tell, and draws queries where none are
//! named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::base::text::{Shown, listed, plural};
use crate::data::dataset::{Dataset, ImageRecord, Names};
use crate::data::folder::by_bytes;
use crate::data::named::{composed, unify};
use crate::data::{LoadOptions, Subsets};
use crate::{Error, Result};

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
    pub(super) fn of(word: &str) -> std::result::Result<Part, String> {
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
    pub(super) fn check_id(id: &str) -> std::result::Result<(), String> {
        match id.parse::<i128>() {
            Ok(..0) => {
                Err(format!("its id is {id}: negative numbers mean images of nobody in some data sets, leave them out"))
            }
            _ => Ok(()),
        }
    }
}

/// Makes a data set of the `images` that `place`, a table or a folder, lists. Of one that is not divided, all images are for training, or all are
/// test images if only these are asked for. Queries are drawn from the test images, with the seed `options.split`.
///
/// # Errors
/// [`Error::NotADataset`]: there are test images beside queries or gallery, identities cannot be told apart, or no query can be drawn.
pub(super) fn dataset(place: &Path, mut images: Vec<Listed>, label: String, options: &LoadOptions) -> Result<Dataset> {
    let refuse = |reason: String| Err(Error::NotADataset { path: place.to_path_buf(), reason });
    let has = |part: Part| images.iter().any(|image| image.part == Some(part));
    if has(Part::Test) && (has(Part::Query) || has(Part::Gallery)) {
        return refuse(
            "it has images of the split test, from which queries are drawn, beside others of the splits query or gallery: name the rest gallery, \
             or all of them test"
                .into(),
        );
    }
    let has_no_split = images.iter().all(|image| image.part.is_none());
    unify(images.iter_mut().map(|image| &mut image.id));
    unify(images.iter_mut().filter_map(|image| image.camera.as_mut()));
    images.sort_by(|a, b| by_bytes(&a.path, &b.path));
    let (ids, id_names) = match numbered(images.iter().map(|image| image.id.as_str()), ID_BITS) {
        Ok(numbers) => numbers,
        Err([one, other]) => {
            return refuse(format!(
                "the identities {} and {} have the same number: {ALIKE}",
                one.shown(),
                other.shown()
            ));
        }
    };
    let (cameras, camera_names) = match numbered(images.iter().filter_map(|image| image.camera.as_deref()), CAMERA_BITS)
    {
        Ok(numbers) => numbers,
        Err([one, other]) => {
            return refuse(format!("the cameras {} and {} have the same number: {ALIKE}", one.shown(), other.shown()));
        }
    };
    let whole = if options.subsets == Subsets::All { Part::Train } else { Part::Test };
    let names = Names { ids: id_names, cameras: camera_names };
    let mut dataset = Dataset { label, has_no_split, names, ..Dataset::default() };
    dataset.warnings.extend(alike_but_for_case(place, ids.keys().copied()));
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
        let why = options.same_camera.alone();
        let drawn = draw_test(test, options.same_camera, seed);
        if drawn.query.is_empty() {
            return refuse(format!(
                "each of its test identities has {why}, so none can be searched for{}",
                options.same_camera.way_out()
            ));
        }
        if !drawn.alone.is_empty() {
            dataset.warnings.push(format!(
                "{} {why}, so no image of them is searched for ({})",
                plural(drawn.alone.len(), "test identity has", "test identities have"),
                listed(dataset.names.of_ids(&drawn.alone))
            ));
        }
        (dataset.query, dataset.gallery) = (drawn.query, drawn.gallery);
        dataset.label = format!("{} (queries drawn, seed {seed})", dataset.label);
    }
    Ok(dataset)
}

/// What to do about two texts with the same number.
const ALIKE: &str = "write the same one alike everywhere, or rename one of the two";
/// Bits of the numbers of identities and of cameras. A number of an identity is exact in f64.
const ID_BITS: u32 = 52;
const CAMERA_BITS: u32 = 31;

/// The numbers of texts, and the texts of those numbers that are computed from them.
type Numbers<'a> = (BTreeMap<&'a str, i64>, BTreeMap<i64, String>);

/// Numbers texts, each by itself, so that a text has the same number in every data set. A whole number of at least 1, perhaps with zeros in
/// front, is its own number. Another text has a number of `bits` bits that is computed from its bytes, in the upper half of their range.
///
/// # Errors
/// Two texts with the same number.
fn numbered<'a>(texts: impl Iterator<Item = &'a str>, bits: u32) -> std::result::Result<Numbers<'a>, [&'a str; 2]> {
    let (mut numbers, mut names, mut taken) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let half = 1i64 << (bits - 1);
    for text in texts.collect::<BTreeSet<_>>() {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<i64>().ok()).flatten();
        let number = plain
            .filter(|number| (1..half).contains(number))
            .unwrap_or_else(|| half + (fnv(text) % half as u64) as i64);
        if number.to_string() != text {
            names.insert(number, text.to_string());
        }
        if let Some(other) = taken.insert(number, text) {
            return Err([other, text]);
        }
        numbers.insert(text, number);
    }
    Ok((numbers, names))
}

/// Returns the 64-bit FNV-1a hash (Fowler, Noll and Vo) of a text in its composed form.
fn fnv(text: &str) -> u64 {
    composed(text)
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Returns a warning about identities that differ only in upper and lower case.
fn alike_but_for_case<'a>(place: &Path, ids: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut forms: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    ids.for_each(|id| forms.entry(id.to_lowercase()).or_default().push(id));
    let alike: Vec<String> = forms.into_values().filter(|ids| ids.len() > 1).map(|ids| ids.join(" and ")).collect();
    (!alike.is_empty()).then(|| {
        format!(
            "{}: {} only in upper and lower case; all count as identities of their own ({})",
            place.shown(),
            plural(alike.len(), "group of identities differs", "groups of identities differ"),
            listed(alike.iter().map(|names| names.shown()))
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_other_texts_have_the_same_number_in_every_data_set() {
        let of = |texts: &[&'static str]| {
            let (numbers, names) = numbered(texts.iter().copied(), ID_BITS).unwrap();
            (texts.iter().map(|text| numbers[text]).collect::<Vec<_>>(), names)
        };
        assert_eq!(of(&["12", "3", "12", "400"]), (vec![12, 3, 12, 400], BTreeMap::new()));
        assert_eq!(of(&["0012", "3"]), (vec![12, 3], [(12, "0012".to_string())].into()));
        let (alone, names) = of(&["fox"]);
        assert!(alone[0] >= 1 << 51 && alone[0] < 1 << 52);
        assert_eq!(names, [(alone[0], "fox".to_string())].into());
        assert_eq!(of(&["elk", "7", "fox", "0"]).0[2], alone[0]);
        // Identity 0 means nobody elsewhere, and a number that is too large has no place.
        assert!(of(&["0", "99999999999999999999", "4503599627370496"]).0.iter().all(|&number| number >= 1 << 51));
        assert_eq!(numbered(["7", "07"].into_iter(), ID_BITS).unwrap_err(), ["07", "7"]);
        assert_eq!(fnv("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv("\u{e9}"), fnv("e\u{301}"));
    }

    #[test]
    fn identities_that_differ_in_case_are_named() {
        let warning = alike_but_for_case(Path::new("x.csv"), ["Rex", "fox", "rex"].into_iter()).unwrap();
        assert!(warning.starts_with(
            "x.csv: 1 group of identities differs only in upper and lower case; all count as identities of their own (Rex and rex)"
        ));
        assert!(alike_but_for_case(Path::new("x.csv"), ["Rex", "fox"].into_iter()).is_none());
    }
}
