//! The fingerprint of a run's training images. A resumed run warns if it has changed.

use std::path::Path;

use flate2::Crc;
use serde::{Deserialize, Serialize};

use crate::base::text::plural;
use crate::data::{Sample, fingerprints};

/// The fingerprint of a run's training images, as its record stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingImages {
    /// Number of images.
    pub count: usize,
    /// CRC-32 of the sorted list of images. An entry has the path below the data set's folder, the label, the size of the file in bytes,
    /// and the CRC-32 of bytes from its middle.
    pub crc32: u32,
}

impl TrainingImages {
    /// Computes the fingerprint of `samples`; paths are relative to the folder `root`. Ignores files that cannot be read: decoding
    /// reports them.
    pub fn new(samples: &[Sample], root: &Path) -> TrainingImages {
        let files = fingerprints(samples);
        let line = |Sample { image, label }: &Sample| (image.below(root), *label, files[image.file()]);
        let mut list: Vec<(String, u32, (u64, u32))> = samples.iter().map(line).collect();
        list.sort_unstable();
        let mut crc = Crc::new();
        for (name, label, (size, middle)) in &list {
            crc.update(format!("{name}\0{label}\0{size}\0{middle}\n").as_bytes());
        }
        TrainingImages { count: list.len(), crc32: crc.sum() }
    }

    /// Returns a warning if these images differ from `then`, those before the run was resumed.
    pub fn change(&self, then: &TrainingImages) -> Option<String> {
        (self != then).then(|| {
            format!(
                "the training images have changed: their names, labels or contents differ; the run had {} and \
                 continues with {}",
                plural(then.count, "image", "images"),
                self.count
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::ImageSource;

    #[test]
    fn the_fingerprint_depends_on_names_labels_and_contents_but_not_on_folder_and_order() {
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
            assert!(change.contains("the run had 2 images and continues with "), "{change}");
        }
    }
}
