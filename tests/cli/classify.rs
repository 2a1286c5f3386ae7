//! Images with classes, as a user meets them.

use std::fs;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::{fails_with, json, path, succeeds};

const TINY: [&str; 16] = [
    "--task",
    "classify",
    "--arch",
    "cifar-resnet20-ptl",
    "--width",
    "0.25",
    "--height",
    "16",
    "--image-width",
    "16",
    "--batch",
    "4",
    "--epochs",
    "2",
    "--warmup-epochs",
    "0",
];

fn tiny<'a>(command: &[&'a str]) -> Vec<&'a str> {
    [command, &TINY].concat()
}

struct Fixture {
    folder: TempDir,
    data: String,
    run: String,
}

/// Two classes of ten pictures, and a run trained on them.
fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let [data, run] = ["photos", "run"].map(|name| path(&folder, name));
        for (class, red) in [("day", 220), ("night, dark", 20)] {
            fs::create_dir_all(format!("{data}/{class}")).unwrap();
            for i in 0..10u8 {
                let image = image::RgbImage::from_fn(18, 14, |x, y| image::Rgb([red + i, (x * y) as u8, 9 * i]));
                image.save(format!("{data}/{class}/{i}.png")).unwrap();
            }
        }
        succeeds(&tiny(&["train", "--data", &data, "--out", &run]));
        Fixture { folder, data, run }
    })
}

#[test]
fn a_classifier_is_trained_measured_compared_and_asked() {
    let Fixture { folder, data, run } = fixture();
    let summary = json(format!("{run}/summary.json"));
    assert!(summary["top1"].is_f64() && summary["classes"] == 2, "{summary}");

    // What was measured at the end is measured again, with its details.
    let [details, report] = ["details", "report.json"].map(|name| path(folder, name));
    let table = succeeds(&["evaluate", "--checkpoint", run, "--details", &details, "--out", &report]);
    assert!(table.contains("Top-1") || table.contains("top-1"), "{table}");
    assert!(
        (json(&report)["report"]["top1"].as_f64().unwrap() * 100.0 - summary["top1"].as_f64().unwrap()).abs() < 1e-9
    );
    for name in ["items.csv", "confusion.csv", "confusion.svg", "per-class.csv", "calibration.svg"] {
        assert_eq!(
            fs::read(format!("{details}/{name}")).unwrap(),
            fs::read(format!("{run}/{name}")).unwrap(),
            "{name}"
        );
    }
    assert!(fs::read_to_string(format!("{details}/confusion.csv")).unwrap().contains("\"night, dark\""));

    // Images without labels, and some of the classes only.
    let predictions = path(folder, "predictions.csv");
    succeeds(&["predict", "--checkpoint", run, "--images", data, "--out", &predictions]);
    let lines = fs::read_to_string(&predictions).unwrap();
    assert_eq!(lines.lines().count(), 21);
    assert!(lines.starts_with("image,class_1,probability_1,class_2,probability_2\n"), "{lines}");
    let night = path(folder, "night-only/val/night, dark");
    fs::create_dir_all(&night).unwrap();
    fs::copy(format!("{data}/night, dark/0.png"), format!("{night}/0.png")).unwrap();
    let list = path(folder, "night.csv");
    fs::write(&list, "path,label,split\n\"night-only/val/night, dark/0.png\",\"night, dark\",val\n").unwrap();
    succeeds(&["evaluate", "--checkpoint", run, "--data", &list]);

    // Runs that differ in the seed, and one that differs in more.
    let other = |name: &str, args: &[&str]| {
        let out = path(folder, name);
        succeeds(&[&tiny(&["train", "--data", data, "--out", &out])[..], args].concat());
        out
    };
    let (seed, plain) = (other("seed", &["--seed", "1"]), other("plain", &["--arch", "cifar-resnet20"]));
    let table = succeeds(&["compare", run, &seed, &plain, "--resamples", "200"]);
    assert!(table.contains("cifar-resnet20") && table.contains("paired bootstrap"), "{table}");

    // Weights as torchvision would take them: fine-tuned with the classifier kept.
    let weights = format!("{plain}/checkpoints");
    let newest = fs::read_dir(&weights).unwrap().next().unwrap().unwrap().path().join("model.safetensors");
    let init = newest.display().to_string();
    other("kept", &["--arch", "cifar-resnet20", "--init", &init, "--keep-head", "--lr", "1e-9"]);
    let features = path(folder, "features.safetensors");
    succeeds(&["extract", "--checkpoint", run, "--images", data, "--out", &features]);
}

#[test]
fn what_does_not_fit_is_said_in_one_sentence_and_leaves_nothing() {
    let Fixture { folder, data, run } = fixture();
    let new = path(folder, "new");
    let train = |args: &[&str], parts: &[&str]| {
        fails_with(1, &[&tiny(&["train", "--data", data, "--out", &new])[..], args].concat(), parts);
        assert!(!std::path::Path::new(&new).exists(), "{args:?} left a folder");
    };
    train(&["--arch", "mgn"], &["mgn", "name a resnet"]);
    train(&["--batch", "64"], &["--batch", "64"]);
    train(&["--accumulate", "9"], &["train.accumulate"]);
    train(&["--target", data], &["data.target"]);
    train(&["--dataset", "market1501"], &["market1501"]);
    train(&["--patience", "2", "--eval-every", "0"], &["train.patience", "--eval-every"]);
    train(&["--ptl-stages", "4"], &["ptl.stages", "1 to 3"]);
    train(&["--cell-channels", "8"], &["ptl.cell_channels"]);
    train(&["--stem", "imagenet"], &["model.stem"]);
    train(
        &["--init", run, "--arch", "cifar-resnet20", "--keep-head", "--val-share", "0.5", "--width", "0.25"],
        &["leave --keep-head out"],
    );
    fails_with(1, &["train", "--data", data, "--out", &new], &["add --task classify"]);
    fails_with(1, &["train", "--data", data, "--dataset", "class-folders", "--out", &new], &["add --task classify"]);

    let evaluate = |args: &[&str], parts: &[&str]| {
        fails_with(1, &[&["evaluate", "--checkpoint", run], args].concat(), parts);
    };
    evaluate(&["--roc"], &["--roc", "classifier"]);
    evaluate(&["--task", "reid"], &["task", "classify"]);
    let strange = path(folder, "strange/emu");
    fs::create_dir_all(&strange).unwrap();
    fs::copy(format!("{data}/day/0.png"), format!("{strange}/0.png")).unwrap();
    fs::copy(format!("{data}/day/1.png"), format!("{strange}/1.png")).unwrap();
    evaluate(&["--data", &path(folder, "strange")], &["emu"]);
    let reid = &super::fixture().run;
    let out = path(folder, "none.csv");
    fails_with(1, &["predict", "--checkpoint", reid, "--images", data, "--out", &out], &["identities", "extract"]);
    fails_with(1, &["evaluate", "--checkpoint", reid, "--details", &new], &["--details"]);
    fails_with(1, &["extract", "--checkpoint", run, "--data", data, "--out", &path(folder, "f.npy")], &["--images"]);
    fails_with(1, &["ablate", "--data", data, "--task", "classify"], &["compare RUN"]);
    fails_with(2, &["predict", "--checkpoint", run, "--images", data, "--out", &out, "--top", "0"], &["--top"]);
    fails_with(1, &["compare", run, reid], &["classifies"]);
    fails_with(1, &["compare", run, data], &["is not a run"]);
}

#[test]
fn info_tells_what_a_network_costs() {
    let table = succeeds(&["info", "--model", "resnet18", "--task", "classify"]);
    assert!(table.contains("11.69 M") && table.contains("3.63") && table.contains("resnet18-ptl"), "{table}");
    let narrow = succeeds(&["info", "--model", "resnet18-ptl", "--task", "classify", "--cell-channels", "8,8,8,8"]);
    assert!(narrow.contains("11.69 M") && narrow != table);
    assert!(succeeds(&["info", "--model", "mgn"]).contains("mgn-ptl"));
    fails_with(1, &["info", "--height", "64"], &["--model", "name it"]);
    fails_with(1, &["info", "--model", "mgn", "--task", "classify"], &["mgn", "name a resnet"]);
    fails_with(2, &["info", "--model", "vgg"], &["vgg", "resnet18"]);
}
