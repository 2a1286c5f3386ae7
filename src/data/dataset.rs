//! A re-identification data set, and the checks that come before long work.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DatasetKind, ImageSource, Sample, broken, decode, duplicates};
use crate::base::report::Table;
use crate::base::text::{Shown, listed, plural};
use crate::{Error, Result};

/// One image: who, and by which camera.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    pub path: PathBuf,
    /// Identity; in a gallery 0 is a distractor.
    pub pid: i64,
    /// Camera as in the file name.
    pub camid: i64,
}

/// How a data set asks to be evaluated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// All gallery images count but those of the query's own identity and camera.
    #[default]
    CrossCamera,
    /// Classic CUHK03: the gallery is one random image of each identity, drawn ten times; the CMC is averaged, mAP is not
    /// reported.
    SingleGalleryShot,
}

/// Training images, queries and gallery.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    /// The folder as it was named, safe to show.
    pub name: String,
    /// The folder as it was named.
    pub root: PathBuf,
    /// The data set that was named or recognised.
    pub kind: DatasetKind,
    /// Which of its training lists are used, such as `train+val`; empty where there is no choice.
    pub variant: &'static str,
    /// What results on it should say, for example `msmt17 (V1, train+val)`.
    pub label: String,
    pub protocol: Protocol,
    /// Empty where only the test images were asked for.
    pub train: Vec<ImageRecord>,
    pub query: Vec<ImageRecord>,
    pub gallery: Vec<ImageRecord>,
    /// What looked odd while loading, one sentence each.
    pub warnings: Vec<String>,
}

impl Dataset {
    /// `records` as the loader takes them, labelled with the rank of their identity among them.
    pub fn samples(records: &[ImageRecord]) -> Arc<[Sample]> {
        let mut pids: Vec<i64> = records.iter().map(|r| r.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let label = |pid: i64| pids.binary_search(&pid).expect("collected above") as u32;
        let sample = |r: &ImageRecord| Sample { image: ImageSource::File(r.path.clone()), label: label(r.pid) };
        records.iter().map(sample).collect()
    }

    /// Training identities in ascending order: the position is the class label.
    pub fn train_pids(&self) -> Vec<i64> {
        let pids: BTreeSet<i64> = self.train.iter().map(|r| r.pid).collect();
        pids.into_iter().collect()
    }

    /// Number of training identities.
    pub fn train_classes(&self) -> usize {
        self.train_pids().len()
    }

    /// The table `subset | ids | images | cameras` of what was loaded.
    pub fn banner(&self) -> Table {
        let mut table = Table::new(["subset", "ids", "images", "cameras"]);
        let subsets = [("train", &self.train), ("query", &self.query), ("gallery", &self.gallery)];
        for (name, records) in subsets.into_iter().filter(|(_, records)| !records.is_empty()) {
            let count = |of: fn(&ImageRecord) -> i64| records.iter().map(of).collect::<BTreeSet<_>>().len().to_string();
            table.row([name.to_string(), count(|r| r.pid), records.len().to_string(), count(|r| r.camid)]);
        }
        table
    }

    /// Checks what training with batches of `ids` identities needs.
    ///
    /// # Errors
    /// No training image, or fewer identities than P.
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

    /// Checks what evaluation needs.
    ///
    /// # Errors
    /// No query or gallery image, or no query with a match from another camera.
    pub fn check_for_evaluation(&self) -> Result<()> {
        for (subset, records) in [("query", &self.query), ("gallery", &self.gallery)] {
            if records.is_empty() {
                return Err(Error::NoImages { subset, dataset: self.name.clone() });
            }
        }
        if self.queries_without_match().len() == self.query.len() {
            return Err(Error::NoCrossCameraMatch { dataset: self.name.clone(), queries: self.query.len() });
        }
        Ok(())
    }

    /// Queries whose identity no other camera of the gallery has seen.
    pub fn queries_without_match(&self) -> Vec<&ImageRecord> {
        let mut cameras: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
        for record in &self.gallery {
            cameras.entry(record.pid).or_default().insert(record.camid);
        }
        let matched = |q: &ImageRecord| cameras.get(&q.pid).is_some_and(|seen| seen.iter().any(|&c| c != q.camid));
        self.query.iter().filter(|q| !matched(q)).collect()
    }

    /// Adds warnings about what is legal but seldom meant.
    pub(super) fn warn_of_oddities(&mut self) {
        let mut images: BTreeMap<i64, usize> = BTreeMap::new();
        self.train.iter().for_each(|r| *images.entry(r.pid).or_default() += 1);
        let single: Vec<i64> = images.iter().filter(|(_, n)| **n == 1).map(|(pid, _)| *pid).collect();
        if !single.is_empty() {
            let list = listed(&single);
            self.warnings.push(format!(
                "{} one image: their positives are copies of it ({list})",
                plural(single.len(), "training identity has", "training identities have")
            ));
        }
        let train: BTreeSet<i64> = self.train.iter().map(|r| r.pid).collect();
        let test: BTreeSet<i64> = self.query.iter().chain(&self.gallery).map(|r| r.pid).filter(|&p| p != 0).collect();
        let both: Vec<&i64> = train.intersection(&test).collect();
        if !both.is_empty() {
            let mut text = String::new();
            let _ = write!(
                text,
                "{} in the training and in the test set ({})",
                plural(both.len(), "identity stands", "identities stand"),
                listed(&both)
            );
            self.warnings.push(text);
        }
        let lost = self.queries_without_match();
        if !lost.is_empty() && !self.query.is_empty() {
            let share = 100.0 * lost.len() as f64 / self.query.len() as f64;
            let list = listed(lost.iter().map(|r| r.path.shown()));
            self.warnings.push(format!(
                "{} no match from another camera and so no part in the figures: {share:.1} % of all ({list})",
                plural(lost.len(), "query has", "queries have")
            ));
        }
        self.warn_of_copies();
    }

    /// Warns of files that stand in several subsets under different names.
    fn warn_of_copies(&mut self) {
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
                "{} the content of one of another identity: one of the two identities is wrong ({})",
                plural(repeats.len(), "training image has", "training images have"),
                duplicates::named(&files, &repeats)
            ));
        }
        for (name, test) in [("query", &query), ("gallery", &gallery)] {
            let copies = groups.copies(&files, train.clone(), test.clone());
            if !copies.is_empty() {
                warnings.push(format!(
                    "{} the content of a training image, which measures what was learned by heart ({})",
                    plural(copies.len(), &format!("{name} image has"), &format!("{name} images have")),
                    duplicates::named(&files, &copies)
                ));
            }
        }
        let mut copies = groups.copies(&files, query, gallery);
        // Of the query's own identity and camera they do not count, which is why some data sets have them.
        copies.retain(|&(copy, original)| {
            let (copy, original) = (records[copy], records[original]);
            (copy.pid, copy.camid) != (original.pid, original.camid)
        });
        if !copies.is_empty() {
            warnings.push(format!(
                "{} the content of a query but another identity or camera, which is found without any skill ({})",
                plural(copies.len(), "gallery image has", "gallery images have"),
                duplicates::named(&files, &copies)
            ));
        }
        self.warnings.extend(warnings);
    }

    /// Decodes every image once; broken ones are an error, or with `skip` left out with a warning. `each` is called after
    /// every image.
    ///
    /// # Errors
    /// A broken image.
    pub fn drop_or_refuse_broken(&mut self, skip: bool, each: &(dyn Fn() + Sync)) -> Result<()> {
        for records in [&mut self.train, &mut self.query, &mut self.gallery] {
            let decoded = |record: &ImageRecord| decode(&record.path, false).map(drop);
            let warning = broken::drop_or_refuse(records, decoded, |record| record.path.clone(), skip, each)?;
            self.warnings.extend(warning);
        }
        Ok(())
    }
}
