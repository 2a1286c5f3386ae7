//! IDX files named as MNIST's and Fashion-MNIST's, gzipped or not.
//!
//! Source: the format's description on <http://yann.lecun.com/exdb/mnist/>: a magic number, the sides as big-endian u32, bytes.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::packed::{numbers, samples};
use super::{ClassDataset, refuse};
use crate::Result;
use crate::base::text::{Shown, plural};
use crate::base::{input, memory};
use crate::data::{DatasetKind, PackedImages, Sample, Subsets};

/// The expected files, for errors.
pub(super) const FILES: &str = "the files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and \
     t10k-labels-idx1-ubyte (also with .gz), in it or in MNIST/raw, FashionMNIST/raw, mnist or fashion";

/// Folders below the named one that usually have the files.
const FOLDERS: [&str; 4] = ["MNIST/raw", "FashionMNIST/raw", "mnist", "fashion"];

/// Content and number of dimensions of a file, as in its name.
const IMAGES: (&str, u32) = ("images", 3);
const LABELS: (&str, u32) = ("labels", 1);

const CLASSES: usize = 10;
/// Largest height and width in pixels.
const MAX_SIDE: usize = 4096;
/// Largest number of bytes that a compressed byte may become; images and labels become far fewer.
const MAX_INFLATION: u64 = 100;
/// Numbers of bytes and images that are allowed even from the shortest file: sorted labels and empty images compress to almost nothing.
const SMALL: u64 = 64 << 20;
const FEW: u64 = 1 << 20;

/// Classes of Fashion-MNIST (Xiao et al., 2017).
const FASHION: [&str; CLASSES] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Returns the folders that have such files: `root` itself and the usual ones below.
pub(super) fn folders(root: &Path) -> Vec<PathBuf> {
    let holds = |folder: &PathBuf| {
        let mut files = ["train", "t10k"].into_iter().flat_map(|subset| [(subset, IMAGES), (subset, LABELS)]);
        files.any(|(subset, content)| find(folder, subset, content).is_some())
    };
    [root.to_path_buf()].into_iter().chain(FOLDERS.iter().map(|name| root.join(name))).filter(holds).collect()
}

/// Finds the file of a subset under any of its names.
fn find(folder: &Path, subset: &str, (content, sides): (&str, u32)) -> Option<PathBuf> {
    ["", ".gz"].iter().find_map(|ending| {
        let name = |separator| folder.join(format!("{subset}-{content}{separator}idx{sides}-ubyte{ending}"));
        ['-', '.'].map(name).into_iter().find(|path| path.is_file())
    })
}

/// Loads the images: `train` for training, `t10k` for validation.
///
/// # Errors
/// A file is missing, truncated, or has other content.
pub(super) fn load(folder: &Path, subsets: Subsets) -> Result<ClassDataset> {
    let mut dataset = ClassDataset::default();
    if folder.to_string_lossy().to_lowercase().contains("fashion") {
        dataset.label = format!("{} (Fashion-MNIST)", DatasetKind::Mnist);
        dataset.classes = FASHION.map(str::to_string).to_vec();
    } else {
        dataset.label = DatasetKind::Mnist.to_string();
        dataset.classes = numbers(CLASSES);
    }
    if subsets == Subsets::All {
        dataset.train = subset(folder, "train")?;
    }
    dataset.val = subset(folder, "t10k")?;
    Ok(dataset)
}

fn subset(folder: &Path, name: &str) -> Result<Vec<Sample>> {
    let file = |content: (&str, u32)| {
        find(folder, name, content).map_or_else(
            || refuse(folder, format!("it has no {name}-{}-idx{}-ubyte, with or without .gz", content.0, content.1)),
            Ok,
        )
    };
    let (images_file, labels_file) = (file(IMAGES)?, file(LABELS)?);
    let (sides, pixels) = read::<3>(&images_file)?;
    let ([count], labels) = read::<1>(&labels_file)?;
    let [images, height, width] = sides;
    if images != count {
        let name = images_file.shown();
        return refuse(
            &labels_file,
            format!(
                "it has {}, {name} has {}: they do not belong together",
                plural(count, "label", "labels"),
                plural(images, "image", "images")
            ),
        );
    }
    let images = PackedImages { file: images_file, height, width, channels: 1, pixels };
    samples(images, &labels, CLASSES, &labels_file)
}

/// Reads sizes and bytes of an IDX file of `N` dimensions: number of images, then their height and width.
///
/// # Errors
/// The magic number is wrong, a size is impossible, or the length is not that in the header.
fn read<const N: usize>(file: &Path) -> Result<([usize; N], Vec<u8>)> {
    let (stored, len) = input::open(file)?;
    let zipped = file.extension().is_some_and(|ending| ending == "gz");
    let (mut stream, largest): (Box<dyn Read>, u64) = match zipped {
        true => (Box::new(MultiGzDecoder::new(stored)), len.saturating_mul(MAX_INFLATION).max(SMALL)),
        false => (Box::new(stored), len),
    };
    // All errors of the stream mean a broken file: it ends early, is no gzip, or has a wrong checksum.
    let broken = |e: std::io::Error| format!("it is cut off or damaged ({e})");
    let mut header = vec![0; 4 + 4 * N];
    stream.read_exact(&mut header).or_else(|e| refuse(file, broken(e)))?;
    if header[..4] != [0, 0, 8, N as u8] {
        let found = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        return refuse(file, format!("it begins with {found:#010x}, IDX files of its name with 0x0000080{N}"));
    }
    let mut sides = [0; N];
    for (side, bytes) in sides.iter_mut().zip(header[4..].as_chunks::<4>().0) {
        *side = u32::from_be_bytes(*bytes) as usize;
    }
    if sides[0] == 0 || sides[1..].iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
        return refuse(
            file,
            format!("its sizes are {sides:?}: at least one image, with sides of 1 to {MAX_SIDE}, is needed"),
        );
    }
    // At most 2^32 * 2^24.
    let needed: u64 = sides.iter().map(|&side| side as u64).product();
    if needed > largest || sides[0] as u64 > FEW.max(len) {
        return refuse(file, format!("it is cut off: its sizes {sides:?} need {needed} bytes, the file has {len}"));
    }
    let list = (sides[0] * size_of::<Sample>()) as u64;
    memory::ensure("the data set", needed.saturating_add(list))?;
    // The buffer grows with the data, not with the sizes in the header.
    let mut bytes = Vec::new();
    stream.take(needed + 1).read_to_end(&mut bytes).or_else(|e| refuse(file, broken(e)))?;
    if bytes.len() as u64 != needed {
        let found = if bytes.len() as u64 > needed { "more".to_string() } else { bytes.len().to_string() };
        return refuse(file, format!("its sizes {sides:?} need {needed} bytes behind the header, it has {found}"));
    }
    Ok((sides, bytes))
}
