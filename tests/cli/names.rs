//! Names that others chose: neither a terminal nor a spreadsheet executes them.

use std::fs;
use std::path::Path;

use super::{files, fixture, path, program, ptl, succeeds, text};

/// Dangerous names of classes: formulas, commands of a terminal, line breaks, Markdown, quotes.
const CLASSES: [&str; 4] = ["=1+1,2", "-2|`<b>", "a\nerror: all is lost", "\u{1b}[2J\u{9b}\u{202e}z"];

fn is_safe(text: &str) -> bool {
    !text.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}'))
}

/// Checks that every text file in a run is as safe as what was printed.
fn all_safe(run: &str) {
    for name in ["log.txt", "items.csv", "per-class.csv", "confusion.csv", "confusion.svg", "calibration.svg"] {
        let content = fs::read_to_string(format!("{run}/{name}")).unwrap();
        assert!(is_safe(&content), "{name}: {content:?}");
        assert!(!content.lines().any(|line| line.starts_with("error: ")), "{name}: {content}");
    }
}

#[test]
fn class_names_are_shown_and_written_so_that_nothing_executes_them() {
    let folder = tempfile::tempdir().unwrap();
    let data = path(&folder, "photos\n\u{1b}]0;x\u{7}");
    for class in CLASSES {
        fs::create_dir_all(format!("{data}/{class}")).unwrap();
        for i in 0..5u8 {
            let image = image::RgbImage::from_pixel(16, 16, image::Rgb([10 * i, class.len() as u8, 90]));
            image.save(format!("{data}/{class}/={i}.png")).unwrap();
        }
    }
    let train = |out: &str, more: &[&str]| {
        let small = ["--arch", "cifar-resnet20", "--width", "0.25", "--height", "16", "--image-width", "16"];
        let short = ["--batch", "4", "--epochs", "1", "--warmup-epochs", "0"];
        let args = ["train", "--task", "classify", "--data", &data, "--out", out];
        let output = ptl(&[&args[..], &small, &short, more].concat());
        let stderr = text(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert!(is_safe(&stderr) && !stderr.lines().any(|line| line.starts_with("error: ")), "{stderr}");
    };
    let [guarded, raw] = ["guarded", "raw"].map(|name| path(&folder, name));
    train(&guarded, &[]);
    train(&raw, &["--raw-csv", "--seed", "1"]);
    all_safe(&guarded);
    let cells = |run: &str| -> Vec<String> {
        let bytes = fs::read(format!("{run}/per-class.csv")).unwrap();
        let mut csv = csv::Reader::from_reader(&bytes[..]);
        csv.records().map(|row| row.unwrap()[0].to_owned()).collect()
    };
    let mut own = CLASSES.map(str::to_owned);
    own.sort();
    assert_eq!(cells(&raw), own);
    let want = ["\\u{1b}[2J\\u{9b}\\u{202e}z", "'-2|`<b>", "'=1+1,2", "a\\nerror: all is lost"];
    assert_eq!(cells(&guarded), want);

    // Both files name the same images, so the runs can be compared. Markdown keeps its columns.
    let table = succeeds(&["compare", &guarded, &raw, "--resamples", "100", "--markdown"]);
    assert!(table.contains("0, 1") && is_safe(&table), "{table}");

    let predictions = path(&folder, "predictions.csv");
    let predict = ["predict", "--checkpoint", &guarded, "--images", &data, "--out", &predictions];
    succeeds(&predict);
    assert!(is_safe(&fs::read_to_string(&predictions).unwrap()));
    succeeds(&[&predict[..], &["--raw-csv"]].concat());
    let bytes = fs::read(&predictions).unwrap();
    let mut csv = csv::Reader::from_reader(&bytes[..]);
    assert!(csv.records().all(|row| Path::new(&row.unwrap()[0]).is_file()), "raw names are those of the files");

    let details = path(&folder, "details");
    let output = ptl(&["evaluate", "--checkpoint", &guarded, "--details", &details]);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success() && is_safe(&said), "{said}");
    assert_eq!(fs::read(format!("{details}/items.csv")).unwrap(), fs::read(format!("{guarded}/items.csv")).unwrap());
}

#[test]
fn the_command_line_is_quoted_safely() {
    let nasty = "x\u{1b}[2J\nerror: all is lost\r";
    let lines: [&[&str]; 8] = [
        &["train", "--arch", nasty],
        &["train", &format!("--{nasty}")],
        &["train", "--lr", nasty],
        &["train", "--ids=-\u{1b}[1m"],
        &[nasty],
        &["compare", "--source", "a", "--source-dataset", nasty],
        &["compare", "--source", "a", "--seeds", nasty],
        &["selftest", "--device", nasty],
    ];
    for line in lines {
        let output = ptl(line);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line:?}: {stderr}");
        assert!(is_safe(&stderr), "{line:?}: {stderr:?}");
        assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{line:?}: {stderr}");
    }
    for line in [&["train", "--data", nasty][..], &["train", "--resume", nasty], &["evaluate", "--checkpoint", nasty]] {
        let output = ptl(line);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line:?}: {stderr}");
        assert!(is_safe(&stderr) && stderr.lines().count() == 1, "{line:?}: {stderr:?}");
        assert!(stderr.contains("x\\u{1b}[2J\\nerror: all is lost\\r"), "{stderr}");
    }
}

#[test]
fn keys_and_values_of_a_file_are_quoted_safely() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder, "a.toml");
    for content in ["\"a\\nerror: b\\u001b[2J\" = 1\n", "[optim]\nlr = \"x\\u001b\"\n", "[optim]\nbetas = [\n 1,\n]\n"]
    {
        fs::write(&file, content).unwrap();
        let output = ptl(&["train", "--config", &file]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{content:?}: {stderr}");
        assert!(is_safe(&stderr) && stderr.lines().count() == 1, "{content:?}: {stderr:?}");
    }
}

#[test]
fn features_of_an_image_whose_name_breaks_the_list_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let images = path(&folder, "images");
    fs::create_dir(&images).unwrap();
    let first = files(format!("{}/query", fixture().data))[0].clone();
    fs::copy(first, format!("{images}/a\n0001_c1s1_0.jpg")).unwrap();
    let run = &fixture().run;
    let extract = |out: &str| {
        let out = path(&folder, out);
        program().args(["extract", "--checkpoint", run, "--images", &images, "--out", &out]).output().unwrap()
    };
    let output = extract("f.npy");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("line break") && stderr.contains(".safetensors") && is_safe(&stderr), "{stderr}");
    assert!(!Path::new(&path(&folder, "f.txt")).exists() && !Path::new(&path(&folder, "f.npy")).exists());
    assert!(extract("f.safetensors").status.success());
}

#[test]
fn folder_names_that_are_not_utf8_cause_no_panic() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"odd\xff"));
    let copied = std::process::Command::new("cp").arg("-r").arg(&fixture().run).arg(&odd).status().unwrap();
    assert!(copied.success());
    let json = path(&folder, "all.json");
    let output = program().arg("compare").arg(&odd).args(["--out", &json]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(super::json(&json)["arms"][0]["runs"][0]["folder"].as_str().unwrap().contains("odd"));
    // Settings are UTF-8 text, and name their data.
    let data = odd.join("data");
    let args = ["--target", &fixture().data, "--arch", "resnet18", "--out", &path(&folder, "study")];
    let output = program().arg("compare").arg("--source").arg(&data).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no UTF-8 text"), "{}", text(&output.stderr));
    assert!(!Path::new(&path(&folder, "study")).exists());
}
