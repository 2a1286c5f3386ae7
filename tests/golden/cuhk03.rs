//! Converts CUHK03 from its published form, and compares the images, their pixels and their places.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ptl::base::progress::Reporter;
use ptl::base::stop::StopFlag;
use ptl::data::convert::cuhk03::{BoxKind, Job, MatFile, NewProtocol, Outcome, convert};
use ptl::data::{Dataset, DatasetKind, LoadOptions, Protocol, load};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::{Checker, bytes, folders};

/// Returns the published files, unzipped in a folder of their own, and the expected results.
fn published(folder: &Path) -> (TempDir, Value) {
    let copy = tempfile::tempdir().expect("a folder");
    let configs = BoxKind::ALL.map(|kind| format!("cuhk03_new_protocol_config_{}.mat", kind.name()));
    for name in configs.iter().map(String::as_str).chain(["cuhk-03.mat"]) {
        fs::write(copy.path().join(name), bytes(&folder.join(name))).expect("a written file");
    }
    (copy, serde_json::from_slice(&bytes(&folder.join("expected.json"))).expect("JSON"))
}

fn hex(pixels: &[u8]) -> String {
    Sha256::digest(pixels).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_cuhk03_images() {
    for folder in folders("cuhk03") {
        let (files, expected) = published(&folder);
        let mat = files.path().join("cuhk-03.mat");
        let file = MatFile::open(&mat).expect("images");
        for kind in BoxKind::ALL {
            let mut check = Checker::new(format!("cuhk03 {}", kind.name()));
            let images = file.images(kind).expect("images");
            let protocol = NewProtocol::read(&kind.config_beside(&mat)).expect("lists");
            protocol.check(&images).expect("lists that belong to the images");
            let people: Vec<usize> = expected["pair_matlab_shapes"]
                .as_array()
                .expect("shapes")
                .iter()
                .map(|s| s[0].as_u64().expect("people") as usize)
                .collect();
            check.that(images.people()[..] == people[..], || format!("people {:?}", images.people()));
            let expected = expected[kind.name()].as_object().expect("images by path");
            check.that(protocol.listed().len() == expected.len(), || format!("{} images", protocol.listed().len()));
            for listed in protocol.listed() {
                let path = listed.path.to_str().expect("UTF-8");
                let Some(want) = expected.get(path) else {
                    check.that(false, || format!("{path} is not expected"));
                    continue;
                };
                let image = images.read(listed.key).expect("an image");
                let end = image.pixels.len() - 3;
                let got = serde_json::json!({
                    "source": listed.key.name() + ".png", "width": image.width, "height": image.height,
                    "rgb_sha256": hex(&image.pixels), "first_pixel": image.pixels[..3], "last_pixel": image.pixels[end..],
                });
                for (key, got) in got.as_object().expect("an object") {
                    check.that(*got == want[key], || format!("{path}: {key} {got} instead of {}", want[key]));
                }
            }
        }
        let sets = file.test_sets().expect("test sets");
        let mut check = Checker::new("cuhk03 test sets");
        check.that(sets.len() as u64 == expected["testsets_matlab_shape"][0], || format!("{} test sets", sets.len()));
        let first = serde_json::to_value(&sets[0]).expect("numbers");
        let want: Vec<Vec<f64>> = serde_json::from_value(expected["testsets_first"].clone()).expect("numbers");
        let want: Vec<Vec<u64>> = want.iter().map(|id| id.iter().map(|&x| x as u64).collect()).collect();
        check.that(first == serde_json::json!(want), || format!("first test set {first}"));
    }
}

#[test]
fn golden_cuhk03_conversion_loads_back() {
    for folder in folders("cuhk03") {
        let (files, expected) = published(&folder);
        let mat = files.path().join("cuhk-03.mat");
        let out = files.path().join("out");
        let configs = BoxKind::ALL.map(|kind| kind.config_beside(&mat));
        let job = Job {
            mat: &mat,
            configs: [Some(&configs[0]), Some(&configs[1])],
            out: &out,
            reporter: &Reporter::silent(),
            stop: &StopFlag::default(),
        };
        assert!(matches!(convert(&job).expect("a conversion"), Outcome::Finished { .. }));
        let mut check = Checker::new("cuhk03 conversion");
        let opened = |kind, split| {
            let mut dataset: Dataset =
                load(&out, kind, &LoadOptions { split, ..LoadOptions::default() }).expect("a data set");
            dataset.drop_or_refuse_broken(false, &|| {}).expect("images that decode");
            dataset
        };
        for (kind, np, classic) in [
            (BoxKind::Detected, DatasetKind::Cuhk03NpDetected, DatasetKind::Cuhk03ClassicDetected),
            (BoxKind::Labeled, DatasetKind::Cuhk03NpLabeled, DatasetKind::Cuhk03ClassicLabeled),
        ] {
            let root = out.join(kind.name());
            let dataset = opened(np, 0);
            let all = || dataset.train.iter().chain(&dataset.query).chain(&dataset.gallery);
            let paths: BTreeSet<String> = all()
                .map(|r| r.path.strip_prefix(&root).expect("below").to_str().expect("UTF-8").to_string())
                .collect();
            let want: BTreeSet<String> = expected[kind.name()].as_object().expect("images").keys().cloned().collect();
            check.that(paths == want, || format!("{np}: paths {paths:?}"));
            check.that(dataset.protocol == Protocol::CrossCamera, || format!("{np}: {:?}", dataset.protocol));

            let images = MatFile::open(&mat).expect("images").images(kind).expect("images");
            let sets = MatFile::open(&mat).expect("images").test_sets().expect("test sets");
            for (split, set) in sets.iter().enumerate() {
                let dataset = opened(classic, split);
                let tested: BTreeSet<i64> = set.iter().map(|&[pair, person]| images.pid(pair, person)).collect();
                let found: BTreeSet<i64> = dataset.query.iter().map(|r| r.pid).collect();
                check.that(found == tested, || format!("{classic}, split {split}: {found:?}"));
                check
                    .that(dataset.train.iter().all(|r| !tested.contains(&r.pid)), || format!("split {split} overlaps"));
                check
                    .that(dataset.train.len() + dataset.query.len() == want.len(), || format!("split {split}: images"));
                check.that(dataset.protocol == Protocol::SingleGalleryShot, || format!("{:?}", dataset.protocol));
            }
        }
    }
}
