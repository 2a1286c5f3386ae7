use std::fs;

use super::*;
use crate::data::{ImageRecord, Protocol, Subsets};

/// Creates a folder with these files. `NAME=TEXT` is a file NAME with the content TEXT.
fn tree(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let (name, content) = file.split_once('=').unwrap_or((file, ""));
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

fn loaded(root: &Path, kind: DatasetKind) -> Dataset {
    load(root, kind, &LoadOptions::default()).unwrap()
}

fn error(root: &Path, kind: DatasetKind) -> String {
    load(root, kind, &LoadOptions::default()).unwrap_err().to_string()
}

fn ids(records: &[ImageRecord]) -> Vec<(i64, i64)> {
    records.iter().map(|r| (r.pid, r.camid)).collect()
}

const SMALL_MARKET: [&str; 4] = [
    "bounding_box_train/0003_c1s1_1_0.jpg",
    "bounding_box_train/0001_c2s1_1_0.jpg",
    "query/0002_c1s1_1_0.jpg",
    "bounding_box_test/0002_c2s1_1_0.jpg",
];

fn within(parent: &str, files: &[&str]) -> Vec<String> {
    files.iter().map(|file| format!("{parent}/{file}")).collect()
}

#[test]
fn names_are_those_of_the_files() {
    for kind in DatasetKind::ALL.iter().copied() {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        assert_eq!(serde_json::from_value::<DatasetKind>(kind.name().into()).unwrap(), kind);
    }
    assert!("market".parse::<DatasetKind>().unwrap_err().to_string().contains("market1501"));
}

#[test]
fn junk_is_dropped_distractors_stay_in_the_gallery_and_oddities_are_named() {
    let folder = tree(&[
        "bounding_box_train/0003_c1s1_1_0.jpg",
        "bounding_box_train/0001_c2s1_1_0.jpg",
        "bounding_box_train/0001_c11s1_1_0.JPG",
        "bounding_box_train/0000_c1s1_1_0.jpg",
        "bounding_box_train/Thumbs.db",
        "bounding_box_train/holiday.jpg",
        "query/0002_c1s1_1_0.jpg",
        "query/0009_c1s1_1_0.jpg",
        "bounding_box_test/0002_c2s1_1_0.jpg",
        "bounding_box_test/0000_c2s1_1_0.jpg",
        "bounding_box_test/-1_c2s1_1_0.jpg",
        "bounding_box_test/0009_c1s1_2_0.jpg",
    ]);
    let dataset = loaded(folder.path(), DatasetKind::Auto);
    assert_eq!(ids(&dataset.train), [(1, 11), (1, 2), (3, 1)]);
    assert_eq!(ids(&dataset.gallery), [(0, 2), (2, 2), (9, 1)]);
    assert_eq!(dataset.train_pids(), [1, 3]);
    assert_eq!((dataset.label.as_str(), dataset.protocol), ("Market-1501 layout", Protocol::CrossCamera));
    let warnings = dataset.warnings.join("\n");
    for part in [
        "holiday.jpg",
        "1 training identity has one image",
        "1 query has no match from another camera, so the results leave out 50.0 %",
    ] {
        assert!(warnings.contains(part), "{part} in\n{warnings}");
    }
    assert!(!warnings.contains("does not have"), "no name, no bounds");
    assert!(dataset.check_for_training(2).is_ok() && dataset.check_for_evaluation().is_ok());
    let refused = dataset.check_for_training(3).unwrap_err().to_string();
    assert!(refused.contains("2 training identities") && refused.contains('3'), "{refused}");

    let named = loaded(folder.path(), DatasetKind::Market1501);
    assert_eq!((ids(&named.train), named.label.as_str()), (ids(&dataset.train), "market1501"));
    let warnings = named.warnings.join("\n");
    assert!(warnings.contains("1 image has an identity or camera that market1501 does not have"), "{warnings}");
}

#[test]
fn a_wrong_folder_is_named_with_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    assert!(error(&folder.path().join("none"), DatasetKind::Auto).contains("no such folder"));
    let nothing = error(folder.path(), DatasetKind::Auto);
    assert!(nothing.contains("no folder bounding_box_train, query, bounding_box_test, nor the lists"), "{nothing}");
    let named = error(folder.path(), DatasetKind::DukeMtmcReid);
    assert!(named.contains("dukemtmcreid needs the folders") && named.contains("DukeMTMC-reID"), "{named}");
    let part = error(tree(&["query/0002_c1s1_1_0.jpg"]).path(), DatasetKind::Auto);
    assert!(
        part.contains("it has no folder bounding_box_train, bounding_box_test; expected are the folders"),
        "{part}"
    );
    let empty = tree(&["query/x.txt", "bounding_box_train/x.txt", "bounding_box_test/x.txt"]);
    assert!(error(empty.path(), DatasetKind::Auto).contains("no image in it"));
    let foreign = tree(&["query/a.jpg", "bounding_box_train/a.jpg", "bounding_box_test/a.jpg"]);
    assert!(error(foreign.path(), DatasetKind::Auto).contains("the first is a.jpg"));
}

#[test]
fn images_that_no_reader_looks_at_are_named() {
    let mut files = SMALL_MARKET.to_vec();
    files.extend([
        "query/0007_c1_1.heic",
        "gt_bbox/1.jpg",
        "extra/a/1.jpg",
        "extra/2.webp",
        "loose.jpg",
        "notes/a.txt",
    ]);
    let folder = tree(&files);
    let warnings = loaded(folder.path(), DatasetKind::Auto).warnings.join("\n");
    assert!(warnings.contains("1 image of formats that are not read is left out (1 heic)"), "{warnings}");
    assert!(warnings.contains("are not read (2 in extra, 1 in no folder)"), "{warnings}");
}

#[cfg(unix)]
#[test]
fn linked_identity_folders_are_read() {
    let (folder, other) = (tree(&SMALL_MARKET), tree(&["0009/0009_c1_1.jpg", "0009/0009_c2_1.jpg"]));
    std::os::unix::fs::symlink(other.path().join("0009"), folder.path().join("bounding_box_train/0009")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("none"), folder.path().join("bounding_box_train/0010")).unwrap();
    let dataset = loaded(folder.path(), DatasetKind::Auto);
    assert_eq!(dataset.train_pids(), [1, 3, 9]);
    assert!(
        dataset.warnings.iter().any(|w| w.contains("1 link leads nowhere and is left out")),
        "{:?}",
        dataset.warnings
    );
}

#[test]
fn the_same_picture_in_two_subsets_is_named() {
    let folder = tree(&[
        "bounding_box_train/0001_c1_1.jpg=one",
        "bounding_box_train/0001_c2_1.jpg=two",
        "query/0002_c1_1.jpg=query",
        "query/0003_c1_1.jpg=two",
        "bounding_box_test/0002_c1_2.jpg=query",
        "bounding_box_test/0002_c2_1.jpg=query",
        "bounding_box_test/0003_c2_1.jpg=other",
        "bounding_box_test/0003_c3_1.jpg=one",
    ]);
    let warnings = loaded(folder.path(), DatasetKind::Auto).warnings.join("\n");
    assert!(warnings.contains("1 query image has the same content as a training image"), "{warnings}");
    assert!(warnings.contains("1 gallery image has the same content as a training image"), "{warnings}");
    // The copy of the same identity and camera does not count anyway.
    assert!(
        warnings.contains("1 gallery image has the same content as a query but another identity or camera"),
        "{warnings}"
    );
    assert!(warnings.contains("0002_c2_1.jpg is ") && !warnings.contains("0002_c1_2.jpg"), "{warnings}");
}

#[test]
fn the_folder_that_is_meant_is_named_above_and_below() {
    let files = within("a/b", &SMALL_MARKET);
    let folder = tree(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let below = error(folder.path(), DatasetKind::Auto);
    assert!(below.contains("there is a data set in") && below.contains("a/b: name that folder"), "{below}");
    let above = error(&folder.path().join("a/b/query"), DatasetKind::Auto);
    assert!(above.contains("it is a part of the data set in") && above.contains("a/b: name that folder"), "{above}");
}

#[test]
fn queries_that_no_other_camera_saw_stop_the_evaluation() {
    let folder = tree(&[
        "bounding_box_train/0001_c2s1_1_0.jpg",
        "query/0002_c1s1_1_0.jpg",
        "bounding_box_test/0002_c1s1_1_0.jpg",
    ]);
    let refused = loaded(folder.path(), DatasetKind::Auto).check_for_evaluation().unwrap_err().to_string();
    assert!(refused.contains("another camera"), "{refused}");
}

#[test]
fn a_name_finds_the_folder_of_the_download_and_auto_says_where_it_is() {
    for (kind, parent) in [
        (DatasetKind::Market1501, "Market-1501-v15.09.15"),
        (DatasetKind::DukeMtmcReid, "dukemtmc-reid/DukeMTMC-reID"),
        (DatasetKind::Cuhk03NpLabeled, "cuhk03-np/labeled"),
    ] {
        let files = within(parent, &SMALL_MARKET);
        let folder = tree(&files.iter().map(String::as_str).collect::<Vec<_>>());
        for root in [folder.path(), &folder.path().join(parent)] {
            let dataset = loaded(root, kind);
            assert_eq!((dataset.train.len(), dataset.label.as_str(), dataset.kind), (2, kind.name(), kind));
            assert_eq!(dataset.name, root.shown().to_string());
        }
        let hint = error(folder.path(), DatasetKind::Auto);
        assert!(hint.contains(&format!("{kind} seems to be in")) && hint.contains(parent), "{hint}");
    }
}

#[test]
fn identities_in_folders_of_their_own_are_found() {
    let folder = tree(&[
        "bounding_box_train/0001/0001_c1_01.jpg",
        "bounding_box_train/0001/0001_c10_01.jpg",
        "bounding_box_train/0001/._0001_c10_01.jpg",
        "query/0002/0002_c3_01.jpg",
        "bounding_box_test/0002/0002_c4_01.jpg",
    ]);
    let dataset = loaded(folder.path(), DatasetKind::Cuhk03NpDetected);
    assert_eq!(ids(&dataset.train), [(1, 10), (1, 1)]);
    assert_eq!(dataset.warnings, [""; 0]);
}

const SMALL_MSMT17: [&str; 9] = [
    "list_train.txt=0000/0000_000_08_0324noon_1682_2.jpg 0\n\n0001/0001_000_12_0311noon_0482_2_ex.jpg 1\n",
    "list_val.txt=0001/0001_001_11_0329morning_1135_2.jpg 1\r\n",
    "list_query.txt=0000/0000_000_02_0313afternoon_1654_0.jpg 0\n",
    "list_gallery.txt=0000/0000_001_03_0320morning_1301_2.jpg 0\n",
    "mask_train_v2/0000/0000_000_08_0324noon_1682_2.jpg",
    "mask_train_v2/0001/0001_000_12_0311noon_0482_2_ex.jpg",
    "mask_train_v2/0001/0001_001_11_0329morning_1135_2.jpg",
    "mask_test_v2/0000/0000_000_02_0313afternoon_1654_0.jpg",
    "mask_test_v2/0000/0000_001_03_0320morning_1301_2.jpg",
];

#[test]
fn msmt17_keeps_test_identities_apart_and_says_edition_and_lists() {
    let folder = tree(&SMALL_MSMT17);
    let dataset = loaded(folder.path(), DatasetKind::Auto);
    assert_eq!(ids(&dataset.train), [(0, 8), (1, 12), (1, 11)]);
    assert_eq!((ids(&dataset.query), ids(&dataset.gallery)), (vec![(2, 2)], vec![(2, 3)]));
    assert_eq!((dataset.kind, dataset.label.as_str()), (DatasetKind::Msmt17, "msmt17 (V2, train+val)"));
    let without = LoadOptions { msmt17_val: false, ..LoadOptions::default() };
    let train = load(folder.path(), DatasetKind::Msmt17, &without).unwrap();
    assert_eq!((ids(&train.train), ids(&train.query)), (vec![(0, 8), (1, 12)], ids(&dataset.query)));
    assert_eq!(train.label, "msmt17 (V2, train)");
    fs::remove_file(folder.path().join("list_val.txt")).unwrap();
    let missing = error(folder.path(), DatasetKind::Msmt17);
    assert!(missing.contains("missing list_val.txt; `data.msmt17_val` false"), "{missing}");
    assert!(load(folder.path(), DatasetKind::Msmt17, &without).is_ok());
    // What is not used is not looked at.
    fs::write(folder.path().join("list_val.txt"), "nonsense").unwrap();
    assert!(load(folder.path(), DatasetKind::Msmt17, &without).is_ok());
    assert!(error(folder.path(), DatasetKind::Msmt17).contains("list_val.txt, line 1"));
}

#[test]
fn test_sets_need_no_training_images_and_keep_their_identities() {
    let test = |folder: &tempfile::TempDir, kind| {
        load(folder.path(), kind, &LoadOptions { subsets: Subsets::Test, ..LoadOptions::default() })
    };
    let same = |a: &Dataset, b: &Dataset| {
        assert!(b.train.is_empty() && b.warnings.is_empty(), "{:?}", b.warnings);
        assert_eq!((&a.query, &a.gallery, &a.label, a.kind), (&b.query, &b.gallery, &b.label, b.kind));
        assert!(!b.banner().to_string().contains("train"));
    };
    let folder = tree(&SMALL_MARKET);
    let whole = loaded(folder.path(), DatasetKind::Auto);
    fs::remove_dir_all(folder.path().join("bounding_box_train")).unwrap();
    same(&whole, &test(&folder, DatasetKind::Auto).unwrap());
    fs::remove_dir_all(folder.path().join("query")).unwrap();
    let refused = test(&folder, DatasetKind::Auto).unwrap_err().to_string();
    assert!(refused.contains("no folder query; expected are the folders query and bounding_box_test"), "{refused}");
    let named = test(&folder, DatasetKind::Market1501).unwrap_err().to_string();
    assert!(named.contains("market1501 needs the folders query and bounding_box_test"), "{named}");

    let folder = tree(&SMALL_MSMT17);
    let whole = loaded(folder.path(), DatasetKind::Msmt17);
    fs::remove_dir_all(folder.path().join("mask_train_v2")).unwrap();
    same(&whole, &test(&folder, DatasetKind::Msmt17).unwrap());
    fs::remove_file(folder.path().join("list_val.txt")).unwrap();
    same(&whole, &test(&folder, DatasetKind::Auto).unwrap());
    fs::rename(folder.path().join("mask_test_v2"), folder.path().join("other")).unwrap();
    let refused = test(&folder, DatasetKind::Auto).unwrap_err().to_string();
    assert!(refused.contains("test or mask_test_v2"), "{refused}");

    let splits = "splits.json={\"dataset\": \"cuhk03-classic-labeled\", \"images\": [[\"a.jpg\", 1, 1], [\"b.jpg\", 2, 1], \
        [\"c.jpg\", 2, 2]], \"splits\": [[2]]}";
    let folder = tree(&["a.jpg", "b.jpg", "c.jpg", splits]);
    let whole = loaded(folder.path(), DatasetKind::Auto);
    fs::remove_file(folder.path().join("a.jpg")).unwrap();
    same(&whole, &test(&folder, DatasetKind::Auto).unwrap());
    fs::remove_file(folder.path().join("b.jpg")).unwrap();
    let lost = test(&folder, DatasetKind::Auto).unwrap_err().to_string();
    assert!(lost.contains("1 of 2 images"), "{lost}");
}

#[test]
fn msmt17_without_validation_looks_for_none_of_its_images() {
    let folder = tree(&SMALL_MSMT17);
    let whole = loaded(folder.path(), DatasetKind::Msmt17);
    fs::remove_file(folder.path().join("mask_train_v2/0001/0001_001_11_0329morning_1135_2.jpg")).unwrap();
    assert!(error(folder.path(), DatasetKind::Msmt17).contains("1 of 1 image"));
    let without = LoadOptions { msmt17_val: false, ..LoadOptions::default() };
    let dataset = load(folder.path(), DatasetKind::Msmt17, &without).unwrap();
    assert_eq!((ids(&dataset.train), dataset.query), (vec![(0, 8), (1, 12)], whole.query));
}

#[test]
fn msmt17_with_missing_parts_is_refused_with_their_names() {
    let folder = tree(&SMALL_MSMT17);
    fs::remove_file(folder.path().join("mask_train_v2/0001/0001_000_12_0311noon_0482_2_ex.jpg")).unwrap();
    let lost = error(folder.path(), DatasetKind::Auto);
    assert!(lost.contains("1 of 2 images that") && lost.contains("0001_000_12_0311noon_0482_2_ex.jpg"), "{lost}");
    fs::write(folder.path().join("list_query.txt"), "0000/0000_000_02_0313afternoon_1654_0.jpg 0\nnonsense\n").unwrap();
    fs::write(folder.path().join("mask_train_v2/0001/0001_000_12_0311noon_0482_2_ex.jpg"), "").unwrap();
    let line = error(folder.path(), DatasetKind::Auto);
    assert!(line.contains("list_query.txt, line 2: expected a path and an identity"), "{line}");
    fs::rename(folder.path().join("mask_test_v2"), folder.path().join("test")).unwrap();
    assert!(error(folder.path(), DatasetKind::Auto).contains("mask_train_v2 and mask_test_v2"));
    let both = tree(&["MSMT17_V1/list_train.txt", "MSMT17_V2/list_train.txt"]);
    let twice = error(both.path(), DatasetKind::Msmt17);
    assert!(twice.contains("more than once") && twice.contains("MSMT17_V1,"), "{twice}");
    assert!(error(&both.path().join("MSMT17_V1"), DatasetKind::Auto).contains("missing list_val.txt, list_query.txt"));
}

#[test]
fn classic_splits_are_read_and_their_errors_are_clear() {
    let splits = "classic/labeled/splits.json={\"dataset\": \"cuhk03-classic-labeled\", \"images\": [[\"images/a.jpg\", 1, 1], \
        [\"images/b.jpg\", 2, 1], [\"images/c.jpg\", 2, 2]], \"splits\": [[2], [1], [1, 2], [7]]}";
    let images = within("classic/labeled/images", &["a.jpg", "b.jpg", "c.jpg"]);
    let files: Vec<&str> = images.iter().map(String::as_str).chain([splits]).collect();
    let folder = tree(&files);
    let kind = DatasetKind::Cuhk03ClassicLabeled;
    let dataset = loaded(folder.path(), kind);
    assert_eq!((ids(&dataset.train), ids(&dataset.query)), (vec![(1, 1)], vec![(2, 1), (2, 2)]));
    assert_eq!((&dataset.query, dataset.protocol), (&dataset.gallery, Protocol::SingleGalleryShot));
    assert_eq!(dataset.label, "cuhk03-classic-labeled (split 0)");
    let own = folder.path().join("classic/labeled");
    let split = |split| load(&own, DatasetKind::Auto, &LoadOptions { split, ..LoadOptions::default() });
    assert_eq!(ids(&split(1).unwrap().train), [(2, 1), (2, 2)]);
    for (number, part) in [(4, "data.split = 4"), (2, "no training or no test image"), (3, "no training or no test")] {
        let refused = split(number).unwrap_err().to_string();
        assert!(refused.contains(part), "{refused}");
    }
    let other = error(&own, DatasetKind::Cuhk03ClassicDetected);
    assert!(other.contains("it holds cuhk03-classic-labeled, not cuhk03-classic-detected"), "{other}");
    fs::remove_file(own.join("images/c.jpg")).unwrap();
    let lost = error(&own, kind);
    assert!(lost.contains("1 of 3 images") && lost.contains("c.jpg"), "{lost}");
    fs::write(own.join("splits.json"), "{").unwrap();
    assert!(error(&own, kind).contains("it is no file of splits"));
    fs::write(
        own.join("splits.json"),
        "{\"dataset\": \"auto\", \"images\": [[\"../x.jpg\", 1, 1]], \"splits\": [[1]]}",
    )
    .unwrap();
    assert!(error(&own, DatasetKind::Auto).contains("leaves the folder"));
}
