use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::data::ImageRecord;

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

/// Returns identities and cameras as the user wrote them.
fn named(dataset: &Dataset, records: &[ImageRecord]) -> Vec<String> {
    let name = |names: &BTreeMap<i64, String>, number: i64| names.get(&number).cloned().unwrap_or(number.to_string());
    let names = &dataset.names;
    records.iter().map(|r| format!("{} {}", name(&names.ids, r.pid), name(&names.cameras, r.camid))).collect()
}

/// Returns options for test images only.
fn test_only() -> LoadOptions {
    LoadOptions { subsets: Subsets::Test, ..LoadOptions::default() }
}

/// Returns options by which images of the same camera count.
fn keeping() -> LoadOptions {
    LoadOptions { same_camera: SameCamera::Keep, ..LoadOptions::default() }
}

/// Creates a folder with `list.csv` and images a.png to h.png in `img`.
fn table(list: &str) -> tempfile::TempDir {
    let folder = tree(
        &["a", "b", "c", "d", "e", "f", "g", "h"]
            .map(|name| format!("img/{name}.png={name}"))
            .each_ref()
            .map(String::as_str),
    );
    fs::write(folder.path().join("list.csv"), list).unwrap();
    folder
}

const DIVIDED: &str = "path;identity;Camera;split;colour\n\
    img/a.png;fox;north;train;red\nimg/b.png;fox;south;train;red\nimg/c.png;elk;north;train;red\nimg/d.png;elk;south;Training;red\n\
    img/e.png;ant;north;query;red\nimg/f.png;ant;south;gallery;red\nimg/g.png;bee;north;gallery;red\n";

#[test]
fn a_table_tells_identities_cameras_and_splits() {
    let folder = table(DIVIDED);
    let root = folder.path();
    let gallery = ids(&loaded(root, DatasetKind::Auto).gallery);
    for (place, kind) in [
        (root.to_path_buf(), DatasetKind::Auto),
        (root.to_path_buf(), DatasetKind::Csv),
        (root.join("list.csv"), DatasetKind::Auto),
    ] {
        let dataset = loaded(&place, kind);
        assert_eq!((dataset.kind, dataset.label.as_str(), dataset.has_no_split), (DatasetKind::Csv, "csv", false));
        assert_eq!(named(&dataset, &dataset.train), ["fox north", "fox south", "elk north", "elk south"]);
        assert_eq!(named(&dataset, &dataset.query), ["ant north"]);
        assert_eq!(named(&dataset, &dataset.gallery), ["ant south", "bee north"]);
        assert_eq!(dataset.train_classes(), 2);
        let warnings = dataset.warnings.join("\n");
        assert!(warnings.contains("list.csv: 1 column is not read (colour)"), "{warnings}");
        assert_eq!(warnings.contains("1 image is in no line of the list and left out ("), place.is_dir(), "{warnings}");
        assert!(dataset.check_for_training(2).is_ok() && dataset.check_for_evaluation().is_ok());
    }
    // The test alone needs no training images, and its identities keep their numbers.
    fs::remove_file(root.join("img/a.png")).unwrap();
    let dataset = load(root, DatasetKind::Csv, &test_only()).unwrap();
    assert!(dataset.train.is_empty());
    assert_eq!(ids(&dataset.gallery), gallery);
    let text = error(root, DatasetKind::Csv);
    assert!(text.contains("1 of 7 images") && text.contains("img/a.png"), "{text}");
}

#[test]
fn a_table_without_splits_is_for_training_or_for_a_test() {
    let rows = "path,id,camera\nimg/a.png,7,1\nimg/b.png,7,2\nimg/c.png,3,1\nimg/d.png,3,2\nimg/e.png,5,1\nimg/f.png,5,1\nimg/g.png,5,2\n";
    let folder = table(rows);
    let root = folder.path();
    let dataset = loaded(root, DatasetKind::Auto);
    assert!(dataset.has_no_split && dataset.query.is_empty() && dataset.gallery.is_empty());
    assert_eq!((dataset.train.len(), dataset.train_pids()), (7, vec![3, 5, 7]));
    let refused = dataset.check_for_evaluation().unwrap_err().to_string();
    assert!(refused.contains("has no images for a test") && refused.contains("`data.val_ids`"), "{refused}");

    let dataset = load(root, DatasetKind::Auto, &test_only()).unwrap();
    assert_eq!((dataset.train.len(), dataset.gallery.len(), dataset.query.len()), (0, 7, 6));
    assert_eq!(dataset.label, "csv (queries drawn, seed 0)");
    assert!(dataset.check_for_evaluation().is_ok());

    let held_out = load(root, DatasetKind::Auto, &LoadOptions { val_ids: 1, ..LoadOptions::default() }).unwrap();
    assert_eq!(held_out.label, "csv (1 training identity held out for validation, seed 0)");
    assert_eq!(held_out.train.len() + held_out.gallery.len(), 7);
    assert_eq!(held_out.query.len(), 2);
}

#[test]
fn test_images_of_a_table_are_divided_by_a_draw() {
    let rows = "path,id,camera,split\nimg/a.png,1,1,train\nimg/b.png,1,2,train\nimg/c.png,2,1,test\nimg/d.png,2,1,test\nimg/e.png,2,2,test\n\
                img/f.png,3,1,test\n";
    let folder = table(rows);
    let dataset = loaded(folder.path(), DatasetKind::Auto);
    assert_eq!((dataset.train.len(), dataset.query.len(), dataset.gallery.len()), (2, 2, 4));
    let warnings = dataset.warnings.join("\n");
    assert!(
        warnings.contains("1 test identity has images of one camera, so no image of them is searched for (3)"),
        "{warnings}"
    );

    let dataset = load(folder.path(), DatasetKind::Auto, &keeping()).unwrap();
    assert_eq!((dataset.protocol, dataset.query.len(), dataset.gallery.len()), (Protocol::AnyCamera, 1, 3));
    assert_eq!(dataset.label, "csv (queries drawn, seed 0), images of the same camera count");
    assert!(dataset.warnings.join("\n").contains("1 test identity has one image, so"));
}

#[test]
fn without_cameras_all_images_must_count() {
    let rows = "path,id,split\nimg/a.png,1,train\nimg/b.png,1,train\nimg/c.png,2,query\nimg/d.png,2,gallery\nimg/e.png,3,gallery\n";
    let folder = table(rows);
    let refused = loaded(folder.path(), DatasetKind::Auto).check_for_evaluation().unwrap_err().to_string();
    assert!(
        refused.ends_with("for data of one camera or of unknown ones, `data.same_camera` keep counts all images"),
        "{refused}"
    );
    let dataset = load(folder.path(), DatasetKind::Auto, &keeping()).unwrap();
    assert!(dataset.check_for_evaluation().is_ok());
    assert_eq!(dataset.label, "csv, images of the same camera count");
    assert!(dataset.queries_without_match().is_empty());

    let rows = rows
        .replace("path,id,split", "path,id,split,sequence")
        .replace("query", "query,x")
        .replace("gallery", "gallery,y");
    let rows = rows.replace("train\n", "train,z\n");
    let folder = table(&rows);
    let dataset = loaded(folder.path(), DatasetKind::Auto);
    assert_eq!(dataset.label, "csv (sequences in place of cameras)");
    assert!(dataset.check_for_evaluation().is_ok());
}

#[test]
fn a_table_of_which_no_query_can_be_drawn_is_refused() {
    let each = "path,id,sequence\nimg/a.png,1,10:00\nimg/b.png,1,10:01\n";
    let text = error(table(each).path(), DatasetKind::Csv);
    assert!(
        text.contains("each of its images has a sequence of its own") && text.contains("`data.same_camera` keep"),
        "{text}"
    );
    let one = "path,id,split\nimg/a.png,1,test\nimg/b.png,1,test\n";
    let text = error(table(one).path(), DatasetKind::Csv);
    assert!(
        text.contains("each of its test identities has images of one camera, so none can be searched for: for data of"),
        "{text}"
    );
    for part in ["query", "gallery"] {
        let both = format!("path,id,camera,split\nimg/a.png,1,1,test\nimg/b.png,1,2,test\nimg/c.png,1,2,{part}\n");
        let text = error(table(&both).path(), DatasetKind::Csv);
        assert!(
            text.contains("it has images of the split test, from which queries are drawn, beside others"),
            "{text}"
        );
    }
    let trained = "path,id,split\nimg/a.png,1,train\nimg/b.png,2,train\n";
    let refused = loaded(table(trained).path(), DatasetKind::Csv).check_for_evaluation().unwrap_err().to_string();
    assert!(refused.contains("has no images for a test: hold identities out by `data.val_ids`"), "{refused}");
    let text = error(table("path,id\nimg/a.png,1\nimg/b.png,01\n").path(), DatasetKind::Csv);
    assert!(
        text.contains("the identities 01 and 1 have the same number: write the same one alike everywhere"),
        "{text}"
    );
}

#[test]
fn a_query_whose_picture_is_in_the_gallery_is_refused_where_all_images_count() {
    let folder = tree(&[
        "query/0001_c1.jpg=a",
        "bounding_box_test/0001_c1.jpg=a",
        "bounding_box_test/0001_c2.jpg=b",
        "bounding_box_train/0002_c1.jpg=c",
    ]);
    assert!(loaded(folder.path(), DatasetKind::Auto).check_for_evaluation().is_ok());
    let text = load(folder.path(), DatasetKind::Auto, &keeping()).unwrap_err().to_string();
    assert!(
        text.contains("1 gallery image has the same content as a query, and each such query would find itself"),
        "{text}"
    );
}

#[test]
fn wrong_lines_of_a_table_are_named() {
    for (list, part) in [
        (
            "path,id,split\nimg/a.png,1,val\n",
            "line 2: its split is \"val\": choose train, query, gallery or test; `data.val_ids` holds",
        ),
        ("path,id,split\nimg/a.png,1,left\n", "line 2: its split is \"left\": choose train, query, gallery or test"),
        ("path,id\nimg/a.png,1\nimg/a.png,2\n", "line 3: "),
        (
            "path,id\nimg/a.png,1\nimg/a.png,2\n",
            "is in line 2, too, there with the id 1, here with 2: an image has one identity",
        ),
        (
            "path,id,split\nimg/a.png,1,query\nimg/a.png,1,gallery\n",
            "is in line 2, too, in another split; of images in the split test",
        ),
        ("path,id,cam\nimg/a.png,1,1\nimg/a.png,1,2\n", "is in line 2, too, there with another camera or sequence"),
        ("path,id,cam\nimg/a.png,1,\n", "line 2: its camera is empty"),
        ("path,id\nimg/a.png,-1\n", "line 2: its id is -1: negative numbers mean images of nobody"),
        ("path,id\nimg/a.png,\n", "line 2: its id is empty"),
        ("path,id\n", "it lists no image"),
        ("path,name\nimg/a.png,x\n", "it has no column id or pid or identity (it has path, name)"),
        ("path,id\nimg/z.png,1\n", "1 of 1 image that "),
    ] {
        let folder = table(list);
        let text = error(&folder.path().join("list.csv"), DatasetKind::Auto);
        assert!(text.contains(part), "{part}: {text}");
    }
    let folder = table("path,name\nimg/a.png,x\n");
    let text = error(folder.path(), DatasetKind::Auto);
    assert!(
        text.contains("no CSV file with the columns path and id; ")
            && text.contains("list.csv is not read: it has no column id"),
        "{text}"
    );
    let text = error(&folder.path().join("list.csv"), DatasetKind::Market1501);
    assert!(text.contains("it is a file: for market1501, name the folder"), "{text}");
}

#[test]
fn folders_of_identities_are_read_when_asked_for() {
    let folder = tree(&["fox/1.png=a", "fox/deep/2.png=b", "elk/1.png=c", "elk/2.png=d", "loose.png=e"]);
    let text = error(folder.path(), DatasetKind::Auto);
    assert!(
        text.contains("if each is an identity, name `data.kind` id-folders; if they are classes, add `task` classify"),
        "{text}"
    );
    let dataset = loaded(folder.path(), DatasetKind::IdFolders);
    assert_eq!((dataset.label.as_str(), dataset.has_no_split), ("id-folders", true));
    assert_eq!(named(&dataset, &dataset.train), ["elk 0", "elk 0", "fox 0", "fox 0"]);
    let warnings = dataset.warnings.join("\n");
    assert!(warnings.contains("1 image in no folder of an identity is left out (loose.png)"), "{warnings}");

    let folder = tree(&[
        "train/fox/1.png=a",
        "train/fox/2.png=b",
        "Query/elk/1.png=c",
        "gallery/elk/2.png=d",
        "gallery/ant/3.png=e",
        "notes/x/4.png=f",
    ]);
    let dataset = load(folder.path(), DatasetKind::IdFolders, &keeping()).unwrap();
    assert_eq!((dataset.train.len(), named(&dataset, &dataset.query)), (2, vec!["elk 0".to_string()]));
    assert_eq!(named(&dataset, &dataset.gallery), ["ant 0", "elk 0"]);
    // The test alone has the same numbers.
    let test =
        load(folder.path(), DatasetKind::IdFolders, &LoadOptions { subsets: Subsets::Test, ..keeping() }).unwrap();
    assert_eq!((test.train.len(), &test.query, &test.gallery), (0, &dataset.query, &dataset.gallery));
    let warnings = dataset.warnings.join("\n");
    assert!(
        warnings.contains(
            "1 image outside of the folders of splits (train, query, gallery, test) is left out (notes/x/4.png)"
        ),
        "{warnings}"
    );
    assert!(dataset.check_for_evaluation().is_ok());
}

#[test]
fn a_pattern_reads_identity_and_camera_from_names() {
    let folder = tree(&["7_cam1_x.png=a", "7_cam2_y.png=b", "8_cam1.png=c", "8_cam3.png=d", "readme.png=e"]);
    let with = |pattern: &str| LoadOptions { name_pattern: Some(pattern.into()), ..LoadOptions::default() };
    let dataset = load(folder.path(), DatasetKind::Auto, &with(r"^(?<id>\d+)_cam(?<camera>\d+)")).unwrap();
    assert_eq!(ids(&dataset.train), [(7, 1), (7, 2), (8, 1), (8, 3)]);
    assert_eq!((dataset.kind, dataset.label.as_str()), (DatasetKind::IdFolders, "id-folders, names by pattern"));
    assert!(dataset.warnings.join("\n").contains("1 image not matched by the pattern is left out (readme.png)"));

    // The folder tells the identity, and the pattern the rest.
    let folder = tree(&["fox/c1-test.png=a", "fox/c2-test.png=b", "elk/c1-train.png=c", "elk/c2-train.png=d"]);
    let dataset = load(folder.path(), DatasetKind::Auto, &with(r"c(?<camera>\d)-(?<split>[a-z]+)\.")).unwrap();
    assert_eq!(
        (named(&dataset, &dataset.train), dataset.query.len()),
        (vec!["elk 1".to_string(), "elk 2".to_string()], 2)
    );
    let refused = |pattern: &str| load(folder.path(), DatasetKind::Auto, &with(pattern)).unwrap_err().to_string();
    for (pattern, part) in [
        (r"c(?<camera>\d)\.", "`data.name_pattern` matches no image; the first is elk/c1-train.png"),
        (r"c\d-(?<split>..)", "its split is \"tr\": choose train, query, gallery or test"),
        (r"c(?<camera>1)?", "the pattern tells a camera or sequence of some images, but not of "),
        (r"(?<id", "it is no regular expression: "),
    ] {
        let text = refused(pattern);
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn galleries_that_the_protocol_draws_refuse_images_of_the_same_camera() {
    let folder = tree(&SMALL_MARKET);
    let dataset = load(folder.path(), DatasetKind::Auto, &keeping()).unwrap();
    assert_eq!(
        (dataset.protocol, dataset.label.as_str()),
        (Protocol::AnyCamera, "Market-1501 layout, images of the same camera count")
    );
    let splits = r#"{"dataset": "cuhk03-classic-detected", "images": [["a.jpg", 1, 1], ["b.jpg", 1, 2], ["c.jpg", 2, 1]], "splits": [[1]]}"#;
    let folder = tree(&[&format!("splits.json={splits}"), "a.jpg=a", "b.jpg=b", "c.jpg=c"]);
    let text = load(folder.path(), DatasetKind::Auto, &keeping()).unwrap_err().to_string();
    assert!(
        text.contains("`data.same_camera` = keep") && text.contains("draws its galleries at random: leave it out"),
        "{text}"
    );
}

#[test]
fn veri_776_has_the_names_of_market_in_other_folders() {
    let folder = tree(&[
        "VeRi/image_train/0001_c001_00016450_0.jpg=a",
        "VeRi/image_train/0003_c020_00016450_0.jpg=b",
        "VeRi/image_query/0002_c002_00030600_0.jpg=c",
        "VeRi/image_test/0002_c003_00030600_0.jpg=d",
        "VeRi/image_test/0002_c021_00030600_0.jpg=e",
    ]);
    let dataset = loaded(folder.path(), DatasetKind::Veri776);
    assert_eq!((ids(&dataset.train), ids(&dataset.query)), (vec![(1, 1), (3, 20)], vec![(2, 2)]));
    assert_eq!(ids(&dataset.gallery), [(2, 3), (2, 21)]);
    assert!(
        dataset.warnings.join("\n").contains("an identity or camera that veri776 does not have: 1 to 776 and 1 to 20")
    );
    assert!(matches!(dataset.verdict(), Verdict::Unknown(Some(_))), "{}", dataset.verdict());
    let dataset = loaded(&folder.path().join("VeRi"), DatasetKind::Auto);
    assert_eq!((dataset.label.as_str(), dataset.protocol), ("VeRi-776 layout", Protocol::CrossCamera));
    fs::remove_dir_all(folder.path().join("VeRi/image_train")).unwrap();
    assert_eq!(load(folder.path(), DatasetKind::Veri776, &test_only()).unwrap().gallery.len(), 2);
    let text = error(folder.path(), DatasetKind::Veri776);
    assert!(
        text.contains("veri776 needs the folders image_train, image_query and image_test: neither it nor"),
        "{text}"
    );
}

#[test]
fn vehicle_id_reads_its_lists_and_draws_galleries() {
    let folder = tree(&[
        "image/0000001.jpg=a",
        "image/0000002.jpg=b",
        "image/0000003.jpg=c",
        "image/0000004.jpg=d",
        "image/0000005.jpg=e",
        "train_test_split/train_list.txt=0000001 7\n0000002 7\n",
        "train_test_split/test_list_800.txt=0000004 9\r\n0000003 9\r\n\r\n0000005 8\r\n",
    ]);
    let dataset = loaded(folder.path(), DatasetKind::VehicleId800);
    assert_eq!(ids(&dataset.train), [(7, 1), (7, 2)]);
    assert_eq!((ids(&dataset.query), dataset.protocol), (vec![(9, 3), (9, 4), (8, 5)], Protocol::RandomGallery));
    assert_eq!(dataset.query, dataset.gallery);
    assert!(dataset.banner().to_string().contains("3        -"), "{}", dataset.banner());
    assert!(dataset.check_for_evaluation().is_ok());
    let text = error(folder.path(), DatasetKind::Auto);
    assert!(
        text.contains("it has several tests: choose one by `data.kind`, vehicleid-800, vehicleid-1600, vehicleid-2400"),
        "{text}"
    );
    let text = error(folder.path(), DatasetKind::VehicleId1600);
    assert!(text.contains("test_list_1600.txt"), "{text}");
    let held_out = LoadOptions { val_ids: 1, ..LoadOptions::default() };
    let text = load(folder.path(), DatasetKind::VehicleId800, &held_out).unwrap_err().to_string();
    assert!(text.contains("has 1 training identity"), "{text}");
    for (line, part) in [
        ("0000001", "line 1: expected the name of an image and an identity"),
        ("0000001 x", "line 1: x is no identity"),
        ("a 1", "line 1: a is no number: VehicleID's images have numbers"),
        ("0000009 1", "1 of 1 image that "),
        ("", "the list names no image"),
    ] {
        fs::write(folder.path().join("train_test_split/test_list_800.txt"), line).unwrap();
        let text = error(folder.path(), DatasetKind::VehicleId800);
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn veri_wild_takes_cameras_from_its_table_of_vehicles() {
    let info = "id/image;Camera ID;Time;Model;Type;Color\n00001/000001;45;2018-03-12 10:45:29;;;white\n00001/000002;46;t;;;\n\
                00002/000003;45;t;;;\n00002/000004;174;t;;;\n";
    let folder = tree(&[
        "VERI-Wild/images/00001/000001.jpg=a",
        "VERI-Wild/images/00001/000002.jpg=b",
        "VERI-Wild/images/00002/000003.jpg=c",
        "VERI-Wild/images/00002/000004.jpg=d",
        &format!("VERI-Wild/train_test_split/vehicle_info.txt={info}"),
        "VERI-Wild/train_test_split/train_list.txt=00001/000001\n00001/000002\n",
        "VERI-Wild/train_test_split/test_3000_query.txt=00002/000004.jpg\n",
        "VERI-Wild/train_test_split/test_3000_id.txt=00002/000003.jpg 2 45\n",
    ]);
    let dataset = loaded(folder.path(), DatasetKind::VeriWild3000);
    assert_eq!(ids(&dataset.train), [(1, 45), (1, 46)]);
    assert_eq!((ids(&dataset.query), ids(&dataset.gallery)), (vec![(2, 174)], vec![(2, 45)]));
    assert!(dataset.check_for_evaluation().is_ok());
    let text = error(folder.path(), DatasetKind::VeriWild5000);
    assert!(text.contains("veri-wild-5000 needs the list test_5000_query.txt or test_5000_id_query.txt"), "{text}");
    let text = error(&folder.path().join("VERI-Wild"), DatasetKind::Auto);
    assert!(text.contains("choose one by `data.kind`, veri-wild-3000, veri-wild-5000, veri-wild-10000"), "{text}");
    let lists = folder.path().join("VERI-Wild/train_test_split");
    for (file, content, part) in [
        ("train_list.txt", "00001/000009", "line 1: 00001/000009 is not in vehicle_info.txt, which tells its camera"),
        ("train_list.txt", "000009", "line 1: 000009 is no vehicle/image"),
        ("vehicle_info.txt", "a;b\n00001/000001;x;", "line 2: \"x\" is no camera: expected image;camera;..."),
    ] {
        fs::write(lists.join(file), content).unwrap();
        let text = error(folder.path(), DatasetKind::VeriWild3000);
        assert!(text.contains(part), "{part}: {text}");
    }
}
