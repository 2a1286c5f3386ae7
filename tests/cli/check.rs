//! `check` names faults of a data set, in its exit code too, and measures what a training will cost.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{fails_with, fixture, json, path, ptl, text, tiny};

/// Copies a folder.
fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copied(&path, &to);
        } else {
            fs::copy(path, to).unwrap();
        }
    }
}

/// Returns the first image of a folder, by its name.
fn first_of(folder: &Path) -> std::path::PathBuf {
    let mut images: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    images.sort();
    images.remove(0)
}

fn kinds(report: &Value) -> Vec<&str> {
    report["findings"].as_array().unwrap().iter().map(|finding| finding["kind"].as_str().unwrap()).collect()
}

#[test]
fn a_sound_data_set_passes_and_its_training_has_a_cost() {
    let folder = tempfile::tempdir().unwrap();
    let out = path(&folder, "reports/check.json");
    let output = ptl(&tiny(&["check", &fixture().data, "--json", &out]));
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}{}", text(&output.stderr));
    assert!(printed.contains("no problem was found") || printed.contains("nothing was found"), "{printed}");
    assert!(printed.contains("identities") && printed.contains("an epoch of "), "{printed}");
    let report = json(&out);
    assert_eq!((&report["problems"], &report["counts"][0]["subset"]), (&0.into(), &"train".into()));
    assert_eq!((&report["counts"][0]["groups"], &report["counts"][0]["cameras"]), (&4.into(), &2.into()));
    assert!(report["cost"]["seconds_of_a_batch"].as_f64().unwrap() > 0.0);
    assert_eq!(report["cost"]["batch"], 6);
    assert!(
        text(&ptl(&tiny(&["check", &fixture().data, "--no-cost"])).stdout)
            .lines()
            .all(|line| !line.starts_with("cost"))
    );
}

#[test]
fn faults_are_named_with_their_images_and_the_exit_code_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("d<a>ta");
    copied(Path::new(&fixture().data), &data);
    let leaked = data.join("bounding_box_test/0099_c1s1_000001_00.png");
    fs::copy(first_of(&data.join("bounding_box_train")), &leaked).unwrap();
    fs::write(data.join("bounding_box_train/0001_c2s9_000001_00.png"), "no picture").unwrap();
    let (out, page) = (path(&folder, "check.json"), path(&folder, "check.html"));
    let data = data.display().to_string();
    let output = ptl(&tiny(&["check", &data, "--no-cost", "--json", &out, "--html", &page]));
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{printed}{}", text(&output.stderr));
    assert!(printed.contains("2 kinds of problems were found"), "{printed}");
    assert!(printed.contains("1 group of training and test images look alike"), "{printed}");
    let report = json(&out);
    assert_eq!(kinds(&report)[..2], ["unreadable", "test-image-in-training"]);
    let pair = report["findings"][1]["images"][0].as_array().unwrap();
    assert!(pair.len() == 2 && pair[1].as_str().unwrap().ends_with("0099_c1s1_000001_00.png"), "{pair:?}");
    let page = fs::read_to_string(page).unwrap();
    assert!(
        page.contains("data:image/jpeg;base64,") && page.contains("d&lt;a&gt;ta") && !page.contains("d<a>ta"),
        "{page}"
    );
    assert!(!page.contains("<script") && !page.contains("http:") && !page.contains("https:"));
}

#[test]
fn classes_and_data_that_cannot_be_trained_are_checked_too() {
    let folder = tempfile::tempdir().unwrap();
    let image = first_of(&Path::new(&fixture().data).join("query"));
    for name in ["fox/1.png", "fox/2.png", "elk/1.png"] {
        let to = folder.path().join("animals").join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&image, to).unwrap();
    }
    let (data, out) = (path(&folder, "animals"), path(&folder, "check.json"));
    let output = ptl(&[
        "check",
        &data,
        "--task",
        "classify",
        "--arch",
        "resnet18",
        "--height",
        "32",
        "--image-width",
        "32",
        "--json",
        &out,
    ]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let report = json(&out);
    assert_eq!(kinds(&report)[..2], ["no-training", "test-image-in-training"]);
    assert!(report["findings"][0]["text"].as_str().unwrap().contains("--batch"), "{report}");
    assert_eq!(report["cost"], Value::Null);
}

#[test]
fn what_cannot_be_checked_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = &fixture().data;
    fails_with(1, &["check", "nowhere"], &["nowhere", "there is no such folder"]);
    fails_with(1, &["check", data, "--data", data], &["--data", "without a flag: leave it out"]);
    fails_with(1, &["check", data, "--target", data], &["--target", "one data set is checked at a time"]);
    fails_with(
        1,
        &["check", data, "--json", &folder.path().display().to_string()],
        &["it is a folder: name a file in it"],
    );
    let same = path(&folder, "same.out");
    fails_with(1, &["check", data, "--json", &same, "--html", &same], &["--json", "it is the file of --html, too"]);
    fails_with(1, &["check", data, "--momentum", "0.5", "--optim", "adam"], &["--momentum", "has no effect"]);
    fails_with(2, &["check"], &["DATA"]);
}
