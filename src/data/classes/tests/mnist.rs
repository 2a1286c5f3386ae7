use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

const KIND: DatasetKind = DatasetKind::Mnist;

fn idx(sides: &[u32], bytes: &[u8]) -> Vec<u8> {
    let header = [0, 0, 8, sides.len() as u8].into_iter().chain(sides.iter().flat_map(|side| side.to_be_bytes()));
    header.chain(bytes.iter().copied()).collect()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Writes three training images and two test images of 2x3, under names with this separator and, if `zipped`, the ending `.gz`.
fn good(folder: &Path, separator: char, zipped: bool) {
    let train: Vec<u8> = (0..18).collect();
    let files = [
        ("train-images", 3, idx(&[3, 2, 3], &train)),
        ("train-labels", 1, idx(&[3], &[0, 9, 4])),
        ("t10k-images", 3, idx(&[2, 2, 3], &train[6..])),
        ("t10k-labels", 1, idx(&[2], &[4, 0])),
    ];
    for (name, sides, bytes) in files {
        let ending = if zipped { ".gz" } else { "" };
        write(folder, &format!("{name}{separator}idx{sides}-ubyte{ending}"), if zipped { gz(&bytes) } else { bytes });
    }
}

#[test]
fn every_name_and_place_gives_the_same_images() {
    for (below, separator, zipped) in
        [("", '-', false), ("", '.', true), ("MNIST/raw", '-', true), ("mnist", '.', false)]
    {
        let root = tempfile::tempdir().unwrap();
        good(&root.path().join(below), separator, zipped);
        let dataset = load(root.path(), DatasetKind::Auto);
        assert_eq!((dataset.kind, dataset.label.as_str()), (KIND, "mnist"));
        assert_eq!(dataset.classes, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        assert_eq!((labels(&dataset.train), labels(&dataset.val)), (vec![0, 9, 4], vec![4, 0]));
        let rgb = dataset.train[1].image.decode(false).unwrap().0;
        assert_eq!((rgb.height, rgb.width), (2, 3));
        assert_eq!(pixels(&dataset.train[1]), (6..12).flat_map(|grey| [grey; 3]).collect::<Vec<u8>>());
        assert_eq!(pixels(&dataset.val[1]), (12..18).flat_map(|grey| [grey; 3]).collect::<Vec<u8>>());
    }
}

#[test]
fn a_path_that_says_fashion_gives_its_names() {
    let root = tempfile::tempdir().unwrap();
    good(&root.path().join("FashionMNIST/raw"), '-', true);
    let dataset = load_classes(root.path(), KIND, &TEST).unwrap();
    assert_eq!((dataset.label.as_str(), dataset.train.len()), ("mnist (Fashion-MNIST)", 0));
    assert_eq!((dataset.classes[0].as_str(), dataset.classes[9].as_str()), ("T-shirt/top", "Ankle boot"));
}

#[test]
fn validation_alone_needs_no_training_files() {
    let root = tempfile::tempdir().unwrap();
    good(root.path(), '-', false);
    fs::remove_file(root.path().join("train-labels-idx1-ubyte")).unwrap();
    refused(root.path(), KIND, &["it has no train-labels-idx1-ubyte, with or without .gz"]);
    assert_eq!(load_classes(root.path(), KIND, &TEST).unwrap().val.len(), 2);
}

#[test]
fn broken_files_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let images = "t10k-images-idx3-ubyte";
    let labels = "t10k-labels-idx1-ubyte";
    let refuse = |name: &str, content: Vec<u8>, parts: &[&str]| {
        fs::remove_dir_all(root.join("x")).ok();
        good(&root.join("x"), '-', false);
        if name.ends_with(".gz") {
            fs::remove_file(root.join("x").join(name.trim_end_matches(".gz"))).unwrap();
        }
        write(&root.join("x"), name, content);
        refused(&root.join("x"), KIND, &[&[name], parts].concat());
    };
    let whole = idx(&[2, 2, 3], &[7; 12]);
    let zipped = gz(&whole);
    refuse(images, vec![0, 0, 8], &["cut off"]);
    refuse(images, idx(&[2], &[1, 2]).into_iter().chain([0; 8]).collect(), &["begins with 0x00000801", "0x00000803"]);
    refuse(labels, idx(&[2, 1, 1], &[1, 2]), &["begins with 0x00000803", "0x00000801"]);
    refuse(images, whole[..whole.len() - 1].to_vec(), &["[2, 2, 3] need 12 bytes behind the header, it has 11"]);
    refuse(images, [&whole[..], b"x"].concat(), &["need 12 bytes behind the header, it has more"]);
    refuse(images, idx(&[0, 2, 3], &[]), &["[0, 2, 3]", "at least one image"]);
    refuse(images, idx(&[1, 4097, 1], &[0; 4097]), &["sides of 1 to 4096"]);
    refuse(images, idx(&[u32::MAX, 4096, 4096], &[0; 12]), &["cut off", "72057594021150720 bytes"]);
    refuse(labels, idx(&[2], &[4, 10]), &["image 1 has the label 10, but labels are 0 to 9"]);
    refuse(labels, idx(&[3], &[4, 1, 1]), &["it has 3 labels", "has 2 images"]);
    refuse("t10k-images-idx3-ubyte.gz", zipped[..zipped.len() - 9].to_vec(), &["cut off or damaged"]);
    // Without the checksum at its end: only reading to the end finds this.
    refuse("t10k-images-idx3-ubyte.gz", zipped[..zipped.len() - 4].to_vec(), &["cut off or damaged"]);
    refuse("t10k-images-idx3-ubyte.gz", whole, &["cut off or damaged"]);
    refuse("t10k-images-idx3-ubyte.gz", gz(&idx(&[9000, 2, 3], &[7; 12])), &["need 54000 bytes"]);
    refuse(
        "t10k-images-idx3-ubyte.gz",
        gz(&idx(&[3, 2, 3], &[7; 12])),
        &["need 18 bytes behind the header, it has 12"],
    );
}
