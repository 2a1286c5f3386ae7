use std::fs;

use super::*;
use crate::io::pickle::tests::Writer;

const IMAGE: usize = 3072;
const NAMES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Planes of an image: red, green and blue of a pixel differ from it and its neighbours.
fn planes(image: usize) -> Vec<u8> {
    (0..IMAGE).map(|i| ((i / 1024 * 80 + i % 1024 * 7 + image * 13) % 251) as u8).collect()
}

/// Returns the expected pixel (y, x) of an image.
fn expected(image: usize, y: usize, x: usize) -> [u8; 3] {
    let planes = planes(image);
    [0, 1, 2].map(|plane| planes[plane * 1024 + y * 32 + x])
}

fn assert_image(sample: &Sample, image: usize) {
    let rgb = sample.image.decode(false).unwrap().0;
    assert_eq!((rgb.height, rgb.width), (32, 32));
    for (y, x) in [(0, 0), (0, 31), (17, 5), (31, 31)] {
        assert_eq!(rgb.pixels[(y * 32 + x) * 3..][..3], expected(image, y, x), "image {image} at {y}, {x}");
    }
}

/// Rows of label bytes and planes.
fn rows(rows: &[(&[u8], usize)]) -> Vec<u8> {
    rows.iter().flat_map(|(labels, image)| [labels.to_vec(), planes(*image)].concat()).collect()
}

fn binary10(folder: &Path) {
    for batch in 0..5 {
        let labels = [batch as u8, 9 - batch as u8];
        write(
            folder,
            &format!("data_batch_{}.bin", batch + 1),
            rows(&[(&labels[..1], 2 * batch), (&labels[1..], 2 * batch + 1)]),
        );
    }
    write(folder, "test_batch.bin", rows(&[(&[3], 100), (&[8], 101), (&[8], 102)]));
    write(folder, "batches.meta.txt", NAMES.join("\n") + "\n\n");
}

#[test]
fn the_binary_version_is_read_in_place_or_in_its_usual_folder() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("cifar-10-batches-bin");
    binary10(&folder);
    for (place, kind) in
        [(root.path(), DatasetKind::Auto), (&folder, DatasetKind::Auto), (&folder, DatasetKind::Cifar10)]
    {
        let dataset = load(place, kind);
        assert_eq!(
            (dataset.kind, dataset.label.as_str(), &dataset.warnings[..]),
            (DatasetKind::Cifar10, "cifar10", &[][..])
        );
        assert_eq!(dataset.classes, NAMES);
        assert_eq!(labels(&dataset.train), [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]);
        assert_eq!(labels(&dataset.val), [3, 8, 8]);
        dataset.train.iter().enumerate().for_each(|(image, sample)| assert_image(sample, image));
        dataset.val.iter().enumerate().for_each(|(image, sample)| assert_image(sample, 100 + image));
        assert!(dataset.val[2].image.to_string().ends_with("test_batch.bin#2"));
    }
    // Validation alone needs only its own file; numbers replace missing names of classes.
    (1..=5).for_each(|batch| fs::remove_file(folder.join(format!("data_batch_{batch}.bin"))).unwrap());
    fs::remove_file(folder.join("batches.meta.txt")).unwrap();
    let dataset = load_classes(root.path(), DatasetKind::Cifar10, &TEST).unwrap();
    assert_eq!((dataset.train.len(), dataset.val.len(), dataset.classes[9].as_str()), (0, 3, "9"));
    assert!(dataset.warnings[0].contains("batches.meta.txt is not there: classes are called 0 to 9"));
    refused(
        root.path(),
        DatasetKind::Cifar10,
        &["needs data_batch_1.bin, data_batch_2.bin", "unpack the archive again"],
    );
}

#[test]
fn of_two_labels_the_fine_one_counts() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "train.bin", rows(&[(&[19, 99], 0), (&[0, 4], 1)]));
    write(root.path(), "test.bin", rows(&[(&[5, 50], 2)]));
    let names: Vec<String> = (0..100).map(|class| format!("name{class}")).collect();
    write(root.path(), "fine_label_names.txt", names.join("\n"));
    let dataset = load(root.path(), DatasetKind::Auto);
    assert_eq!((dataset.kind, &dataset.classes), (DatasetKind::Cifar100, &names));
    assert_eq!((labels(&dataset.train), labels(&dataset.val)), (vec![99, 4], vec![50]));
    assert_image(&dataset.train[1], 1);
    write(root.path(), "test.bin", rows(&[(&[5, 100], 2)]));
    refused(root.path(), DatasetKind::Cifar100, &["test.bin", "image 0 has the label 100, but labels are 0 to 99"]);
}

#[test]
fn broken_binary_files_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let (root, kind) = (root.path(), DatasetKind::Cifar10);
    binary10(root);
    write(root, "data_batch_2.bin", &rows(&[(&[1], 0), (&[2], 1)])[..5000]);
    refused(root, kind, &["data_batch_2.bin", "5000 bytes", "3073", "cut off"]);
    write(root, "data_batch_2.bin", "");
    refused(root, kind, &["data_batch_2.bin", "0 bytes"]);
    write(root, "data_batch_2.bin", rows(&[(&[1], 0), (&[10], 1)]));
    refused(root, kind, &["data_batch_2.bin", "image 1 has the label 10, but labels are 0 to 9"]);
    binary10(root);
    write(root, "batches.meta.txt", "cat\ndog\n");
    refused(root, kind, &["batches.meta.txt", "it names 2 classes, cifar10 has 10"]);
    write(root, "batches.meta.txt", b"\xff\xfe");
    refused(root, kind, &["batches.meta.txt", "no UTF-8"]);
    fs::remove_file(root.join("data_batch_4.bin")).unwrap();
    refused(root, kind, &["cifar10 needs data_batch_4.bin too"]);
}

/// Returns a batch of images as `writer` pickles it.
fn batch(writer: Writer, fortran: bool, key: &str, images: &[(u8, usize)]) -> Vec<u8> {
    let labels: Vec<u8> = images.iter().map(|(label, _)| *label).collect();
    let planes: Vec<Vec<u8>> = images.iter().map(|(_, image)| planes(*image)).collect();
    let bytes: Vec<u8> = match fortran {
        false => planes.concat(),
        true => (0..IMAGE).flat_map(|i| planes.iter().map(move |planes| planes[i])).collect(),
    };
    let shape = [images.len() as u16, IMAGE as u16];
    writer.dict(&[
        ("data", writer.array("u1", shape, fortran, &bytes)),
        (key, writer.numbers(&labels)),
        ("batch_label", writer.texts(&["testing batch 1 of 1"])),
    ])
}

#[test]
fn the_python_version_is_read_whoever_wrote_it() {
    for writer in Writer::ALL {
        for fortran in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join("cifar-10-batches-py");
            for number in 0..5 {
                let images = [(number as u8, 2 * number), (9, 2 * number + 1)];
                write(&folder, &format!("data_batch_{}", number + 1), batch(writer, fortran, "labels", &images));
            }
            write(&folder, "test_batch", batch(writer, fortran, "labels", &[(7, 50)]));
            write(&folder, "batches.meta", writer.dict(&[("label_names", writer.texts(&NAMES))]));
            let dataset = load(root.path(), DatasetKind::Auto);
            assert_eq!((dataset.kind, &dataset.classes[..]), (DatasetKind::Cifar10, &NAMES.map(String::from)[..]));
            assert_eq!(labels(&dataset.train), [0, 9, 1, 9, 2, 9, 3, 9, 4, 9], "{writer:?}");
            dataset.train.iter().enumerate().for_each(|(image, sample)| assert_image(sample, image));
            assert_image(&dataset.val[0], 50);
        }
    }
}

#[test]
fn python_files_of_a_hundred_classes_are_told_from_folders_of_their_names() {
    let (root, writer) = (tempfile::tempdir().unwrap(), Writer::Python2);
    let root = root.path();
    write(root, "train", batch(writer, false, "fine_labels", &[(99, 0), (1, 1)]));
    write(root, "test", batch(writer, false, "fine_labels", &[(42, 2)]));
    let names: Vec<String> = (0..100).map(|class| format!("name{class}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    write(root, "meta", writer.dict(&[("fine_label_names", writer.texts(&names))]));
    let dataset = load(root, DatasetKind::Auto);
    assert_eq!((dataset.kind, dataset.classes.len()), (DatasetKind::Cifar100, 100));
    assert_eq!((labels(&dataset.train), labels(&dataset.val)), (vec![99, 1], vec![42]));
}

#[test]
fn broken_and_hostile_pickles_are_refused() {
    let (root, writer) = (tempfile::tempdir().unwrap(), Writer::Python2);
    let root = root.path();
    let good = batch(writer, false, "labels", &[(1, 0), (2, 1)]);
    let refuse = |content: &[u8], part: &str| {
        write(root, "test_batch", content);
        let error = load_classes(root, DatasetKind::Cifar10, &TEST).unwrap_err().to_string();
        assert!(error.contains("test_batch cannot be read as a data set") && error.contains(part), "{part:?}: {error}");
    };
    refuse(b"\x80\x02cos\nsystem\nU\x02ls\x85R.", "it names os.system, and loading it in Python would run that");
    refuse(b"\x80\x02cnumpy.core.multiarray\nscalar\n.", "it names numpy.core.multiarray.scalar");
    refuse(&good[..good.len() / 2], "its pickle is cut off");
    refuse(&good[..good.len() - 1], "its pickle is cut off");
    refuse(b"not a pickle", "opcode");
    refuse(b"\x80\x02].", "no dictionary");
    refuse(&batch(writer, false, "fine_labels", &[(1, 0)]), "no \"labels\": it is of another data set");
    refuse(&batch(writer, false, "labels", &[(1, 0), (10, 1)]), "image 1 has the label 10");
    let with = |data: Vec<u8>, labels: &[u8]| writer.dict(&[("data", data), ("labels", writer.numbers(labels))]);
    let pixels = planes(0);
    refuse(&with(writer.array("u1", [1, 3072], false, &pixels), &[1, 2]), "2 labels need [2, 3072] of u1");
    refuse(&with(writer.array("f8", [1, 3072], false, &pixels), &[1]), "an array [1, 3072] of f8");
    refuse(&with(writer.array("u1", [1, 3071], false, &pixels), &[1]), "an array [1, 3071] of u1");
    refuse(&with(writer.array("u1", [1, 3072], false, &pixels[..3071]), &[1]), "1 label and 3071 bytes");
    refuse(&with(writer.array("u1", [0, 3072], false, &[]), &[]), "0 labels");
    refuse(&with(writer.numbers(&[1]), &[1]), "no numpy array");
    refuse(&writer.dict(&[("labels", b"N".to_vec())]), "\"labels\" are no list");
    refuse(&writer.dict(&[("labels", b"](Ne".to_vec())]), "label that is no whole number");
    write(root, "batches.meta", writer.dict(&[("label_names", b"](K\x01e".to_vec())]));
    refused_meta(root, "name is no text");
    write(root, "batches.meta", writer.dict(&[("label_names", writer.texts(&["a"]))]));
    refused_meta(root, "it names 1 class, cifar10 has 10");
}

fn refused_meta(root: &Path, part: &str) {
    let error = load_classes(root, DatasetKind::Cifar10, &TEST).unwrap_err().to_string();
    assert!(error.contains("batches.meta") && error.contains(part), "{error}");
}
