//! Identities from a table or from names of files, with and without cameras.

use std::fs;
use std::path::Path;

use ptl::data::{DatasetKind, ImageRecord, LoadOptions, load};
use serde_json::Value;

use super::{fails_with, fixture, path, say, succeeds, tiny};

/// Writes a table of all images of a data set in Market-1501's layout; with `cameras`, their column too.
fn write_table(data: &Path, file: &Path, cameras: bool) {
    let parts = [("bounding_box_train", "train"), ("query", "query"), ("bounding_box_test", "gallery")];
    let mut rows = vec![format!("split\tpath\tid{}", if cameras { "\tcamera" } else { "" })];
    for (folder, split) in parts {
        for entry in fs::read_dir(data.join(folder)).unwrap() {
            let image = entry.unwrap().path();
            let name = image.file_name().unwrap().to_str().unwrap().to_string();
            let (id, rest) = name.split_once("_c").unwrap();
            let camera = &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap()];
            let camera = if cameras { format!("\t{camera}") } else { String::new() };
            rows.push(format!("{split}\t{}\t{id}{camera}", image.display()));
        }
    }
    fs::write(file, rows.join("\n")).unwrap();
}

/// Returns the records with paths relative to `root`.
fn below(records: &[ImageRecord], root: &Path) -> Vec<(String, i64, i64)> {
    let below = |record: &ImageRecord| record.path.strip_prefix(root).unwrap().display().to_string();
    records.iter().map(|record| (below(record), record.pid, record.camid)).collect()
}

#[test]
fn a_table_gives_the_results_of_the_folders_that_it_lists() {
    let folder = tempfile::tempdir().unwrap();
    let data = &fixture().data;
    let table = path(&folder, "people.tsv");
    write_table(Path::new(data), Path::new(&table), true);
    let figures = |data: &str, name: &str| {
        let run = path(&folder, name);
        succeeds(&tiny(&["train", "--data", data, "--out", &run]));
        let summary: Value = serde_json::from_slice(&fs::read(Path::new(&run).join("summary.json")).unwrap()).unwrap();
        let report = path(&folder, &format!("{name}.json"));
        let printed = succeeds(&["evaluate", "--checkpoint", &run, "--out", &report]);
        let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
        (["mAP", "mINP"].map(|key| summary[key].clone()), report["plain"].clone(), printed)
    };
    let (of_folders, plain_of_folders, _) = figures(data, "of folders");
    let (of_table, plain_of_table, printed) = figures(&table, "of table");
    assert!(of_table[0].as_f64().unwrap() > 0.0);
    assert_eq!((of_table, plain_of_table), (of_folders, plain_of_folders));
    assert!(printed.contains("people.tsv (csv)"), "{printed}");
}

#[test]
fn data_without_cameras_are_trained_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let data = path(&folder, "people");
    // A folder for each identity, without cameras in the names.
    for (number, (image, id, _)) in below(
        &load(Path::new(&fixture().data), DatasetKind::Auto, &LoadOptions::default()).unwrap().train,
        Path::new(&fixture().data),
    )
    .into_iter()
    .enumerate()
    {
        let to = Path::new(&data).join(format!("person {id}"));
        fs::create_dir_all(&to).unwrap();
        fs::copy(Path::new(&fixture().data).join(image), to.join(format!("{number}.png"))).unwrap();
    }
    let run = path(&folder, "run");
    let train = tiny(&["train", "--data", &data, "--dataset", "id-folders", "--out", &run]);
    let with = |flags: &[&'static str]| [&train[..], flags].concat();
    fails_with(1, &train, &["has no images for a test", "--val-ids"]);
    fails_with(1, &with(&["--val-ids", "1"]), &["--val-ids = 1", "has images of one camera", "--same-camera keep"]);
    assert!(!Path::new(&run).exists());
    let printed = succeeds(&with(&["--val-ids", "1", "--same-camera", "keep", "--ids", "2"]));
    assert!(printed.contains("images by the query's camera count"), "{printed}");

    // Nothing but the flags says which identities were not trained.
    let evaluate = ["evaluate", "--checkpoint", &run];
    fails_with(1, &evaluate, &["has no split, and the model was trained on it: add --val-ids 1 --split 0, to measure"]);
    let other = ["--val-ids", "1", "--split", "3"];
    fails_with(
        1,
        &[&evaluate[..], &other].concat(),
        &["held out 1, with --split 0, so trained ones would be measured"],
    );
    let extract = ["extract", "--checkpoint", &run, "--out", &path(&folder, "all.npy")];
    fails_with(1, &extract, &["has no split, and the model was trained on it"]);
    let report = path(&folder, "report.json");
    let printed = succeeds(&[&evaluate[..], &["--val-ids", "1", "--out", &report]].concat());
    let label = "(id-folders, images of the same camera count (1 training identity held out for validation, seed 0))";
    assert!(printed.contains(label), "{printed}");
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!((&report["protocol"], &report["filter"]), (&"any-camera".into(), &"nothing".into()));

    // The run's reading of names is not that of other data.
    let printed = succeeds(&[&evaluate[..], &["--data", &fixture().data]].concat());
    assert!(printed.contains("(Market-1501 layout)") && !printed.contains("the query's camera count"), "{printed}");

    let people = ["evaluate", "--checkpoint", &fixture().run, "--data", &fixture().data];
    let printed = succeeds(&[&people[..], &["--same-camera", "keep"]].concat());
    assert!(printed.contains("(Market-1501 layout, images of the same camera count)"), "{printed}");

    fails_with(2, &with(&["--same-camera", "some"]), &["--same-camera", "drop", "keep"]);
    fails_with(
        1,
        &with(&["--name-pattern", "(?<who>a)"]),
        &["--name-pattern", "it has the group who: groups are id, camera"],
    );
}

/// Reads real handwriting through a table, if `PTL_DATA` names its folder.
#[test]
fn omniglot_through_a_table_is_omniglot() {
    let Some(root) = std::env::var_os("PTL_DATA") else {
        say("SKIPPED: PTL_DATA is not set");
        return;
    };
    let root = Path::new(&root).join("omniglot-reid/target");
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("characters.tsv");
    write_table(&root, &table, true);
    let options = LoadOptions::default();
    let by_folders = load(&root, DatasetKind::Auto, &options).unwrap();
    let by_table = load(&table, DatasetKind::Auto, &options).unwrap();
    let all = |dataset: &ptl::data::Dataset| {
        [&dataset.train, &dataset.query, &dataset.gallery].map(|records| below(records, &root))
    };
    assert!(by_folders.train.len() > 1000);
    assert_eq!(all(&by_table), all(&by_folders));
}
