use std::collections::BTreeSet;
use std::fs;

use super::*;
use crate::base::text::Shown;

const KIND: DatasetKind = DatasetKind::ClassFolders;

#[test]
fn train_and_val_folders_give_sorted_classes_and_nested_images() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    touch(
        root,
        &[
            "train/b/2.png",
            "train/b/1.JPG",
            "train/B/deep/er/x.bmp",
            "train/a/1.jpeg",
            "train/a/.hidden.jpg",
            "train/a/notes.txt",
            "train/.git/x.png",
            "val/b/9.png",
            "val/a/9.png",
            "README.md",
        ],
    );
    for kind in [DatasetKind::Auto, KIND] {
        let dataset = load(root, kind);
        assert_eq!((dataset.kind, dataset.label.as_str()), (KIND, "class-folders"));
        assert_eq!(dataset.name, root.shown().to_string());
        // By bytes: capitals first.
        assert_eq!(dataset.classes, ["B", "a", "b"]);
        let train = [("train/B/deep/er/x.bmp", 0), ("train/a/1.jpeg", 1), ("train/b/1.JPG", 2), ("train/b/2.png", 2)];
        assert_eq!(shown(root, &dataset.train), train.map(|(path, label)| (path.to_string(), label)));
        assert_eq!(shown(root, &dataset.val), [("val/a/9.png".to_string(), 1), ("val/b/9.png".to_string(), 2)]);
        assert_eq!(dataset.warnings, ["1 class has no validation images (B)"]);
    }
}

#[test]
fn other_names_of_the_folders_are_known_and_val_goes_before_test() {
    for (train, val) in [("training", "valid"), ("Train", "Validation"), ("train", "test"), ("train", "testing")] {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), &[&format!("{train}/a/1.png"), &format!("{train}/b/1.png"), &format!("{val}/a/2.png")]);
        let dataset = load(root.path(), DatasetKind::Auto);
        assert_eq!((dataset.train.len(), shown(root.path(), &dataset.val)), (2, vec![(format!("{val}/a/2.png"), 0)]));
    }
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["train/a/1.png", "test/a/2.png", "val/a/3.png"]);
    let dataset = load(root.path(), KIND);
    assert_eq!(shown(root.path(), &dataset.val), [("val/a/3.png".to_string(), 0)]);
    assert!(dataset.warnings[0].contains("val and test, val is used"), "{:?}", dataset.warnings);
    touch(root.path(), &["training/a/1.png"]);
    refused(root.path(), KIND, &["train and training", "keep the one"]);
}

#[test]
fn validation_alone_needs_no_training_images() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    touch(root, &["val/a/2.png", "val/c/2.png"]);
    let dataset = load_classes(root, KIND, &TEST).unwrap();
    assert_eq!((&dataset.classes[..], labels(&dataset.val)), (&["a".to_string(), "c".to_string()][..], vec![0, 1]));
    refused(root, KIND, &["it has the folder val and none called train"]);
    // Class folders for training say which classes there are, empty or not.
    for class in ["a", "b", "c"] {
        fs::create_dir_all(root.join("train").join(class)).unwrap();
    }
    let dataset = load_classes(root, KIND, &TEST).unwrap();
    assert_eq!((dataset.classes.len(), labels(&dataset.val), dataset.train.len()), (3, vec![0, 2], 0));
}

#[test]
fn classes_named_train_are_classes() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    touch(root, &["train/1.png", "train/2.png", "bus/1.png", "bus/2.png"]);
    let dataset = load(root, DatasetKind::Auto);
    assert_eq!(
        (&dataset.classes[..], dataset.train.len(), dataset.val.len()),
        (&["bus", "train"].map(String::from)[..], 2, 2)
    );
}

#[test]
fn bad_folders_are_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    touch(root, &["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/x/1.png", "val/y/1.png"]);
    refused(root, KIND, &["2 classes have validation images but none for training (x, y)"]);
    fs::remove_dir_all(root.join("val")).unwrap();
    touch(root, &["val/1.png"]);
    refused(root, KIND, &["val", "it has 1 image without a class"]);
    fs::remove_dir_all(root.join("val")).unwrap();
    fs::create_dir_all(root.join("train/empty")).unwrap();
    refused(root, KIND, &["train/empty", "it has no image (jpg, jpeg, ", "remove the folder"]);
}

/// Creates folders of `classes` with the given numbers of images; `backwards` reverses the order of creation.
fn numbered(root: &Path, classes: &[(&str, usize)], backwards: bool) {
    let mut names: Vec<String> =
        classes.iter().flat_map(|(class, n)| (0..*n).map(move |i| format!("{class}/{i:03}.png"))).collect();
    if backwards {
        names.reverse();
    }
    names.iter().for_each(|name| write(root, name, format!("{name} {}", "x".repeat(name.len()))));
}

#[test]
fn a_share_of_each_class_is_held_out_whatever_the_order_on_disk() {
    let classes = [("ant", 10), ("bee", 3), ("cow", 33), ("one", 1), ("two", 2)];
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    numbered(a.path(), &classes, false);
    numbered(b.path(), &classes, true);
    write(a.path(), "loose.png", "");
    let dataset = load(a.path(), DatasetKind::Auto);
    assert_eq!(dataset.label, "class-folders (20 % of each class for validation)");
    let count =
        |samples: &[Sample]| (0..5).map(|c| labels(samples).iter().filter(|&&l| l == c).count()).collect::<Vec<_>>();
    // round(0.2 n), at least 1, and at least 1 for training.
    assert_eq!(count(&dataset.val), [2, 1, 7, 0, 1]);
    assert_eq!(count(&dataset.train), [8, 2, 26, 1, 1]);
    let all: BTreeSet<_> = shown(a.path(), &dataset.train).into_iter().chain(shown(a.path(), &dataset.val)).collect();
    assert_eq!(all.len(), 49);
    assert!(dataset.warnings.iter().any(|w| w.contains("1 image beside the class folders")), "{:?}", dataset.warnings);
    assert!(dataset.warnings.iter().any(|w| w.contains("1 class has one image") && w.contains("one")));

    let other = load(b.path(), KIND);
    assert_eq!(shown(b.path(), &other.val), shown(a.path(), &dataset.val));
    let seeded = load_classes(a.path(), KIND, &ClassOptions { seed: 8, ..ALL }).unwrap();
    assert_ne!(seeded.val, dataset.val);
    let test = load_classes(a.path(), KIND, &TEST).unwrap();
    assert_eq!((test.train.len(), &test.val), (0, &dataset.val));
    let most = load_classes(a.path(), KIND, &ClassOptions { val_share: Some(0.995), ..ALL }).unwrap();
    let all = load_classes(a.path(), KIND, &ClassOptions { val_share: None, ..ALL }).unwrap();
    assert_eq!((all.train.len(), all.val.len()), (0, most.train.len() + most.val.len()));
    assert_eq!(all.label, "class-folders (all images)");
    assert_eq!(count(&most.train), [1, 1, 1, 1, 1]);
    assert_eq!(most.label, "class-folders (99.5 % of each class for validation)");
}

#[test]
fn a_train_folder_alone_is_divided_too() {
    let root = tempfile::tempdir().unwrap();
    numbered(&root.path().join("train"), &[("a", 5), ("b", 5)], false);
    let dataset = load(root.path(), DatasetKind::Auto);
    assert_eq!((dataset.train.len(), dataset.val.len(), dataset.classes.len()), (8, 2, 2));
    assert!(dataset.label.contains("20 %"));
}

#[test]
fn what_lies_beside_is_counted() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    touch(
        root,
        &[
            "train/a/1.png",
            "train/b/1.png",
            "val/a/2.png",
            "val/b/2.png",
            "extra/x/9.png",
            "test/a/3.png",
            "test/b/4.png",
        ],
    );
    touch(root, &["loose.png", "docs/a.txt", "train/a/5.heic", "train/6.png"]);
    let warnings = load(root, DatasetKind::Auto).warnings.join("\n");
    assert!(warnings.contains("val is used for validation; images that are not read: 2 in test"), "{warnings}");
    assert!(
        warnings.contains("images beside the folders train, val, test are not read (1 in extra, 1 in no folder)"),
        "{warnings}"
    );
    assert!(warnings.contains("1 image beside the class folders"), "{warnings}");
    assert!(warnings.contains("1 image of formats that are not read is left out (1 heic)"), "{warnings}");
    assert!(!warnings.contains("docs"), "{warnings}");
}

#[test]
fn one_folder_too_high_or_too_low_is_named() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    touch(root, &["dn/photos/cat/1.png", "dn/photos/cat/2.png", "dn/photos/dog/1.png"]);
    refused(&root.join("dn"), DatasetKind::Auto, &["below it (cat, dog): name that folder", "dn/photos"]);
    refused(root, DatasetKind::Auto, &["its only class would be dn", "name that folder", "dn/photos"]);
    refused(&root.join("dn/photos/cat"), KIND, &["2 images without a class", "name the folder above", "dn/photos"]);
    touch(root, &["s/train/photos/cat/1.png", "s/train/photos/dog/1.png", "s/val/photos/cat/2.png"]);
    refused(&root.join("s"), DatasetKind::Auto, &["they must be directly in", "s/train"]);
    // A class that is measured alone may have folders.
    touch(root, &["one/cat/a/1.png", "one/cat/b/1.png"]);
    let options = ClassOptions { val_share: None, ..TEST };
    assert_eq!(load_classes(&root.join("one"), KIND, &options).unwrap().val.len(), 2);
}

#[cfg(unix)]
#[test]
fn linked_classes_are_classes_and_a_link_upwards_is_none() {
    use std::os::unix::fs::symlink;
    let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (root, other) = (root.path(), other.path());
    touch(other, &["dogs/1.png", "dogs/2.png"]);
    touch(root, &["cat/1.png", "cat/2.png"]);
    symlink(other.join("dogs"), root.join("dog")).unwrap();
    symlink("..", root.join("up")).unwrap();
    let dataset = load(root, DatasetKind::Auto);
    assert_eq!((&dataset.classes[..], dataset.train.len()), (&["cat", "dog"].map(String::from)[..], 2));
    assert!(dataset.warnings[0].contains("reached a second time by links") && dataset.warnings[0].contains("up"));
}

#[test]
fn names_that_look_the_same_are_the_same() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["train/caf\u{e9}/1.png", "train/tea/1.png", "val/cafe\u{301}/2.png"]);
    let dataset = load(root.path(), DatasetKind::Auto);
    assert_eq!((dataset.classes.len(), labels(&dataset.val)), (2, vec![0]));
}
