use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::Error;

/// Returns a data set with the given numbers of images of each class; the files need not exist.
fn of(train: &[usize], val: &[usize]) -> ClassDataset {
    let samples = |subset: &str, counts: &[usize]| -> Vec<Sample> {
        let class = |(label, &n): (usize, &usize)| {
            let file = move |i: usize| ImageSource::File(format!("{subset}/{label}/{i}.png").into());
            (0..n).map(move |i| Sample { image: file(i), label: label as u32 })
        };
        counts.iter().enumerate().flat_map(class).collect()
    };
    ClassDataset {
        name: "birds".into(),
        classes: (0..train.len()).map(|label| format!("c{label}")).collect(),
        train: samples("train", train),
        val: samples("val", val),
        ..ClassDataset::default()
    }
}

#[test]
fn the_banner_counts_classes_and_images() {
    let lines: Vec<String> =
        of(&[3, 9, 1, 9], &[2, 0, 0, 5]).banner().to_string().lines().map(str::to_string).collect();
    let cells = |line: &str| {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(cells(&lines[0]), ["subset", "classes", "images", "smallest class", "largest class"]);
    assert_eq!(cells(&lines[2]), ["train", "4", "22", "1 (c2)", "9 (c1)"]);
    assert_eq!(cells(&lines[3]), ["val", "2", "7", "2 (c0)", "5 (c3)"]);
    assert!(!of(&[0, 0], &[1, 1]).banner().to_string().contains("train"));
}

#[test]
fn training_and_evaluation_need_images_classes_and_a_batch_that_fits() {
    let good = of(&[2, 2], &[1, 0]);
    good.check_for_training(4).unwrap();
    good.check_for_evaluation().unwrap();
    let error = good.check_for_training(5).unwrap_err().to_string();
    assert_eq!(error, "a batch has 5 images, birds has 4 for training: lower `sampler.batch` to at most 4");
    let error = of(&[0, 6], &[1, 0]).check_for_training(2).unwrap_err();
    assert!(matches!(error, Error::TooFewClasses { found: 1, .. }), "{error}");
    let error = of(&[0, 0], &[1, 0]).check_for_training(2).unwrap_err().to_string();
    assert_eq!(error, "birds has no train images");
    let error = of(&[2, 2], &[0, 0]).check_for_evaluation().unwrap_err().to_string();
    assert_eq!(error, "birds has no validation images");
    let error = of(&[1, 1], &[0, 0]).check_for_evaluation().unwrap_err().to_string();
    assert!(error.starts_with("birds has one image of each class"), "{error}");
}

#[test]
fn imbalance_and_copies_across_subsets_are_warned_of() {
    let warned = |train: &[usize]| {
        let mut dataset = of(train, &[]);
        dataset.warn_of_oddities();
        dataset.warnings
    };
    assert!(warned(&[2, 40]).is_empty());
    assert!(warned(&[2, 41])[0].contains("(c1) has 41 training images, the smallest (c0) 2"));

    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let long = |byte: u8, end: u8| [vec![byte; 20_000], vec![end]].concat();
    write(root, "train/a/1.png", long(1, 1));
    write(root, "train/a/2.png", "small");
    // Of the same size and middle, but another end.
    write(root, "val/a/1.png", long(1, 2));
    write(root, "val/a/2.png", "SMALL");
    assert!(load(root, DatasetKind::Auto).warnings.is_empty());
    write(root, "val/a/3.png", long(1, 1));
    let warnings = load(root, DatasetKind::Auto).warnings;
    write(root, "train/b/1.png", "small");
    let classes = load(root, DatasetKind::Auto).warnings;
    assert!(
        classes.iter().any(|text| text.contains("1 training image has the same content as one of another class")),
        "{classes:?}"
    );
    assert!(
        warnings[0].contains("1 validation image has the same content") && warnings[0].contains("val/a/3.png"),
        "{warnings:?}"
    );
}

#[test]
fn broken_images_are_refused_or_left_out() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for (name, grey) in [("train/a/1.png", 1), ("train/a/2.png", 2), ("train/b/1.png", 3), ("val/b/1.png", 4)] {
        std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(4, 4, image::Rgb([grey; 3])).save(root.join(name)).unwrap();
    }
    write(root, "train/a/3.png", "no image");
    let mut dataset = load(root, DatasetKind::Auto);
    let error = dataset.drop_or_refuse_broken(false, &|| {}).unwrap_err().to_string();
    assert!(error.contains("1 of 4 images cannot be decoded") && error.contains("a/3.png"), "{error}");
    let seen = AtomicUsize::new(0);
    dataset.warnings.clear();
    dataset
        .drop_or_refuse_broken(true, &|| {
            seen.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
    assert_eq!((seen.into_inner(), labels(&dataset.train), labels(&dataset.val)), (5, vec![0, 0, 1], vec![1]));
    assert!(dataset.warnings[0].contains("1 of 4 images cannot be decoded and is left out"));
}
