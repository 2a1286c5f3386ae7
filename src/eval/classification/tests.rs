use std::fs;

use super::*;
use crate::base::csv_out::Cells;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

/// Returns the report of four images of three classes; class c has none.
fn report() -> ClassificationReport {
    let probabilities = [
        0.7, 0.2, 0.1, // a, right
        0.3, 0.6, 0.1, // a, taken for b
        0.1, 0.8, 0.1, // b, right
        0.2, 0.3, 0.5, // b, taken for c
    ];
    ClassificationReport::new(&probabilities, &[0, 0, 1, 1], &names(&["a", "b<1>", "c, \"odd\""])).unwrap()
}

#[test]
fn figures_by_hand() {
    let report = report();
    assert_eq!((report.images, report.top1, report.top5), (4, 0.5, 1.0));
    // a: 1 of its 2 images is right, and 1 of 1 predicted as a; b: 1 of 2, and 1 of 2; c: one image is predicted as c, wrongly.
    let share = |c: usize| (report.per_class[c].accuracy, report.per_class[c].precision);
    assert_eq!([share(0), share(1), share(2)], [(Some(0.5), Some(1.0)), (Some(0.5), Some(0.5)), (None, Some(0.0))]);
    assert_eq!((report.per_class[2].images, report.per_class[2].f1), (0, None));
    // F1: a 2 / 3, b 2 / 4; the class without images counts neither here nor there.
    assert!(close(report.macro_f1, (2.0 / 3.0 + 0.5) / 2.0) && close(report.balanced_accuracy, 0.5));
    let nll = -(0.7f64.ln() + 0.3f64.ln() + 0.8f64.ln() + 0.3f64.ln()) / 4.0;
    assert!(close(report.nll, nll), "{}", report.nll);
    // Each image has a bin of its own: |1 - 0.7|, |0 - 0.6|, |1 - 0.8|, |0 - 0.5|.
    assert!(close(report.ece, (0.3 + 0.6 + 0.2 + 0.5) / 4.0), "{}", report.ece);
    let confusion = |label, predicted| report.confusions.get(&(label, predicted)).copied();
    assert_eq!((confusion(0, 1), confusion(1, 2), confusion(2, 2)), (Some(1), Some(1), None));
}

#[test]
fn calibration_by_hand() {
    // Bin 9 of 15, (8/15, 9/15]: 0.55 right, 0.6 wrong; bin 15: 1.0 right, 0.95 right, 0.94 wrong; 0 belongs to the first.
    let images = [(0.55, true), (0.6, false), (1.0, true), (0.95, true), (0.94, false), (0.0, false)];
    let bins = calibration_bins(images);
    assert_eq!((bins.len(), bins[8].images, bins[14].images, bins[0].images), (15, 2, 3, 1));
    assert!(close(bins[8].accuracy, 0.5) && close(bins[8].confidence, 0.575));
    let want = (2.0 * 0.075 + 3.0 * (2.89f64 / 3.0 - 2.0 / 3.0)) / 6.0;
    assert!(close(calibration_error(&bins), want));
    assert_eq!(calibration_error(&[]), 0.0);
}

#[test]
fn of_equal_probabilities_the_lower_class_stands_first() {
    let classes = names(&["a", "b", "c", "d", "e", "f"]);
    let row = [1.0f32 / 6.0; 6];
    let rows = [row; 6].concat();
    let report = ClassificationReport::new(&rows, &[0, 1, 2, 3, 4, 5], &classes).unwrap();
    assert_eq!(report.per_image.iter().map(|image| image.rank).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert!(report.per_image.iter().all(|image| image.predicted == 0));
    assert!(close(report.top1, 1.0 / 6.0) && close(report.top5, 5.0 / 6.0));
    // F1 of a: 2 / (1 + 6); every other class is never recognised.
    assert!(close(report.macro_f1, 2.0 / 7.0 / 6.0) && close(report.balanced_accuracy, 1.0 / 6.0));
}

#[test]
fn what_cannot_be_measured_is_said() {
    let two = names(&["a", "b"]);
    let error = |p: &[f32], labels: &[u32], classes: &[String]| {
        ClassificationReport::new(p, labels, classes).unwrap_err().to_string()
    };
    for value in [f32::NAN, f32::INFINITY, -0.5, 3.0] {
        let text = error(&[0.5, 0.5, value, 0.5], &[0, 1], &two);
        assert!(text.starts_with("the prediction for image 1 is not made of finite probabilities"), "{text}");
    }
    assert!(error(&[], &[], &two).contains("there is no image"));
    assert!(error(&[0.5; 3], &[0, 1], &two).contains("3 probabilities for 2 images and 2 classes"));
    assert!(error(&[], &[0], &[]).contains("0 classes"));
    assert!(error(&[0.5; 4], &[0, 2], &two).contains("image 1 has label 2, and the network knows 2 classes"));
    // A probability that f32 has rounded to 0 still has a logarithm.
    let report = ClassificationReport::new(&[1.0, 0.0], &[1], &two).unwrap();
    assert!((87.0..88.0).contains(&report.nll));
}

#[test]
fn printed_and_serialised() {
    let report = report();
    let want = "\
metric                                     %
-------------------------------------  -----
top-1 accuracy                         50.00
balanced accuracy (mean over classes)  50.00
macro F1                               58.33
expected calibration error (15 bins)   40.00
images: 4 of 3 classes, 1 of them without images; negative log-likelihood 0.7469";
    assert_eq!(report.to_string(), want);
    let json = serde_json::to_value(&report).unwrap();
    for key in ["top1", "top5", "balanced_accuracy", "macro_f1", "nll", "ece"] {
        assert!(json[key].is_f64(), "{key} in {json}");
    }
    assert_eq!(json["per_class"][1]["class"], "b<1>");
    assert!(json["per_class"][2]["accuracy"].is_null() && json.get("per_image").is_none());
}

#[test]
fn files_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.csv");
    let report = report();
    report.write_confusion_csv(&path, Cells::Guarded).unwrap();
    let want = "true\\predicted,a,b<1>,\"c, \"\"odd\"\"\"\na,1,1,0\nb<1>,0,1,1\n\"c, \"\"odd\"\"\",0,0,0\n";
    assert_eq!(fs::read_to_string(&path).unwrap(), want);
    report.write_per_class_csv(&path, Cells::Guarded).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("class,images,accuracy,precision,f1\na,2,0.5,1,0.66666"), "{text}");
    assert!(text.ends_with("\n\"c, \"\"odd\"\"\",0,,0,\n"), "{text}");
    report.write_items_csv(&path, Cells::Guarded, ["x.png", "a,b.png", "y.png", "z#4"]).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "image,label,predicted,confidence,top1,top5,nll");
    assert!(lines[2].starts_with("\"a,b.png\",a,b<1>,0.6,0,1,1.20397"), "{text}");
    assert_eq!(lines.len(), 5);
}
