//! Adopts the labels of a network that was trained before.

use std::path::Path;

use super::names::same_text;
use super::{ClassDataset, refuse};
use crate::Result;
use crate::base::text::{Shown, plural};

impl ClassDataset {
    /// Renumbers the classes as in a network of `count` classes with these `names`. Classes that the data do not have get no images.
    /// Without names, the order of the classes is assumed to be the same.
    ///
    /// # Errors
    /// The network does not know a class, or has no names and another number of classes.
    pub(crate) fn take_labels_of(&mut self, names: &[String], count: usize) -> Result<()> {
        let refuse = |reason: String| refuse(Path::new(&self.name), reason);
        if names.is_empty() {
            return match self.classes.len() == count {
                true => Ok(()),
                false => refuse(format!(
                    "it has {}, the network {count}, which it does not name",
                    plural(self.classes.len(), "class", "classes")
                )),
            };
        }
        same_text(self.classes.iter_mut(), names);
        let place = |class: &String| names.iter().position(|name| name == class);
        let places: Vec<Option<usize>> = self.classes.iter().map(place).collect();
        let unknown: Vec<&String> =
            self.classes.iter().zip(&places).filter(|(_, place)| place.is_none()).map(|(class, _)| class).collect();
        if let Some(first) = unknown.first() {
            return refuse(format!(
                "the network does not know {} of its {}, {} among them",
                unknown.len(),
                plural(self.classes.len(), "class", "classes"),
                first.shown()
            ));
        }
        for sample in self.train.iter_mut().chain(&mut self.val) {
            sample.label = places[sample.label as usize].expect("checked above") as u32;
        }
        self.classes = names.to_vec();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ImageSource, Sample};

    fn dataset(classes: &[&str]) -> ClassDataset {
        let sample = |label: usize| Sample { image: ImageSource::File("a.png".into()), label: label as u32 };
        ClassDataset {
            classes: classes.iter().map(|name| name.to_string()).collect(),
            val: (0..classes.len()).map(sample).collect(),
            ..ClassDataset::default()
        }
    }

    #[test]
    fn labels_become_those_of_the_network() {
        let names: Vec<String> = ["cat", "cow", "dog"].map(String::from).into();
        let mut some = dataset(&["dog", "cat"]);
        some.take_labels_of(&names, 3).unwrap();
        assert_eq!(some.val.iter().map(|sample| sample.label).collect::<Vec<_>>(), [2, 0]);
        assert_eq!(some.classes, names);
        let unknown = dataset(&["dog", "emu"]).take_labels_of(&names, 3).unwrap_err().to_string();
        assert!(unknown.contains("1 of its 2 classes, emu among them"), "{unknown}");
        dataset(&["a", "b", "c"]).take_labels_of(&[], 3).unwrap();
        let fewer = dataset(&["a"]).take_labels_of(&[], 3).unwrap_err().to_string();
        assert!(fewer.contains("1 class, the network 3"), "{fewer}");
    }
}
