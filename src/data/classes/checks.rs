//! Shows what was loaded as a table, and checks it before a long run starts.

use std::path::Path;

use super::ClassDataset;
use crate::base::report::Table;
use crate::base::text::{Shown, plural};
use crate::data::{ImageSource, Sample, broken, duplicates};
use crate::{Error, Result};

/// A warning is given if the largest class has more than this many times the images of the smallest.
pub(in crate::data) const IMBALANCE: usize = 20;

/// Returns the images that are files of their own.
fn of_files(samples: &[Sample]) -> impl Iterator<Item = &Sample> {
    samples.iter().filter(|sample| matches!(sample.image, ImageSource::File(_)))
}

impl ClassDataset {
    /// Returns the table `subset | classes | images | smallest class | largest class` of what was loaded.
    pub fn banner(&self) -> Table {
        let mut table = Table::new(["subset", "classes", "images", "smallest class", "largest class"]);
        for (subset, samples) in [("train", &self.train), ("val", &self.val)] {
            let Some([smallest, largest]) = self.extremes(samples) else { continue };
            let shown = |(name, images): (&str, usize)| format!("{images} ({name})");
            let classes = self.images_by_class(samples).iter().filter(|&&images| images > 0).count();
            table.row([
                subset.to_string(),
                classes.to_string(),
                samples.len().to_string(),
                shown(smallest),
                shown(largest),
            ]);
        }
        table
    }

    /// Counts the images of each class.
    fn images_by_class(&self, samples: &[Sample]) -> Vec<usize> {
        let mut images = vec![0; self.classes.len()];
        samples.iter().for_each(|sample| images[sample.label as usize] += 1);
        images
    }

    /// Returns name and number of images of the smallest and of the largest class that have any; of several equal ones, the first.
    fn extremes(&self, samples: &[Sample]) -> Option<[(&str, usize); 2]> {
        let images = self.images_by_class(samples);
        let classes = || self.classes.iter().map(String::as_str).zip(images.iter().copied()).filter(|&(_, n)| n > 0);
        Some([classes().min_by_key(|&(_, n)| n)?, classes().rev().max_by_key(|&(_, n)| n)?])
    }

    /// Checks whether the data suffice for training with batches of `batch` images.
    ///
    /// # Errors
    /// There is no training image, there are fewer than two classes, or a batch is larger than the training set.
    pub fn check_for_training(&self, batch: usize) -> Result<()> {
        let dataset = self.name.clone();
        let found = self.images_by_class(&self.train).iter().filter(|&&images| images > 0).count();
        match self.train.len() {
            0 => Err(Error::NoImages { subset: "train", dataset }),
            _ if found < 2 => Err(Error::TooFewClasses { dataset, found }),
            images if images < batch => Err(Error::BatchTooLarge { dataset, batch, images }),
            _ => Ok(()),
        }
    }

    /// Checks whether the data suffice for evaluation.
    ///
    /// # Errors
    /// There is no validation image.
    pub fn check_for_evaluation(&self) -> Result<()> {
        if !self.val.is_empty() {
            return Ok(());
        }
        let dataset = self.name.clone();
        match self.images_by_class(&self.train).iter().max() {
            Some(1) => Err(Error::SingleImages { dataset }),
            _ => Err(Error::NoImages { subset: "validation", dataset }),
        }
    }

    /// Adds warnings about what is allowed but usually a mistake.
    pub(super) fn warn_of_oddities(&mut self) {
        if let Some([(small, fewest), (large, most)]) = self.extremes(&self.train)
            && most > IMBALANCE * fewest
        {
            let (large, small) = (large.shown(), small.shown());
            self.warnings.push(format!(
                "the largest class ({large}) has {most} training images, the smallest ({small}) {fewest}: balanced batches \
                 (`sampler.balanced`) draw from each class alike"
            ));
        }
        self.warn_of_copies();
    }

    fn warn_of_copies(&mut self) {
        let samples: Vec<&Sample> = of_files(&self.train).chain(of_files(&self.val)).collect();
        let train = 0..of_files(&self.train).count();
        if train.is_empty() {
            return;
        }
        let files: Vec<&Path> = samples.iter().map(|sample| sample.image.file()).collect();
        let groups = duplicates::Groups::new(&files);
        let mut warnings = Vec::new();
        let mut repeats = groups.copies(&files, train.clone(), train.clone());
        repeats.retain(|&(copy, original)| samples[copy].label != samples[original].label);
        if !repeats.is_empty() {
            warnings.push(format!(
                "{} the same content as one of another class: one of the two classes is wrong ({})",
                plural(repeats.len(), "training image has", "training images have"),
                duplicates::named(&files, &repeats)
            ));
        }
        let copies = groups.copies(&files, train.clone(), train.end..files.len());
        if !copies.is_empty() {
            warnings.push(format!(
                "{} the same content as a training image, so the results include what was memorised ({})",
                plural(copies.len(), "validation image has", "validation images have"),
                duplicates::named(&files, &copies)
            ));
        }
        self.warnings.extend(warnings);
    }

    /// Decodes every image once. Broken ones are an error; with `skip` they are left out with a warning. `each` is called after every
    /// image.
    ///
    /// # Errors
    /// An image is broken, and `skip` is not set.
    pub fn drop_or_refuse_broken(&mut self, skip: bool, each: &(dyn Fn() + Sync)) -> Result<()> {
        for samples in [&mut self.train, &mut self.val] {
            let decode = |sample: &Sample| match &sample.image {
                ImageSource::Packed { .. } => Ok(()),
                file => file.decode(false).map(drop),
            };
            let path = |sample: &Sample| sample.image.file().to_path_buf();
            self.warnings.extend(broken::drop_or_refuse(samples, decode, path, skip, each)?);
        }
        Ok(())
    }
}
