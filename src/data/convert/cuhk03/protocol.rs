//! The lists of the new protocol (767 training, 700 test identities), MATLAB files of version 5.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::images::{ImageKey, Images};
use crate::base::text::{are, plural};
use crate::data::convert::mat5::{self, Value, Variable};
use crate::{Error, Result};

/// Folders in Market-1501 layout, and the lists that fill them.
const FOLDERS: [(&str, &str); 3] =
    [("bounding_box_train", "train_idx"), ("bounding_box_test", "gallery_idx"), ("query", "query_idx")];

/// One image of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Path relative to the data set: `query/0004/0004_c1_03.jpg`.
    pub path: PathBuf,
    /// The image in `cuhk-03.mat`.
    pub key: ImageKey,
    /// Identity in the new protocol, from 1.
    pub pid: i64,
}

/// The new protocol for one kind of boxes.
#[derive(Debug)]
pub struct NewProtocol {
    file: PathBuf,
    listed: Vec<Listed>,
}

impl NewProtocol {
    /// Reads `cuhk03_new_protocol_config_{detected,labeled}.mat`.
    ///
    /// # Errors
    /// [`Error::MatFile`]: the file is broken, or has no lists of the protocol.
    pub fn read(file: &Path) -> Result<NewProtocol> {
        let listed =
            listed(&mat5::read(file)?).map_err(|reason| Error::MatFile { path: file.to_path_buf(), reason })?;
        Ok(NewProtocol { file: file.to_path_buf(), listed })
    }

    /// Returns all images, sorted by path.
    pub fn listed(&self) -> &[Listed] {
        &self.listed
    }

    /// Counts the identities and images of a folder.
    pub fn counts(&self, folder: &str) -> (usize, usize) {
        let within = || self.listed.iter().filter(|listed| listed.path.starts_with(folder));
        (within().map(|listed| listed.pid).collect::<std::collections::BTreeSet<_>>().len(), within().count())
    }

    /// Checks that the images have the boxes of the lists.
    ///
    /// # Errors
    /// [`Error::MatFile`]: a listed image is not there.
    pub fn check(&self, images: &Images) -> Result<()> {
        let missing: Vec<String> = self.listed.iter().filter(|l| !images.has(l.key)).map(|l| l.key.name()).collect();
        if let Some(first) = missing.first() {
            let reason = format!(
                "{} of {} that it lists {} not in the .mat of images, the first is {first}: are the lists for \
                 detected and labeled boxes swapped?",
                missing.len(),
                plural(self.listed.len(), "image", "images"),
                are(missing.len())
            );
            return Err(Error::MatFile { path: self.file.clone(), reason });
        }
        Ok(())
    }
}

/// Converts the variables to images with their paths.
fn listed(variables: &[Variable]) -> Result<Vec<Listed>, String> {
    let value = |name: &str| {
        let found = variables.iter().find(|variable| variable.name == name).map(|variable| &variable.value);
        found.ok_or_else(|| format!("it has no variable {name}: expected is a cuhk03_new_protocol_config"))
    };
    let numbers = |name: &str| match value(name)? {
        Value::Numbers(numbers) => {
            let whole = |&x: &f64| ((1.0..=1e6).contains(&x) && x.fract() == 0.0).then_some(x as usize);
            let numbers: Option<Vec<usize>> = numbers.iter().map(whole).collect();
            numbers.ok_or_else(|| format!("{name} holds something else than whole numbers from 1"))
        }
        _ => Err(format!("{name} holds no numbers")),
    };
    let Value::Cell(names) = value("filelist")? else { return Err("filelist is no cell of names".into()) };
    let (labels, cameras) = (numbers("labels")?, numbers("camId")?);
    if labels.len() != names.len() || cameras.len() != names.len() {
        return Err(format!(
            "filelist has {} names, labels {} and camId {}: they do not belong together",
            names.len(),
            labels.len(),
            cameras.len()
        ));
    }
    let mut places: BTreeMap<PathBuf, Listed> = BTreeMap::new();
    let mut used = vec![false; names.len()];
    let mut people: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for (folder, list) in FOLDERS {
        for index in numbers(list)? {
            let Some(used) = used.get_mut(index - 1) else {
                return Err(format!("{list} names image {index} of {}", names.len()));
            };
            if std::mem::replace(used, true) {
                return Err(format!("image {index} is in train_idx, gallery_idx and query_idx more than once"));
            }
            let Value::Text(name) = &names[index - 1] else {
                return Err(format!("name {index} of filelist is no text"));
            };
            let key = parse_name(name).ok_or_else(|| format!("{name} does not read as P_III_C_VV.png"))?;
            if key.view() != cameras[index - 1] {
                return Err(format!("camId of {name} is {}, its image is of view {}", cameras[index - 1], key.view()));
            }
            let pid = labels[index - 1];
            if *people.entry(pid).or_insert((key.pair, key.person)) != (key.pair, key.person) {
                return Err(format!("labels gives identity {pid} to {name} and to another person"));
            }
            let file = format!("{pid:04}_c{}_{:02}.jpg", key.camera(), key.column);
            let path = PathBuf::from(folder).join(format!("{pid:04}")).join(file);
            if places.insert(path.clone(), Listed { path, key, pid: pid as i64 }).is_some() {
                return Err(format!("filelist names {name} twice"));
            }
        }
    }
    Ok(places.into_values().collect())
}

/// Parses a name like `2_002_1_01.png`: pair, person, view, column.
fn parse_name(name: &str) -> Option<ImageKey> {
    let fields: Vec<usize> = name.strip_suffix(".png")?.split('_').map(|f| f.parse().ok()).collect::<Option<_>>()?;
    let [pair @ 1..=super::PAIRS, person, view, column @ 1..=10] = fields[..] else { return None };
    Some(ImageKey { pair, person, column }).filter(|key| person > 0 && key.view() == view)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_pair_person_and_column() {
        let key = parse_name("5_049_2_10.png").unwrap();
        assert_eq!(key, ImageKey { pair: 5, person: 49, column: 10 });
        assert_eq!((key.camera(), key.name().as_str()), (10, "5_049_2_10"));
        for name in ["6_001_1_01.png", "0_001_1_01.png", "1_001_2_01.png", "1_001_1_11.png", "1_001_1.png", "a.png", ""]
        {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
