//! `ptl-train export`: what it writes and compares, and what it refuses.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{fails_with, files, fixture, json, path, ptl, succeeds, text};

#[test]
fn a_run_is_written_and_compared_on_images() {
    let folder = tempfile::tempdir().unwrap();
    let (run, data) = (&fixture().run, &fixture().data);
    let (out, report) = (path(&folder, "new/model.onnx"), path(&folder, "report.json"));
    let images = format!("{data}/query");
    let output =
        ptl(&["export", "--checkpoint", run, "--out", &out, "--images", &images, "--limit", "3", "--json", &report]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let all = files(&images).iter().filter(|file| file.extension().is_some_and(|ending| ending == "jpg")).count();
    for part in
        ["ONNX opset 17", "images [batch, 3, 32, 16] f32", "gives features [batch, ", &format!("on 3 of {all} images")]
    {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let report = json(&report);
    assert_eq!(
        (&report["images"], &report["noise"], &report["agrees"]),
        (&Value::from(3), &Value::from(false), &Value::from(true))
    );
    assert!(
        report["largest_difference"].as_f64().unwrap() < 1e-5
            && report["smallest_cosine"].as_f64().unwrap() > 0.999_999
    );
    // The file says what it holds, also to somebody who only has the file.
    let bytes = fs::read(&out).unwrap();
    for part in ["ptl.settings", "ptl.weights", "ptl.mean", "0.485,0.456,0.406", "backbone.layer1.0.conv1.weight"] {
        assert!(bytes.windows(part.len()).any(|window| window == part.as_bytes()), "{part}");
    }
    let left: Vec<_> =
        files(path(&folder, "new")).into_iter().map(|file| file.file_name().unwrap().to_owned()).collect();
    assert_eq!(left, ["model.onnx"], "no temporary file is left");
    fails_with(
        1,
        &["export", "--checkpoint", run, "--out", &out],
        &["--out = ", "model.onnx exists already", "choose another name"],
    );
}

#[test]
fn noise_pixels_mean_states_and_weights_beside() {
    let folder = tempfile::tempdir().unwrap();
    let run = &fixture().run;
    let out = path(&folder, "model.onnx");
    let flags = ["--pixels", "--external-data", "--eval-state", "mean", "--eval.flip", "false"];
    let output = ptl(&[&["export", "--checkpoint", run, "--out", &out][..], &flags].concat());
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(printed.contains("model.onnx.data") && printed.contains("[batch, 32, 16, 3] u8"), "{printed}");
    assert!(printed.contains("on 8 images of noise"), "{printed}");
    let [file, data] = [&out, &format!("{out}.data")].map(|path| fs::metadata(path).unwrap().len());
    assert!(data > file, "{data} bytes of weights, {file} bytes of nodes");
    let again = path(&folder, "other.onnx");
    fs::write(format!("{again}.data"), "kept").unwrap();
    fails_with(1, &["export", "--checkpoint", run, "--out", &again], &["other.onnx.data exists already"]);
}

#[test]
fn a_difference_is_an_error_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (out, report) = (path(&folder, "model.onnx"), path(&folder, "report.json"));
    let run = &fixture().run;
    let line = ["export", "--checkpoint", run, "--out", &out, "--tolerance", "0", "--json", &report];
    fails_with(
        1,
        &line,
        &["the outputs of noise#", "more than the tolerance 0: no ONNX file was written", "raise --tolerance"],
    );
    assert_eq!(json(&report)["agrees"], Value::from(false));
    assert_eq!(files(folder.path()).len(), 1, "only the report");
}

#[test]
fn what_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = &fixture().run;
    let out = path(&folder, "model.onnx");
    let refused = |flags: &[&str], parts: &[&str]| {
        fails_with(1, &[&["export", "--checkpoint", run, "--out", &out][..], flags].concat(), parts);
        assert!(!Path::new(&out).exists());
    };
    refused(&["--eval-state", "normal"], &["--eval-state = normal", "take zeros or mean"]);
    refused(&["--images", "nowhere"], &["nowhere"]);
    refused(&["--json", &path(&folder, "")], &["it is a folder"]);
    let checkpoint = files(Path::new(run).join("checkpoints")).pop().unwrap();
    let [record, training] =
        ["record.json", "training.safetensors"].map(|name| checkpoint.join(name).display().to_string());
    let before = fs::read(&record).unwrap();
    refused(&["--json", &record], &["this file belongs to a run"]);
    refused(&["--json", &format!("{run}/summary.json")], &["this file belongs to a run"]);
    assert_eq!(fs::read(&record).unwrap(), before);
    refused(&["--task", "classify"], &["task = classify: the checkpoint was trained with reid"]);
    refused(&["--skip-broken"], &["--skip-broken = (given): this command does not use it"]);
    let broken = path(&folder, "broken.png");
    fs::write(&broken, "no image").unwrap();
    refused(&["--images", &broken, "--skip-broken"], &["broken.png has no readable images"]);
    let line = ["export", "--checkpoint", run, "--out", &out, "--limit", "3"];
    fails_with(2, &line, &["--images <PATH>"]);
    fails_with(
        1,
        &["export", "--checkpoint", &training, "--out", &out],
        &["the state of a training: name model.safetensors"],
    );
    refused(&["--json", &out], &["it is the file of --out, too"]);
    fails_with(
        1,
        &["export", "--checkpoint", run, "--out", &path(&folder, "model.pb")],
        &["--out = ", "give it the ending .onnx"],
    );
    fails_with(1, &["export", "--checkpoint", &path(&folder, "none"), "--out", &out], &["it does not exist"]);
}

#[test]
fn a_classifier_gives_probabilities() {
    let folder = tempfile::tempdir().unwrap();
    let data = path(&folder, "people");
    succeeds(&["synth", "--out", &data, "--ids", "4", "--cams", "2"]);
    // A folder for each class.
    let classes = path(&folder, "classes");
    for (i, image) in files(format!("{data}/bounding_box_train")).iter().enumerate() {
        let class = format!("{classes}/class{}", i % 2);
        fs::create_dir_all(&class).unwrap();
        fs::copy(image, format!("{class}/{i}.jpg")).unwrap();
    }
    let run = path(&folder, "run");
    let tiny = [
        "--width",
        "0.125",
        "--height",
        "32",
        "--image-width",
        "32",
        "--batch",
        "4",
        "--epochs",
        "1",
        "--augment.pad",
        "2",
    ];
    let line = ["train", "--task", "classify", "--data", &classes, "--arch", "cifar-resnet20-ptl", "--out", &run];
    succeeds(&[&line[..], &tiny].concat());
    let out = path(&folder, "classifier.onnx");
    let output = ptl(&["export", "--checkpoint", &run, "--out", &out, "--images", &classes]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("gives probabilities [batch, 2] f32"), "{}", text(&output.stdout));
    let bytes = fs::read(&out).unwrap();
    let names = br#"["class0","class1"]"#;
    assert!(bytes.windows(names.len()).any(|window| window == names));
}
