//! Identities that are held out of the training, and measured instead of the test.

use std::fs;

use serde_json::Value;

use super::{fails_with, fixture, json, path, succeeds, tiny};

#[test]
fn held_out_identities_are_measured_and_the_test_stays_the_test() {
    let data = &fixture().data;
    let folder = tempfile::tempdir().unwrap();
    let run = path(&folder, "run");
    succeeds(&tiny(&["train", "--data", data, "--val-ids", "1", "--split", "5", "--out", &run]));
    let log = fs::read_to_string(format!("{run}/log.txt")).unwrap();
    assert!(log.contains("1 training identity held out for validation, seed 5"), "{log}");
    let summary = json(format!("{run}/summary.json"));
    assert!(summary["evaluated_on"].as_str().unwrap().contains("1 training identity held out"), "{summary}");

    // The trained model has one output less for each of them, and is measured on the test unless the command says otherwise.
    let evaluate = |flags: &[&str]| {
        let out = path(&folder, "report.json");
        (succeeds(&[&["evaluate", "--checkpoint", &run, "--out", &out][..], flags].concat()), json(out))
    };
    let (printed, _) = evaluate(&[]);
    assert!(!printed.contains("held out"), "{printed}");
    let (printed, report) = evaluate(&["--val-ids", "1", "--split", "5"]);
    assert!(printed.contains("1 training identity held out for validation, seed 5"), "{printed}");
    let close = |of: &Value| (100.0 * report["plain"]["mAP"].as_f64().unwrap() - of.as_f64().unwrap()).abs() < 1e-3;
    assert!(close(&summary["mAP"]), "{report} {summary}");

    let resume = ["train", "--resume", &run, "--epochs", "3"];
    fails_with(1, &[&resume[..], &["--val-ids", "0"]].concat(), &["--val-ids = 0", "belongs to another model"]);
    fails_with(1, &[&resume[..], &["--split", "6"]].concat(), &["--split = 6", "begun with 5"]);
    succeeds(&resume);
}

#[test]
fn what_cannot_be_held_out_is_refused() {
    let data = &fixture().data;
    let folder = tempfile::tempdir().unwrap();
    let out = path(&folder, "run");
    let train = tiny(&["train", "--data", data, "--out", &out]);
    let refused = |flags: &[&str], parts: &[&str]| {
        fails_with(1, &[&train[..], flags].concat(), parts);
        assert!(!std::path::Path::new(&out).exists(), "{flags:?} left a folder");
    };
    refused(&["--val-ids", "5000"], &["--val-ids = 5000", "choose fewer"]);
    refused(&["--val-ids", "2", "--target", data], &["--val-ids = 2", "--target", "leave one of the two out"]);
    refused(&["--split", "1", "--dataset", "market1501"], &["--split = 1", "--val-ids"]);
    let compare = tiny(&["compare", "--source", data, "--target", data, "--out", &out]);
    fails_with(1, &[&compare[..], &["--arch", "resnet18", "--val-ids", "2"]].concat(), &["own test", "compare RUN"]);
}
