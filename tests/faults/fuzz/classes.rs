//! Fuzzes images with classes: many in one file, or listed in a CSV file.

use std::io::Write;
use std::path::Path;
use std::slice::from_ref;

use flate2::Compression;
use flate2::write::GzEncoder;
use ptl::data::{ClassOptions, DatasetKind, ImageSource, Subsets, load_classes};

use super::{fuzz, written};

fn load(path: &Path, kind: DatasetKind, subsets: Subsets) -> ptl::Result<()> {
    let dataset = load_classes(path, kind, &ClassOptions { val_share: Some(0.5), seed: 0, subsets })?;
    for sample in dataset.train.iter().chain(&dataset.val) {
        assert!((sample.label as usize) < dataset.classes.len());
        if let ImageSource::Packed { images, index } = &sample.image {
            assert!((index + 1) * images.height * images.width * images.channels <= images.pixels.len());
        }
    }
    Ok(())
}

#[test]
fn lists_of_classes() {
    let files = ["a.png", "b.png", "c.png", "d.png"];
    let divided = "path,label,split\na.png,cat,train\n\"b.png\",dog,train\nc.png,cat,val\nd.png,dog,test\n";
    let plain = "image,class\r\na.png,1\r\nb.png,2\r\nc.png,1\r\nd.png,2\r\n";
    fuzz("class-csv", &[divided.into(), plain.into()], |folder, bytes| {
        files.iter().for_each(|name| drop(written(folder, name, "")));
        load(&written(folder, "list.csv", bytes), DatasetKind::Csv, Subsets::All)
    });
}

fn idx(sides: &[u32], bytes: &[u8]) -> Vec<u8> {
    let sides: Vec<u8> = sides.iter().flat_map(|side| side.to_be_bytes()).collect();
    [&[0, 0, 8, (sides.len() / 4) as u8], &sides[..], bytes].concat()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Loads images and labels from IDX files with these bytes, under names with this ending.
fn idx_images(folder: &Path, ending: &str, images: &[u8], labels: &[u8]) -> ptl::Result<()> {
    written(folder, &format!("t10k-images-idx3-ubyte{ending}"), images);
    written(folder, &format!("t10k-labels-idx1-ubyte{ending}"), labels);
    load(folder, DatasetKind::Mnist, Subsets::Test)
}

#[test]
fn idx_files() {
    let (images, labels) = (idx(&[2, 3, 4], &[9; 24]), idx(&[2], &[0, 9]));
    fuzz("idx-images", from_ref(&images), |folder, bytes| idx_images(folder, "", bytes, &labels));
    fuzz("idx-labels", from_ref(&labels), |folder, bytes| idx_images(folder, "", &images, bytes));
    let labels = gzipped(&labels);
    fuzz("idx-gzip", &[gzipped(&images)], |folder, bytes| idx_images(folder, ".gz", bytes, &labels));
    fuzz("idx-gzipped", &[images], |folder, bytes| idx_images(folder, ".gz", &gzipped(bytes), &labels));
}

const IMAGE: usize = 3072;

#[test]
fn binary_files_of_cifar() {
    let images: Vec<u8> = [3, 8].into_iter().flat_map(|label| [vec![label], vec![90; IMAGE]].concat()).collect();
    let names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n";
    let read = |folder: &Path, images: &[u8], names: &[u8]| {
        written(folder, "test_batch.bin", images);
        written(folder, "batches.meta.txt", names);
        load(folder, DatasetKind::Cifar10, Subsets::Test)
    };
    fuzz("cifar-binary", from_ref(&images), |folder, bytes| read(folder, bytes, names.as_bytes()));
    fuzz("cifar-names", &[names.into()], |folder, bytes| read(folder, &images, bytes));
}

/// Returns two images as Python 2 pickles them, and as numpy 2 does in protocol 5.
fn pickled_images() -> [Vec<u8>; 2] {
    let (pixels, len) = ([90; 2 * IMAGE], 2 * IMAGE as u32);
    let shape = b"M\x02\x00M\x00\x0c\x86";
    let state = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb";
    let old = [
        &b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"[..],
        shape,
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|",
        state,
        b"\x89T",
        &len.to_le_bytes(),
        &pixels,
        b"tbU\x06labels](K\x03K\x08eu.",
    ];
    let new = [
        &b"\x80\x05}(\x8c\x04data\x8c\x13numpy._core.numeric\x94\x8c\x0b_frombuffer\x94\x93\x94(\x96"[..],
        &u64::from(len).to_le_bytes(),
        &pixels,
        b"\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x89\x88\x87\x94R\x94(K\x03\x8c\x01|",
        state,
        shape,
        b"\x8c\x01Ct\x94R\x94\x8c\x06labels](K\x03K\x08eu.",
    ];
    [old.concat(), new.concat()]
}

#[test]
fn pickles_of_cifar() {
    let names = [&b"\x80\x02}(U\x0blabel_names]("[..], &b"U\x03catU\x03dog".repeat(5), b"eu."].concat();
    let images = pickled_images();
    let read = |folder: &Path, images: &[u8], names: &[u8]| {
        written(folder, "test_batch", images);
        written(folder, "batches.meta", names);
        load(folder, DatasetKind::Cifar10, Subsets::Test)
    };
    fuzz("cifar-pickle", &images, |folder, bytes| read(folder, bytes, &names));
    fuzz("cifar-pickle-names", from_ref(&names), |folder, bytes| read(folder, &images[0], bytes));
}
