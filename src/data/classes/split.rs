//! Holds validation images out of each class, and checks that both subsets have the same classes.

use std::collections::BTreeSet;

use rand::seq::SliceRandom;

use super::{ClassDataset, ClassOptions, ValidationImages};
use crate::base::rng::{Purpose, stream};
use crate::base::text::{listed, plural};
use crate::data::{DatasetKind, Sample, Subsets};

/// Samples for training and validation, each in their original order.
pub(super) struct Split {
    pub train: Vec<Sample>,
    pub val: Vec<Sample>,
    /// Names classes with too few images to hold one out.
    pub warning: Option<String>,
}

/// Holds out `round(val_share * n)` of the n images of each class, at least one, and leaves at least one for training. A single image of
/// a class is for training. The selection depends on the seed and the order of the samples. Without `val_share`, all images are for
/// validation.
pub(super) fn stratified(samples: Vec<Sample>, classes: &[String], options: &ClassOptions) -> Split {
    let Some(val_share) = options.val_share else {
        return Split { train: Vec::new(), val: samples, warning: None };
    };
    let mut of_class: Vec<Vec<usize>> = vec![Vec::new(); classes.len()];
    for (index, sample) in samples.iter().enumerate() {
        of_class[sample.label as usize].push(index);
    }
    let mut held_out = vec![false; samples.len()];
    let mut single = Vec::new();
    for (label, mut indices) in of_class.into_iter().enumerate() {
        match indices.len() {
            0 => continue,
            1 => single.push(&classes[label]),
            n => {
                indices.shuffle(&mut stream(options.seed, Purpose::Split, 0, label as u64));
                let share = (f64::from(val_share) * n as f64).round() as usize;
                indices[..share.clamp(1, n - 1)].iter().for_each(|&index| held_out[index] = true);
            }
        }
    }
    let warning = (!single.is_empty()).then(|| {
        format!(
            "{} one image, which is used for training and not for validation ({})",
            plural(single.len(), "class has", "classes have"),
            listed(&single)
        )
    });
    let mut split = Split { train: Vec::new(), val: Vec::new(), warning };
    for (sample, held_out) in samples.into_iter().zip(held_out) {
        let subset = if held_out { &mut split.val } else { &mut split.train };
        subset.push(sample);
    }
    if options.subsets == Subsets::Test {
        split.train.clear();
    }
    split
}

/// Returns a data set without images whose label says what is held out: `class-folders (20 % of each class for validation)`.
pub(super) fn dataset(kind: DatasetKind, val_share: Option<f32>) -> ClassDataset {
    let (validation, held_out) = match val_share {
        None => (ValidationImages::All, "all images".to_string()),
        Some(share) => {
            let percent = (f64::from(share) * 1e4).round() / 100.0;
            (ValidationImages::HeldOut, format!("{percent} % of each class for validation"))
        }
    };
    ClassDataset { label: format!("{kind} ({held_out})"), validation, ..ClassDataset::default() }
}

/// Returns a warning about classes without validation images.
///
/// # Errors
/// The reason: a class has validation images but no training image.
pub(super) fn agree(train: &BTreeSet<&str>, val: &BTreeSet<&str>) -> Result<Option<String>, String> {
    let untrained: Vec<&&str> = val.difference(train).collect();
    if !untrained.is_empty() {
        return Err(format!(
            "{} validation images but none for training ({}): names must be the same in both",
            plural(untrained.len(), "class has", "classes have"),
            listed(&untrained)
        ));
    }
    let missing: Vec<&&str> = train.difference(val).collect();
    Ok((!missing.is_empty()).then(|| {
        let classes = plural(missing.len(), "class has", "classes have");
        format!("{classes} no validation images ({})", listed(&missing))
    }))
}
