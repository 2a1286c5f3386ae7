//! Compares listings of data set folders: paths, identities, cameras, labels and counts.
//!
//! The stored listing has two rules that this crate has not: it takes only lower-case endings, and only the first digit of a camera.
//! Where it has `cameras_true`, those are compared.

use std::collections::BTreeMap;
use std::path::Path;

use ptl::data::{Dataset, DatasetKind, ImageRecord, LoadOptions, load};
use serde_json::Value;

use crate::support::{Checker, bytes, folders};

fn strings(json: &Value) -> Vec<String> {
    serde_json::from_value(json.clone()).expect("a list of strings")
}

fn integers(json: &Value) -> Vec<i64> {
    serde_json::from_value(json.clone()).expect("a list of integers")
}

/// Returns the path below the data set, with `/`.
fn relative(root: &Path, record: &ImageRecord) -> String {
    let path = record.path.strip_prefix(root).expect("a path in the data set");
    path.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

#[test]
fn golden_market_like_trees() {
    for folder in folders("trees") {
        let expected: Value = serde_json::from_slice(&bytes(&folder.join("expected.json"))).expect("JSON");
        for (name, kind) in [
            ("market", DatasetKind::Market1501),
            ("duke", DatasetKind::DukeMtmcReid),
            ("cuhk03_nested", DatasetKind::Cuhk03NpDetected),
        ] {
            let root = folder.join(name);
            let mut check = Checker::new(format!("trees/{name}"));
            for kind in [kind, DatasetKind::Auto] {
                let dataset = load(&root, kind, &LoadOptions::default()).expect("a data set");
                subsets(&mut check, &root, &dataset, &expected[name]);
            }
        }
    }
}

fn subsets(check: &mut Checker, root: &Path, dataset: &Dataset, expected: &Value) {
    for (subset, records) in [("train", &dataset.train), ("test", &dataset.gallery), ("query", &dataset.query)] {
        let expected = &expected[subset];
        let (upper, records): (Vec<&ImageRecord>, Vec<&ImageRecord>) =
            records.iter().partition(|r| r.path.extension().is_some_and(|e| e.to_ascii_lowercase() != e));
        check.that(upper.iter().all(|r| r.path.is_file()), || format!("{subset}: {upper:?} are no files"));
        let paths: Vec<String> = records.iter().map(|r| relative(root, r)).collect();
        check.that(paths == strings(&expected["paths"]), || format!("{subset}: paths {paths:?}"));
        let pids: Vec<i64> = records.iter().map(|r| r.pid).collect();
        check.that(pids == integers(&expected["ids"]), || format!("{subset}: ids {pids:?}"));
        let cameras = expected.get("cameras_true").unwrap_or(&expected["cameras"]);
        let camids: Vec<i64> = records.iter().map(|r| r.camid).collect();
        check.that(camids == integers(cameras), || format!("{subset}: cameras {camids:?}"));
        let mut unique = pids.clone();
        unique.sort_unstable();
        unique.dedup();
        check.that(unique == integers(&expected["unique_ids"]), || format!("{subset}: unique ids {unique:?}"));
        if subset == "train" {
            let labels: BTreeMap<String, usize> =
                dataset.train_pids().iter().enumerate().map(|(label, pid)| (pid.to_string(), label)).collect();
            let want: BTreeMap<String, usize> = serde_json::from_value(expected["id2label"].clone()).expect("labels");
            check.that(labels == want, || format!("labels {labels:?}"));
        }
    }
}

/// Checks that the one file that the stored listing leaves out for its ending is loaded as an image.
#[test]
fn endings_in_upper_case_are_images() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/trees/market");
    let dataset = load(&root, DatasetKind::Market1501, &LoadOptions::default()).expect("a data set");
    let upper: Vec<String> =
        dataset.query.iter().map(|r| relative(&root, r)).filter(|path| path.ends_with(".JPG")).collect();
    assert_eq!(upper, ["query/1501_c5s2_077733_00.JPG"]);
}

#[test]
fn golden_msmt17_lists() {
    for folder in folders("trees") {
        let expected: Value = serde_json::from_slice(&bytes(&folder.join("expected.json"))).expect("JSON");
        let root = folder.join("msmt17/MSMT17_V1");
        let mut check = Checker::new("trees/msmt17");
        let listed = |names: &[&str], moved: i64| {
            let entries = names.iter().flat_map(|name| expected["msmt17"][name].as_array().expect("a list"));
            let record = |entry: &Value| {
                let path = entry["path"].as_str().expect("path").to_string();
                (path, entry["pid"].as_i64().expect("pid") + moved, entry["camid"].as_i64().expect("camid"))
            };
            let mut list: Vec<_> = entries.map(record).collect();
            list.sort();
            list
        };
        let train_ids = listed(&["list_train.txt", "list_val.txt"], 0).iter().map(|r| r.1).max().expect("images") + 1;
        for (msmt17_val, lists) in [(true, &["list_train.txt", "list_val.txt"][..]), (false, &["list_train.txt"])] {
            let options = LoadOptions { msmt17_val, ..LoadOptions::default() };
            let dataset = load(&folder.join("msmt17"), DatasetKind::Msmt17, &options).expect("a data set");
            let label = if msmt17_val { "msmt17 (V1, train+val)" } else { "msmt17 (V1, train)" };
            check.that(dataset.label == label, || format!("label {}", dataset.label));
            for (name, records, want) in [
                ("train", &dataset.train, listed(lists, 0)),
                ("query", &dataset.query, listed(&["list_query.txt"], train_ids)),
                ("gallery", &dataset.gallery, listed(&["list_gallery.txt"], train_ids)),
            ] {
                let got: Vec<_> = records.iter().map(|r| (relative(&root, r), r.pid, r.camid)).collect();
                check.that(got == want, || format!("{name}: {got:?}"));
            }
        }
    }
}
