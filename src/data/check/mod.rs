//! What may be wrong with a data set, found before a training: from one decoding of each image, and from its labels.

mod findings;
mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

pub(crate) use look::Look;

use super::{ClassDataset, Dataset, ImageRecord, ImageSource, Protocol, Sample};
use findings::Inspection;

/// An image of a data set.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub image: ImageSource,
    /// `train`, `query`, `gallery` or `val`.
    pub subset: &'static str,
    /// Number of its identity or class.
    pub group: i64,
    /// Number of its camera, where cameras matter.
    pub camera: Option<i64>,
}

impl Item {
    /// Returns whether it is trained.
    fn is_trained(&self) -> bool {
        self.subset == TRAIN
    }
}

/// Name of the subset that is trained.
const TRAIN: &str = "train";

/// Images and their labels, whatever the task.
pub(crate) struct Subject {
    /// Training images first.
    pub items: Vec<Item>,
    /// Names of identities, cameras or classes that are not their numbers.
    groups: BTreeMap<i64, String>,
    cameras: BTreeMap<i64, String>,
    /// What a group is called, one and several.
    words: [&'static str; 2],
    /// Files of queries that nothing in the gallery matches.
    without_match: BTreeSet<PathBuf>,
    /// Whether gallery images by the query's camera count.
    counts_all: bool,
}

/// Numbers of a subset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    pub subset: &'static str,
    pub images: usize,
    /// Identities or classes.
    pub groups: usize,
    /// Cameras; `None` where they do not matter.
    pub cameras: Option<usize>,
    /// Images of the smallest, the middle and the largest identity or class.
    pub images_of_a_group: [usize; 3],
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// A training fails, or its results mean something else than they seem to.
    Problem,
    /// Often a mistake.
    Warning,
    /// Good to know.
    Note,
}

impl Severity {
    /// Returns the word for people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Severity::Problem => "problem",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// Something that was found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    /// A word for programs, such as `unreadable`.
    pub kind: &'static str,
    pub severity: Severity,
    /// A sentence, without the images.
    pub text: String,
    /// The images that it is about, all of them: each case is one image or several that look alike. Indices of [`Subject::items`].
    #[serde(skip)]
    pub cases: Vec<Vec<usize>>,
}

/// Settings of a training that decide what is worth a finding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Height and width of the network's input, pixels.
    pub size: [usize; 2],
    /// Images of an identity in a batch; 0 for classes.
    pub images: usize,
    /// Whether images are turned as their EXIF data say.
    pub upright: bool,
    /// Whether a training leaves out images that cannot be decoded.
    pub skip_broken: bool,
}

impl Subject {
    /// Returns the images of a re-identification data set.
    pub(crate) fn of_identities(dataset: &Dataset) -> Subject {
        let cameras_matter = dataset.protocol != Protocol::RandomGallery;
        // Where galleries are drawn, the queries are the same images.
        let none = Vec::new();
        let query = if dataset.protocol.draws_galleries() { &none } else { &dataset.query };
        let subsets = [(TRAIN, &dataset.train), ("query", query), ("gallery", &dataset.gallery)];
        let item = |subset: &'static str, record: &ImageRecord| Item {
            image: ImageSource::File(record.path.clone()),
            subset,
            group: record.pid,
            camera: cameras_matter.then_some(record.camid),
        };
        let without_match = dataset.queries_without_match().into_iter().map(|record| record.path.clone()).collect();
        let items = subsets.into_iter().flat_map(|(subset, records)| records.iter().map(move |r| item(subset, r)));
        Subject {
            items: items.collect(),
            groups: dataset.names.ids.clone(),
            cameras: dataset.names.cameras.clone(),
            words: ["identity", "identities"],
            without_match,
            counts_all: dataset.protocol == Protocol::AnyCamera,
        }
    }

    /// Returns the images of a data set with classes.
    pub(crate) fn of_classes(dataset: &ClassDataset) -> Subject {
        let item = |subset: &'static str, sample: &Sample| Item {
            image: sample.image.clone(),
            subset,
            group: i64::from(sample.label),
            camera: None,
        };
        let subsets = [(TRAIN, &dataset.train), ("val", &dataset.val)];
        let items = subsets.into_iter().flat_map(|(subset, samples)| samples.iter().map(move |s| item(subset, s)));
        Subject {
            items: items.collect(),
            groups: (0..).zip(dataset.classes.iter().cloned()).collect(),
            cameras: BTreeMap::new(),
            words: ["class", "classes"],
            without_match: BTreeSet::new(),
            counts_all: false,
        }
    }

    /// Decodes every image once, and returns the findings, the worst first, with the looks of the images. `each` is called after every image.
    pub(crate) fn inspect(
        &self,
        wanted: Wanted,
        each: &(dyn Fn() + Sync),
    ) -> (Vec<Finding>, Vec<Result<Look, String>>) {
        let looks = look::looks(&self.items, wanted.upright, each);
        let mut findings = Inspection { subject: self, looks: &looks, wanted }.findings();
        findings.sort_by_key(|finding| finding.severity);
        (findings, looks)
    }

    /// Returns the numbers of each subset that has images.
    pub(crate) fn counts(&self) -> Vec<Counts> {
        let of_subset = |subset: &'static str| {
            let items = || self.items.iter().filter(|item| item.subset == subset);
            let mut groups: BTreeMap<i64, usize> = BTreeMap::new();
            items().for_each(|item| *groups.entry(item.group).or_default() += 1);
            let mut sizes: Vec<usize> = groups.into_values().collect();
            sizes.sort_unstable();
            let cameras: Option<BTreeSet<i64>> = items().map(|item| item.camera).collect();
            let (fewest, most) = (*sizes.first()?, *sizes.last()?);
            Some(Counts {
                subset,
                images: items().count(),
                groups: sizes.len(),
                cameras: cameras.map(|cameras| cameras.len()),
                images_of_a_group: [fewest, sizes[sizes.len() / 2], most],
            })
        };
        [TRAIN, "query", "gallery", "val"].into_iter().filter_map(of_subset).collect()
    }

    /// Returns what several groups are called: `identities` or `classes`.
    pub(crate) fn groups_word(&self) -> &'static str {
        self.words[1]
    }

    /// Returns the name of an identity or class.
    pub(crate) fn group(&self, group: i64) -> String {
        self.groups.get(&group).cloned().unwrap_or_else(|| group.to_string())
    }

    /// Returns the name of a camera.
    pub(crate) fn camera(&self, camera: i64) -> String {
        self.cameras.get(&camera).cloned().unwrap_or_else(|| camera.to_string())
    }
}
