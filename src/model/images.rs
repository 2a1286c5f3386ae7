//! Which images a run trains on: one that is resumed with others says so.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use flate2::Crc;
use serde::{Deserialize, Serialize};

use crate::base::text::plural;
use crate::data::Sample;

/// The training images of a run, as its record holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingImages {
    pub count: usize,
    /// CRC-32 of the sorted list of their names below the data set's folder, their labels and the sizes of their files.
    pub crc32: u32,
}

impl TrainingImages {
    /// Sums up `samples`, whose names count from the folder `root` on. A file without a size is reported where it is read.
    pub fn new(samples: &[Sample], root: &Path) -> TrainingImages {
        let mut sizes: HashMap<&Path, u64> = HashMap::new();
        let mut size = |path| *sizes.entry(path).or_insert_with(|| fs::metadata(path).map_or(0, |file| file.len()));
        let mut list: Vec<(String, u32, u64)> =
            samples.iter().map(|Sample { image, label }| (image.below(root), *label, size(image.file()))).collect();
        list.sort_unstable();
        let mut crc = Crc::new();
        list.iter().for_each(|(name, label, size)| crc.update(format!("{name}\0{label}\0{size}\n").as_bytes()));
        TrainingImages { count: list.len(), crc32: crc.sum() }
    }

    /// Says, for a warning, how these images differ from `then`, those of the run before it was resumed.
    pub fn change(&self, then: &TrainingImages) -> Option<String> {
        (self != then).then(|| {
            format!(
                "the training images are not those that the run had: their names, labels or file sizes differ; it had {} and \
                 goes on with the {} that are there now",
                plural(then.count, "image", "images"),
                self.count
            )
        })
    }
}

#[cfg(test)]
mod tests {
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
        let others: [&[(&str, u32, &str)]; 4] = [
            &[("1.png", 0, "red"), ("3.png", 1, "green")],
            &[("1.png", 1, "red"), ("2.png", 0, "green")],
            &[("1.png", 0, "green"), ("2.png", 1, "red")],
            &[("1.png", 0, "red")],
        ];
        for (number, files) in others.into_iter().enumerate() {
            let change = of(&format!("other {number}"), files).change(&images).unwrap();
            assert!(change.contains("it had 2 images and goes on with the "), "{change}");
        }
    }
}
