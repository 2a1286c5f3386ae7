//! A re-identification data set, and its checks before a long run starts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::{DatasetKind, ImageSource, SameCamera, Sample, broken, decode, duplicates};
use crate::base::report::Table;
use crate::base::text::{Shown, listed, plural};
use crate::{Error, Result};

/// An image with its identity and camera. A reader returns records in the order of the bytes of their paths, and leaves out what the
/// data set marks as junk (such as identity -1 of Market-1501).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// File of the image.
    pub path: PathBuf,
    /// Identity, at least 0. In a gallery, 0 is a distractor: it matches no query.
    pub pid: i64,
    /// Number of the camera. In the cross-camera protocol, images of the query's identity by the query's camera do not count.
    pub camid: i64,
}

/// The evaluation protocol of a data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// The gallery is all images but those of the query's identity by its camera.
    #[default]
    CrossCamera,
    /// Classic CUHK03: the gallery is one random image of each identity, drawn ten times. The CMC is the mean over the draws; there is
    /// no mAP.
    SingleGalleryShot,
    /// VehicleID: the gallery is one random image of each identity, drawn ten times, and the queries are all other images. CMC and mAP are means
    /// over the draws.
    RandomGallery,
    /// The gallery is all images, whatever their cameras; no query is among them.
    AnyCamera,
}

impl Protocol {
    /// Returns whether galleries are drawn from images that are also the queries. Then there are no metrics of single queries.
    pub fn draws_galleries(self) -> bool {
        matches!(self, Protocol::SingleGalleryShot | Protocol::RandomGallery)
    }
}

/// Texts of identities and cameras that have other numbers than these, or that are no numbers.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// By the number of the identity.
    pub ids: BTreeMap<i64, String>,
    /// By the number of the camera.
    pub cameras: BTreeMap<i64, String>,
}

impl Names {
    /// Returns identities as the user wrote them.
    pub(super) fn of_ids(&self, pids: &[i64]) -> Vec<String> {
        pids.iter()
            .map(|pid| self.ids.get(pid).map_or_else(|| pid.to_string(), |name| name.shown().to_string()))
            .collect()
    }
}

/// Training images, queries and gallery.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    /// The folder as the user wrote it, with control characters escaped.
    pub name: String,
    /// The folder as the user wrote it.
    pub root: PathBuf,
    /// The data set that the user named or that was recognised.
    pub kind: DatasetKind,
    /// Which of its training lists are used, such as `train+val`; empty where there is no choice.
    pub variant: &'static str,
    /// Name of the data set in results, for example `msmt17 (V1, train+val)`.
    pub label: String,
    /// How the data set is evaluated.
    pub protocol: Protocol,
    /// Training images; empty if only the test images were loaded.
    pub train: Vec<ImageRecord>,
    /// Query images: each is searched for in the gallery.
    pub query: Vec<ImageRecord>,
    /// Gallery images, distractors among them.
    pub gallery: Vec<ImageRecord>,
    /// Warnings from loading, one sentence each.
    pub warnings: Vec<String>,
    /// Whether nothing in the data set says which images are for training and which for the test.
    pub has_no_split: bool,
    /// Texts of identities and cameras.
    pub names: Names,
    /// What [`Dataset::counts`] returned before identities were held out, if any were.
    pub whole: Option<[(usize, usize); 3]>,
}

impl Dataset {
    /// Converts records to samples for the loader. The label of a sample is the position of its identity among the sorted identities of
    /// the records.
    pub fn samples(records: &[ImageRecord]) -> Arc<[Sample]> {
        let mut pids: Vec<i64> = records.iter().map(|r| r.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let label = |pid: i64| pids.binary_search(&pid).expect("collected above") as u32;
        let sample = |r: &ImageRecord| Sample { image: ImageSource::File(r.path.clone()), label: label(r.pid) };
        records.iter().map(sample).collect()
    }

    /// Returns the training identities in ascending order; their positions are the class labels.
    pub fn train_pids(&self) -> Vec<i64> {
        let pids: BTreeSet<i64> = self.train.iter().map(|r| r.pid).collect();
        pids.into_iter().collect()
    }

    /// Returns the number of training identities.
    pub fn train_classes(&self) -> usize {
        self.train_pids().len()
    }

    /// Returns the numbers of identities and images of training, query and gallery.
    pub fn counts(&self) -> [(usize, usize); 3] {
        let ids = |records: &[ImageRecord]| records.iter().map(|r| r.pid).collect::<BTreeSet<_>>().len();
        [&self.train, &self.query, &self.gallery].map(|records| (ids(records), records.len()))
    }

    /// Returns the table `subset | ids | images | cameras` of what was loaded.
    pub fn banner(&self) -> Table {
        let mut table = Table::new(["subset", "ids", "images", "cameras"]);
        let subsets = [("train", &self.train), ("query", &self.query), ("gallery", &self.gallery)];
        for (name, records) in subsets.into_iter().filter(|(_, records)| !records.is_empty()) {
            let count = |of: fn(&ImageRecord) -> i64| records.iter().map(of).collect::<BTreeSet<_>>().len().to_string();
            // Without cameras, they are numbers of images.
            let cameras = if self.protocol == Protocol::RandomGallery { "-".into() } else { count(|r| r.camid) };
            table.row([name.to_string(), count(|r| r.pid), records.len().to_string(), cameras]);
        }
        table
    }

    /// Checks whether the data suffice for training with batches of `ids` identities.
    ///
    /// # Errors
    /// There is no training image, or there are fewer than `ids` identities.
    pub fn check_for_training(&self, ids: usize) -> Result<()> {
        if self.train.is_empty() {
            return Err(Error::NoImages { subset: "train", dataset: self.name.clone() });
        }
        let found = self.train_classes();
        if found < ids {
            return Err(Error::TooFewIdentities { dataset: self.name.clone(), found, needed: ids });
        }
        Ok(())
    }

    /// Checks whether the data suffice for evaluation.
    ///
    /// # Errors
    /// There is no query, no gallery image, or no query with a match that counts.
    pub fn check_for_evaluation(&self) -> Result<()> {
        let of_user = matches!(self.kind, DatasetKind::Csv | DatasetKind::IdFolders);
        if of_user && self.query.is_empty() && self.gallery.is_empty() {
            return Err(Error::NoTest { dataset: self.name.clone() });
        }
        for (subset, records) in [("query", &self.query), ("gallery", &self.gallery)] {
            if records.is_empty() {
                return Err(Error::NoImages { subset, dataset: self.name.clone() });
            }
        }
        if self.queries_without_match().len() == self.query.len() {
            let (dataset, queries) = (self.name.clone(), self.query.len());
            return Err(match self.protocol {
                Protocol::AnyCamera => Error::NoMatch { dataset, queries },
                _ => Error::NoCrossCameraMatch { dataset, queries },
            });
        }
        Ok(())
    }

    /// Returns the queries of whose identity the gallery has no image that counts.
    pub(crate) fn queries_without_match(&self) -> Vec<&ImageRecord> {
        let mut cameras: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
        for record in &self.gallery {
            cameras.entry(record.pid).or_default().insert(record.camid);
        }
        let counts = |q: &ImageRecord, camid| self.protocol == Protocol::AnyCamera || camid != q.camid;
        let matched = |q: &ImageRecord| cameras.get(&q.pid).is_some_and(|seen| seen.iter().any(|&c| counts(q, c)));
        self.query.iter().filter(|q| !matched(q)).collect()
    }

    /// Adds warnings about what is allowed but usually a mistake.
    ///
    /// # Errors
    /// Where all images count, a query is in the gallery under another name.
    pub(super) fn warn_of_oddities(&mut self) -> Result<()> {
        let mut images: BTreeMap<i64, usize> = BTreeMap::new();
        self.train.iter().for_each(|r| *images.entry(r.pid).or_default() += 1);
        let single: Vec<i64> = images.iter().filter(|(_, n)| **n == 1).map(|(pid, _)| *pid).collect();
        if !single.is_empty() {
            let list = listed(self.names.of_ids(&single));
            self.warnings.push(format!(
                "{} one image, so positive pairs are copies of it ({list})",
                plural(single.len(), "training identity has", "training identities have")
            ));
        }
        let train: BTreeSet<i64> = self.train.iter().map(|r| r.pid).collect();
        let test: BTreeSet<i64> = self.query.iter().chain(&self.gallery).map(|r| r.pid).filter(|&p| p != 0).collect();
        let both: Vec<i64> = train.intersection(&test).copied().collect();
        if !both.is_empty() {
            let mut text = String::new();
            let _ = write!(
                text,
                "{} in the training and in the test set ({})",
                plural(both.len(), "identity is", "identities are"),
                listed(self.names.of_ids(&both))
            );
            self.warnings.push(text);
        }
        let lost = self.queries_without_match();
        if !lost.is_empty() && !self.query.is_empty() {
            let share = 100.0 * lost.len() as f64 / self.query.len() as f64;
            let list = listed(lost.iter().map(|r| r.path.shown()));
            let from = if self.protocol == Protocol::AnyCamera { "" } else { " from another camera" };
            self.warnings.push(format!(
                "{}{from}, so the results leave out {share:.1} % of all ({list})",
                plural(lost.len(), "query has no match", "queries have no match")
            ));
        }
        self.warn_of_copies()
    }

    /// Warns of files that are in several subsets under different names.
    fn warn_of_copies(&mut self) -> Result<()> {
        let records: Vec<&ImageRecord> = self.train.iter().chain(&self.query).chain(&self.gallery).collect();
        let files: Vec<&Path> = records.iter().map(|record| record.path.as_path()).collect();
        let (train, query) = (0..self.train.len(), self.train.len()..self.train.len() + self.query.len());
        let gallery = query.end..files.len();
        let groups = duplicates::Groups::new(&files);
        let mut warnings = Vec::new();
        let mut repeats = groups.copies(&files, train.clone(), train.clone());
        repeats.retain(|&(copy, original)| records[copy].pid != records[original].pid);
        if !repeats.is_empty() {
            warnings.push(format!(
                "{} the same content as one of another identity: one of the two identities is wrong ({})",
                plural(repeats.len(), "training image has", "training images have"),
                duplicates::named(&files, &repeats)
            ));
        }
        for (name, test) in [("query", &query), ("gallery", &gallery)] {
            let copies = groups.copies(&files, train.clone(), test.clone());
            if !copies.is_empty() {
                warnings.push(format!(
                    "{} the same content as a training image, so the results include what was memorised ({})",
                    plural(copies.len(), &format!("{name} image has"), &format!("{name} images have")),
                    duplicates::named(&files, &copies)
                ));
            }
        }
        let mut copies = groups.copies(&files, query, gallery);
        if self.protocol == Protocol::AnyCamera && !copies.is_empty() {
            return Err(Error::Setting {
                setting: "`data.same_camera`".into(),
                value: SameCamera::Keep.to_string(),
                reason: format!(
                    "{} the same content as a query, and each such query would find itself ({}): leave them out of the gallery",
                    plural(copies.len(), "gallery image has", "gallery images have"),
                    duplicates::named(&files, &copies)
                ),
            });
        }
        // Copies of the query's own identity and camera do not count, and some data sets have them.
        copies.retain(|&(copy, original)| {
            let (copy, original) = (records[copy], records[original]);
            (copy.pid, copy.camid) != (original.pid, original.camid)
        });
        if !copies.is_empty() {
            warnings.push(format!(
                "{} the same content as a query but another identity or camera, which is trivial to find ({})",
                plural(copies.len(), "gallery image has", "gallery images have"),
                duplicates::named(&files, &copies)
            ));
        }
        self.warnings.extend(warnings);
        Ok(())
    }

    /// Adds a warning about images of the test that are among `train`, the training images of another data set.
    pub(crate) fn warn_of_trained(&mut self, train: &[ImageRecord]) {
        let test: Vec<&Path> = self.query.iter().chain(&self.gallery).map(|record| record.path.as_path()).collect();
        let files: Vec<&Path> = train.iter().map(|record| record.path.as_path()).chain(test.iter().copied()).collect();
        let paths: BTreeSet<&Path> = train.iter().map(|record| record.path.as_path()).collect();
        let copies = duplicates::Groups::new(&files).copies(&files, 0..train.len(), train.len()..files.len());
        let mut known: BTreeSet<&Path> = test.iter().copied().filter(|path| paths.contains(path)).collect();
        known.extend(copies.iter().map(|&(copy, _)| files[copy]));
        if !known.is_empty() {
            let warning = format!(
                "{} as training images, so the results include what was memorised ({})",
                plural(known.len(), "image of the test is the same", "images of the test are the same"),
                listed(known.iter().map(|path| path.shown()))
            );
            self.warnings.push(warning);
        }
    }

    /// Decodes every image once. Broken ones are an error; with `skip` they are left out with a warning. `each` is called after every
    /// image.
    ///
    /// # Errors
    /// An image is broken, and `skip` is not set.
    pub fn drop_or_refuse_broken(&mut self, skip: bool, each: &(dyn Fn() + Sync)) -> Result<()> {
        for records in [&mut self.train, &mut self.query, &mut self.gallery] {
            let decoded = |record: &ImageRecord| decode(&record.path, false).map(drop);
            let warning = broken::drop_or_refuse(records, decoded, |record| record.path.clone(), skip, each)?;
            self.warnings.extend(warning);
        }
        Ok(())
    }
}
