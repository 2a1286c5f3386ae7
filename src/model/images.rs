//! Which images a run trains on: one that is resumed with others says so.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use flate2::Crc;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::base::text::plural;
use crate::data::{Sample, middle};

/// The training images of a run, as its record holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingImages {
    pub count: usize,
    /// CRC-32 of the sorted list of their names below the data set's folder, their labels, and size and middle of their files.
    pub crc32: u32,
}

impl TrainingImages {
    /// Sums up `samples`, whose names count from the folder `root` on. A file without a size is reported where it is read.
    pub fn new(samples: &[Sample], root: &Path) -> TrainingImages {
        let files: HashSet<&Path> = samples.iter().map(|sample| sample.image.file()).collect();
        let files: HashMap<&Path, (u64, u32)> = files.into_par_iter().map(|path| (path, fingerprint(path))).collect();
        let line = |Sample { image, label }: &Sample| (image.below(root), *label, files[image.file()]);
        let mut list: Vec<(String, u32, (u64, u32))> = samples.iter().map(line).collect();
        list.sort_unstable();
        let mut crc = Crc::new();
        for (name, label, (size, middle)) in &list {
            crc.update(format!("{name}\0{label}\0{size}\0{middle}\n").as_bytes());
        }
        TrainingImages { count: list.len(), crc32: crc.sum() }
    }

    /// Says, for a warning, how these images differ from `then`, those of the run before it was resumed.
    pub fn change(&self, then: &TrainingImages) -> Option<String> {
        (self != then).then(|| {
            format!(
                "the training images are not those that the run had: their names, labels or contents differ; it had {} and \
                 goes on with the {} that are there now",
                plural(then.count, "image", "images"),
                self.count
            )
        })
    }
}

/// Size of a file, and CRC-32 of the bytes in its middle; zeros for one that cannot be read, which is reported where it is decoded.
fn fingerprint(path: &Path) -> (u64, u32) {
    let (size, bytes) = middle(path).unwrap_or_default();
    let mut crc = Crc::new();
    crc.update(&bytes);
    (size, crc.sum())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::ImageSource;

    #[test]
    fn names_labels_and_sizes_tell_images_apart_and_their_place_and_order_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let of = |root: &str, files: &[(&str, u32, &str)]| {
            let root = folder.path().join(root);
            fs::create_dir_all(&root).unwrap();
            let sample = |&(name, label, content): &(&str, u32, &str)| {
                fs::write(root.join(name), content).unwrap();
                Sample { image: ImageSource::File(root.join(name)), label }
            };
            TrainingImages::new(&files.iter().map(sample).collect::<Vec<_>>(), &root)
        };
        let images = of("a", &[("1.png", 0, "red"), ("2.png", 1, "green")]);
        assert_eq!(images, of("moved", &[("2.png", 1, "green"), ("1.png", 0, "red")]));
        assert_eq!(images.change(&images), None);
        let others: [&[(&str, u32, &str)]; 5] = [
            &[("1.png", 0, "red"), ("3.png", 1, "green")],
            &[("1.png", 1, "red"), ("2.png", 0, "green")],
            &[("1.png", 0, "green"), ("2.png", 1, "red")],
            &[("1.png", 0, "red")],
            &[("1.png", 0, "der"), ("2.png", 1, "green")],
        ];
        for (number, files) in others.into_iter().enumerate() {
            let change = of(&format!("other {number}"), files).change(&images).unwrap();
            assert!(change.contains("it had 2 images and goes on with the "), "{change}");
        }
    }
}
