//! Tests the commands on images with classes.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::{fails_with, json, path, ptl, succeeds, text};

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

/// Adds the flags of a small classifier to a command.
pub(super) fn tiny<'a>(command: &[&'a str]) -> Vec<&'a str> {
    [command, &TINY].concat()
}

struct Fixture {
    folder: TempDir,
    data: String,
    run: String,
}

/// Returns two classes of ten pictures each, and a run trained on them.
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
fn a_classifier_is_trained_evaluated_compared_and_predicts() {
    let Fixture { folder, data, run } = fixture();
    let summary = json(format!("{run}/summary.json"));
    assert!(summary["top1"].is_f64() && summary["classes"] == 2, "{summary}");

    // The evaluation at the end of the training is repeated, with its details.
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

    // Predicts images without labels, and evaluates on some of the classes only.
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

    // Compares runs that differ only in the seed with a run that differs in more.
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
fn refused_settings_give_one_sentence_and_leave_nothing() {
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
    fails_with(
        1,
        &["predict", "--checkpoint", reid, "--images", data, "--out", &out],
        &["ptl-train extract", "the run of a classifier"],
    );
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

#[test]
fn images_of_any_format_are_predicted_and_others_are_counted() {
    let Fixture { folder, data, run } = fixture();
    let images = path(folder, "formats");
    fs::create_dir_all(&images).unwrap();
    let picture = image::open(format!("{data}/day/0.png")).unwrap();
    for (name, format) in [
        ("a.WEBP", image::ImageFormat::WebP),
        ("b.tiff", image::ImageFormat::Tiff),
        ("c.GIF", image::ImageFormat::Gif),
        ("d.jpg", image::ImageFormat::Png),
    ] {
        picture.save_with_format(format!("{images}/{name}"), format).unwrap();
    }
    fs::write(format!("{images}/e.heic"), "").unwrap();
    std::os::unix::fs::symlink(format!("{data}/night, dark"), format!("{images}/linked")).unwrap();
    let out = path(folder, "formats.csv");
    let output = super::ptl(&["predict", "--checkpoint", run, "--images", &images, "--out", &out]);
    let stderr = super::text(&output.stderr);
    assert!(output.status.success() && stderr.contains("1 image of formats that are not read"), "{stderr}");
    assert_eq!(fs::read_to_string(&out).unwrap().lines().count(), 1 + 4 + 10);
}

#[test]
fn the_orientation_is_a_setting_that_a_run_keeps() {
    let Fixture { folder, run, .. } = fixture();
    let images = path(folder, "turned");
    fs::create_dir_all(&images).unwrap();
    let pixel = |x: u32, y: u32| image::Rgb([(13 * x) as u8, (17 * y) as u8, 60]);
    let upright = image::RgbImage::from_fn(14, 18, pixel);
    upright.save(format!("{images}/a.png")).unwrap();
    // The image is stored rotated; its EXIF orientation turns it upright.
    let stored = image::imageops::rotate270(&upright);
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0".to_vec();
    let mut encoder = image::codecs::png::PngEncoder::new(fs::File::create(format!("{images}/b.png")).unwrap());
    image::ImageEncoder::set_exif_metadata(&mut encoder, exif).unwrap();
    stored.write_with_encoder(encoder).unwrap();
    let same = |run: &str, name: &str, flags: &[&str]| {
        let out = path(folder, name);
        succeeds(&[&["predict", "--checkpoint", run, "--images", &images, "--out", &out], flags].concat());
        let text = fs::read_to_string(&out).unwrap();
        let rows: Vec<&str> = text.lines().skip(1).map(|line| line.split_once(".png,").unwrap().1).collect();
        rows[0] == rows[1]
    };
    assert!(fs::read_to_string(format!("{run}/config.toml")).unwrap().contains("exif_orientation = true"));
    assert!(same(run, "upright.csv", &[]));
    assert!(!same(run, "stored.csv", &["--exif-orientation", "false"]));
}

#[test]
fn one_class_is_refused_before_its_images_are_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let data = path(&folder, "one");
    fs::create_dir_all(format!("{data}/cat")).unwrap();
    for name in ["1.png", "2.png", "3.png"] {
        fs::write(format!("{data}/cat/{name}"), "no image").unwrap();
    }
    let out = path(&folder, "run");
    fails_with(1, &tiny(&["train", "--data", &data, "--out", &out]), &["1 class with training images"]);
}

/// The data have the same names and classes, but other images.
#[test]
fn a_run_that_continues_with_other_images_warns() {
    let Fixture { data, run, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    let [other, copy] = ["other", "copy"].map(|name| path(&folder, name));
    for (from, to) in [(data, &other), (run, &copy)] {
        assert!(Command::new("cp").args(["-r", from, to]).status().unwrap().success());
    }
    let resume = |epochs: &str| {
        let output = ptl(&["train", "--resume", &copy, "--data", &other, "--epochs", epochs]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let warning = "the training images have changed";
    assert!(!resume("3").contains(warning));
    for (from, to) in [("day", "x"), ("night, dark", "day"), ("x", "night, dark")] {
        fs::rename(format!("{other}/{from}"), format!("{other}/{to}")).unwrap();
    }
    // A finished run refuses them, because it did not train on them.
    let finished = ["train", "--resume", &copy, "--data", &other];
    fails_with(1, &finished, &["the run is finished", warning, "ptl-train evaluate"]);
    let said = resume("4");
    assert!(said.contains(warning) && said.contains("the run had 16 images and continues with 16"), "{said}");
    // A run keeps its seed and its division into training and validation images.
    for (flag, value) in [("--seed", "5"), ("--split", "3"), ("--val-share", "0.4")] {
        let args = ["train", "--resume", &copy, "--epochs", "5", flag, value];
        fails_with(1, &args, &[&format!("{flag} = {value}: the run has begun with "), "start anew"]);
    }
}
