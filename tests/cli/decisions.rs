//! Thresholds for decisions, and searches: what `calibrate`, `compare-images` and `search` say agrees with distances computed here.

use std::fs;
use std::path::Path;
use std::process::Command;

use ptl::eval::features_file::{FeatureOrigin, FeatureSet, FeatureTable};
use serde_json::Value;
use tempfile::TempDir;

use super::{fails_with, files, fixture, json, path, ptl, succeeds, text, tiny};

fn distance(a: &FeatureSet, i: usize, b: &FeatureSet, j: usize) -> f64 {
    let rows = [&a.features[i * a.dim..][..a.dim], &b.features[j * b.dim..][..b.dim]];
    rows[0].iter().zip(rows[1]).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>().sqrt()
}

/// Returns whether a distance is at most `threshold`, which was computed in another order of sums.
fn within(distance: f64, threshold: f64) -> bool {
    distance <= threshold * (1.0 + 1e-12)
}

/// Returns a copy of the fixture's run, so that a calibration may be written into it.
fn own_run(folder: &TempDir) -> String {
    let target = path(folder, "run");
    assert!(Command::new("cp").args(["-r", &fixture().run, &target]).status().unwrap().success());
    target
}

/// Returns the calibration beside the weights of a run.
fn beside(run: &str) -> std::path::PathBuf {
    files(Path::new(run).join("checkpoints")).last().unwrap().join("model.calibration.json")
}

/// Returns the features of queries and gallery, computed by `run`.
fn features(folder: &TempDir, run: &str) -> [FeatureSet; 2] {
    let out = path(folder, "all.safetensors");
    succeeds(&["extract", "--checkpoint", run, "--data", &fixture().data, "--out", &out]);
    let all = FeatureSet::read(Path::new(&out), None).unwrap();
    let part = |keep: &dyn Fn(&str) -> bool| {
        let mut part = FeatureSet { dim: all.dim, ..FeatureSet::default() };
        for i in (0..all.len()).filter(|i| keep(&all.name(*i))) {
            part.features.extend(&all.features[i * all.dim..][..all.dim]);
            part.pids.push(all.pids[i]);
            part.camids.push(all.camids[i]);
            part.paths.push(all.paths[i].clone());
        }
        part
    };
    [part(&|name| name.contains("/query/")), part(&|name| !name.contains("/query/"))]
}

#[test]
fn thresholds_are_those_of_all_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let (run, data) = (own_run(&folder), &fixture().data);
    let output = ptl(&[
        "calibrate",
        "--checkpoint",
        &run,
        "--data",
        data,
        "--fmr",
        "0.2,0.05,0.000001",
        "--fpir",
        "0.5,0.25,0.0001",
    ]);
    let (printed, log) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{log}");
    assert!(printed.contains("FMR 0.05") && printed.contains("FPIR 0.5") && !printed.contains("0.0001"), "{printed}");
    assert!(log.contains("no threshold for FMR 0.000001: there are too few pairs of two identities"), "{log}");
    assert!(log.contains("no threshold for FPIR 0.0001: there are too few queries"), "{log}");
    assert!(log.contains("at the threshold for FMR 0.05, the rate may be up to "), "{log}");

    let calibration = json(beside(&run));
    let [query, gallery] = features(&folder, &run);
    let mut pairs = Vec::new();
    let mut nearest = Vec::new();
    for q in 0..query.len() {
        let kept = (0..gallery.len())
            .filter(|&g| query.pids[q] != gallery.pids[g] || query.camids[q] != gallery.camids[g])
            .map(|g| (distance(&query, q, &gallery, g), query.pids[q] == gallery.pids[g]));
        let kept: Vec<(f64, bool)> = kept.collect();
        if kept.iter().any(|pair| pair.1) {
            let first =
                |genuine| kept.iter().filter(|pair| pair.1 == genuine).map(|p| p.0).fold(f64::INFINITY, f64::min);
            nearest.push([first(true), first(false)]);
            pairs.extend(kept);
        }
    }
    let share = |genuine: bool, threshold: f64| {
        let of: Vec<_> = pairs.iter().filter(|pair| pair.1 == genuine).collect();
        of.iter().filter(|pair| within(pair.0, threshold)).count() as f64 / of.len() as f64
    };
    let points = calibration["verification"].as_array().unwrap();
    assert_eq!(points.len(), 2);
    for point in points {
        let [wanted, threshold] = ["wanted_fmr", "threshold"].map(|key| point[key].as_f64().unwrap());
        let [fmr, tmr] = ["fmr", "tmr"].map(|key| point[key]["share"].as_f64().unwrap());
        assert_eq!([fmr, tmr], [share(false, threshold), share(true, threshold)]);
        assert!(fmr <= wanted && fmr > 0.0);
        let next =
            pairs.iter().filter(|pair| !within(pair.0, threshold)).map(|pair| pair.0).fold(f64::INFINITY, f64::min);
        assert!(share(false, next) > wanted, "a larger threshold keeps the rate {wanted}");
        for rate in [&point["fmr"], &point["tmr"]] {
            let [low, high] = [0, 1].map(|i| rate["interval"][i].as_f64().unwrap());
            let share = rate["share"].as_f64().unwrap();
            assert!(0.0 <= low && low <= share && share <= high && high <= 1.0 && low < high, "{rate}");
        }
    }
    let identification = &calibration["identification"];
    assert_eq!(identification["known"], nearest.len());
    let points = identification["points"].as_array().unwrap();
    assert_eq!(points.len(), 2);
    for point in points {
        let [wanted, threshold] = ["wanted_fpir", "threshold"].map(|key| point[key].as_f64().unwrap());
        let among =
            |of: &dyn Fn(&[f64; 2]) -> bool| nearest.iter().filter(|n| of(n)).count() as f64 / nearest.len() as f64;
        let fpir = among(&|[_, other]| within(*other, threshold));
        let tpir = among(&|[own, other]| own < other && within(*own, threshold));
        assert_eq!([&point["fpir"], &point["tpir"]].map(|rate| rate["share"].as_f64().unwrap()), [fpir, tpir]);
        assert!(fpir <= wanted && fpir > 0.0);
    }
    let total =
        |of: &str| calibration["histogram"][of].as_array().unwrap().iter().filter_map(Value::as_u64).sum::<u64>();
    assert_eq!(total("genuine") + total("impostors"), pairs.len() as u64);
}

#[test]
fn two_images_are_the_same_identity_up_to_the_threshold() {
    let folder = tempfile::tempdir().unwrap();
    let run = own_run(&folder);
    let [query, gallery] = features(&folder, &run);
    let images = [query.paths[0].to_str().unwrap(), gallery.paths[5].to_str().unwrap()];
    let want = distance(&query, 0, &gallery, 5);
    let out = path(&folder, "result.json");
    let compare = |flags: &[&str]| {
        let output =
            ptl(&[&["compare-images", images[0], images[1], "--checkpoint", &run, "--json", &out], flags].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, printed, log) = compare(&[]);
    assert!(code == Some(4) && printed.contains("no decision: there is no threshold"), "{printed}{log}");
    let result = json(&out);
    assert!((result["distance"].as_f64().unwrap() - want).abs() < 1e-6, "{result}");
    assert!((result["cosine"].as_f64().unwrap() - (1.0 - 0.5 * want * want)).abs() < 1e-6, "{result}");
    assert_eq!((&result["same"], &result["fmr_at_distance"]), (&Value::Null, &Value::Null));
    let [near, far] = [want * 0.999, want * 1.001].map(|threshold| threshold.to_string());
    let (code, printed, _) = compare(&["--threshold", &near]);
    assert!(code == Some(3) && printed.contains("different identities"), "{printed}");
    let (code, printed, _) = compare(&["--threshold", &far]);
    assert!(code == Some(0) && printed.contains("same identity"), "{printed}");

    let data = &fixture().data;
    succeeds(&["calibrate", "--checkpoint", &run, "--data", data, "--fmr", "0.2,0.05", "--fpir", "0.5"]);
    let calibration = json(beside(&run));
    let (code, printed, _) = compare(&["--fmr", "0.2"]);
    let result = json(&out);
    let threshold = calibration["verification"][0]["threshold"].as_f64().unwrap();
    assert_eq!((result["threshold"].as_f64(), &result["threshold_from"]), (Some(threshold), &"FMR 0.2".into()));
    assert_eq!(
        (code, result["same"].as_bool()),
        if want <= threshold { (Some(0), Some(true)) } else { (Some(3), Some(false)) }
    );
    assert!(printed.contains("at this distance or nearer: "), "{printed}");
    let image = ["compare-images", images[0], images[1], "--checkpoint", &run];
    fails_with(
        1,
        &[&image[..], &["--fmr", "0.3"]].concat(),
        &["--fmr = 0.3: the calibration has 0.2, 0.05: name one of these"],
    );
    // Without a wish, the nearest to the usual rate.
    let (_, printed, log) = compare(&[]);
    assert!(
        log.contains("no threshold for FMR 0.001: that for FMR 0.05 is taken") && printed.contains("(FMR 0.05)"),
        "{log}"
    );
    // Another feature than the one that was calibrated.
    let other = [&image[..], &["--fmr", "0.2", "--eval.flip", "false"]].concat();
    fails_with(1, &other, &["model.calibration.json", "--eval.flip is true in its model, and false in the other"]);
    fails_with(1, &["compare-images", images[0], data, "--checkpoint", &run], &["it is no file: name two images"]);
    fails_with(1, &[&image[..], &["--json", images[0]]].concat(), &["this file is read: name another one to write"]);
    fails_with(1, &["compare-images", images[0], "none.jpg", "--checkpoint", &run], &["none.jpg"]);
    fails_with(2, &["compare-images", images[0], "--checkpoint", &run], &[]);
    fails_with(2, &[&image[..], &["--fmr", "1.5"]].concat(), &["above 0 and below 1"]);
    fs::write(beside(&run), "{}").unwrap();
    fails_with(1, &image, &["model.calibration.json", "it is no file of `ptl-train calibrate`"]);
}

#[test]
fn a_search_finds_what_all_distances_say_and_names_the_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let (run, data) = (own_run(&folder), &fixture().data);
    let [query, gallery] = features(&folder, &run);
    let index = path(&folder, "gallery.safetensors");
    let images = format!("{data}/bounding_box_test");
    succeeds(&["extract", "--checkpoint", &run, "--images", &images, "--out", &index]);
    let (csv, report) = (path(&folder, "out/answers.csv"), path(&folder, "out/report.json"));
    // A threshold between the nearest images of two queries.
    let first = |q: usize| {
        (0..gallery.len())
            .map(|g| (distance(&query, q, &gallery, g), g))
            .min_by(|a, b| a.partial_cmp(b).unwrap())
            .unwrap()
    };
    let mut firsts: Vec<f64> = (0..query.len()).map(|q| first(q).0).collect();
    firsts.sort_by(f64::total_cmp);
    let threshold = 0.5 * (firsts[1] + firsts[2]);
    let printed = succeeds(&[
        "search",
        "--checkpoint",
        &run,
        "--gallery",
        &index,
        "--images",
        &format!("{data}/query"),
        "--top",
        "3",
        "--threshold",
        &threshold.to_string(),
        "--out",
        &csv,
        "--json",
        &report,
    ]);
    let unknown = query.len() - 2;
    assert!(
        printed.contains(&format!("{unknown} of {} queries are unknown, with no image up to", query.len())),
        "{printed}"
    );
    let rows = fs::read_to_string(&csv).unwrap();
    assert_eq!(rows.lines().count(), 1 + 3 * query.len());
    assert!(rows.starts_with("query,decision,rank,image,identity,pid,camid,distance"), "{rows}");
    for (q, answer) in json(&report)["answers"].as_array().unwrap().iter().enumerate() {
        let (distance, g) = first(q);
        assert_eq!(answer["query"], query.paths[q].to_str().unwrap());
        assert_eq!(answer["images"][0]["image"], gallery.paths[g].to_str().unwrap(), "query {q}");
        assert!((answer["images"][0]["distance"].as_f64().unwrap() - distance).abs() < 1e-6);
        assert_eq!(answer["decision"], if distance <= threshold { "known" } else { "unknown" });
        assert_eq!(answer["images"].as_array().unwrap().len(), 3);
    }

    // From files with labels: queries of an identity that is taken out of the gallery are the unknown ones.
    let gone = query.pids[0];
    let kept: Vec<usize> = (0..gallery.len()).filter(|g| gallery.pids[*g] != gone).collect();
    let write = |name: &str, set: &FeatureSet, rows: &[usize], origin: Option<&FeatureOrigin>| {
        let features: Vec<f32> = rows.iter().flat_map(|i| set.features[i * set.dim..][..set.dim].to_vec()).collect();
        let [pids, camids] = [&set.pids, &set.camids].map(|of| rows.iter().map(|i| of[*i]).collect::<Vec<i64>>());
        let paths: Vec<_> = rows.iter().map(|i| set.paths[*i].clone()).collect();
        let file = path(&folder, name);
        FeatureTable {
            features: &features,
            dim: set.dim,
            paths: &paths,
            labels: Some((&pids, &camids)),
            origin,
            names: None,
        }
        .write(Path::new(&file))
        .unwrap();
        file
    };
    let all: Vec<usize> = (0..query.len()).collect();
    let files = [write("q.safetensors", &query, &all, None), write("g.safetensors", &gallery, &kept, None)];
    let of_files = ["search", "--query", &files[0], "--gallery", &files[1]];
    let printed = succeeds(&[&of_files[..], &["--threshold", "9", "--json", &report]].concat());
    let figures = &json(&report)["open_set"];
    let unknown = query.pids.iter().filter(|pid| **pid == gone).count();
    assert_eq!((&figures["unknown"], &figures["known"]), (&unknown.into(), &(query.len() - unknown).into()));
    let point = figures["points"].as_array().unwrap().last().unwrap();
    let right = (0..query.len()).filter(|&q| query.pids[q] != gone).filter(|&q| {
        let near = kept.iter().map(|&g| (distance(&query, q, &gallery, g), g)).min_by(|a, b| a.partial_cmp(b).unwrap());
        gallery.pids[near.unwrap().1] == query.pids[q]
    });
    assert_eq!(point["fpir"]["share"], 1.0);
    assert_eq!(point["tpir"]["count"], right.count());
    assert!(printed.contains("open set"), "{printed}");
    assert!(succeeds(&of_files).contains("no decisions: there is no threshold"));

    let origin = |weights: &str| FeatureOrigin { weights: weights.into(), settings: Default::default() };
    let made = [
        write("q1.safetensors", &query, &all, Some(&origin("00000001"))),
        write("g2.safetensors", &gallery, &kept, Some(&origin("00000002"))),
    ];
    for command in ["search", "rank"] {
        let parts = ["q1.safetensors", "does not belong to the features of", "make both with the same model"];
        fails_with(1, &[command, "--query", &made[0], "--gallery", &made[1]], &parts);
    }
    fails_with(1, &[&of_files[..], &["--fpir", "0.1"]].concat(), &["--fpir = 0.1: there is no calibration"]);
    fails_with(1, &[&of_files[..], &["--width", "0.5"]].concat(), &["--width", "no network runs, because --query"]);
    fails_with(1, &[&of_files[..], &["--raw-csv"]].concat(), &["--raw-csv", "only --out writes a CSV file"]);
    fails_with(1, &[&of_files[..], &["--out", data]].concat(), &["it is a folder: name a file in it"]);
    let read = [&files[0], &files[1], &path(&folder, "g.csv")];
    for file in read {
        fails_with(1, &[&of_files[..], &["--out", file]].concat(), &["this file is read: name another one to write"]);
    }
    fails_with(1, &[&of_files[..], &["--out", &csv, "--json", &csv]].concat(), &["it is the file of --out, too"]);
    fails_with(2, &["search", "--gallery", &files[1]], &["--query", "--images"]);
    let images = ["search", "--gallery", &files[1], "--images", data, "--checkpoint", &run, "--query-labels", &csv];
    fails_with(2, &images, &["--query-labels"]);
    fails_with(2, &["search", "--gallery", &files[1], "--images", data], &["--checkpoint"]);
    let mut short = query.clone();
    (short.dim, short.features) = (2, query.features[..2 * query.len()].to_vec());
    let short = write("short.safetensors", &short, &all, None);
    fails_with(1, &["search", "--query", &short, "--gallery", &files[1]], &["have 2 numbers each"]);
    let junk = FeatureSet { pids: vec![-1; gallery.len()], ..gallery.clone() };
    let junk = write("junk.safetensors", &junk, &(0..gallery.len()).collect::<Vec<_>>(), None);
    fails_with(1, &["search", "--query", &files[0], "--gallery", &junk], &["junk.safetensors"]);
    let mut broken = gallery.clone();
    broken.features[3 * gallery.dim] = f32::NAN;
    let broken = write("nan.safetensors", &broken, &(0..gallery.len()).collect::<Vec<_>>(), None);
    fails_with(
        1,
        &["search", "--query", &files[0], "--gallery", &broken],
        &["row 3 of the gallery features is not finite"],
    );
}

#[test]
fn identities_of_the_training_are_not_calibrated_on() {
    let folder = tempfile::tempdir().unwrap();
    let [data, run] = &["data", "run"].map(|name| path(&folder, name));
    succeeds(&["synth", "--out", data, "--domain", "target", "--ids", "16", "--cams", "2"]);
    succeeds(&tiny(&["train", "--data", data, "--val-ids", "2", "--split", "5", "--out", run]));
    // Without flags, the identities that were held out.
    let calibrate = ["calibrate", "--checkpoint", run, "--fmr", "0.3", "--fpir", "0.5"];
    let printed = succeeds(&calibrate);
    assert!(printed.contains("2 training identities held out for validation, seed 5"), "{printed}");
    fails_with(
        1,
        &[&calibrate[..], &["--val-ids", "1", "--split", "5"]].concat(),
        &["--val-ids = 1", "so trained ones would be measured"],
    );
    let out = path(&folder, "c.json");
    let output = ptl(&[&calibrate[..], &["--data", data, "--out", &out]].concat());
    assert!(
        text(&output.stderr).contains("measured on the test of the training's data set"),
        "{}",
        text(&output.stderr)
    );
    assert!(!text(&output.stdout).contains("held out") && Path::new(&out).exists());
    fails_with(2, &[&calibrate[..], &["--fmr", "0"]].concat(), &["above 0 and below 1"]);
    let weights = beside(run).with_file_name("model.safetensors").display().to_string();
    fails_with(1, &[&calibrate[..], &["--out", &weights]].concat(), &["this file is read"]);
    let config = format!("{run}/config.toml");
    fails_with(1, &[&calibrate[..], &["--out", &config]].concat(), &["this file exists and is no report"]);
    fails_with(
        1,
        &[&calibrate[..], &["--split", "3"]].concat(),
        &["--val-ids = 2", "so trained ones would be measured"],
    );
    let few = ["calibrate", "--checkpoint", run, "--fmr", "0.000001", "--fpir", "0.00001"];
    fails_with(1, &few, &["--fmr and --fpir", "are too few for any of the wanted rates"]);
    let own_test = succeeds(&[&calibrate[..], &["--val-ids", "0", "--out", &out]].concat());
    assert!(!own_test.contains("held out"), "{own_test}");
}

#[test]
fn data_without_cameras_are_calibrated_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = &fixture().data;
    let mut table = String::from("path,id\n");
    for (i, image) in files(format!("{data}/bounding_box_train")).iter().enumerate() {
        table.push_str(&format!("{},person {}\n", image.display(), i / 6));
    }
    let [csv, out] = ["people.csv", "c.json"].map(|name| path(&folder, name));
    fs::write(&csv, table).unwrap();
    let run = &fixture().run;
    let calibrate = ["calibrate", "--checkpoint", run, "--data", &csv, "--fmr", "0.2", "--fpir", "0.5", "--out", &out];
    let printed = succeeds(&[&calibrate[..], &["--same-camera", "keep", "--val-ids", "2"]].concat());
    assert!(printed.contains("FMR 0.2"), "{printed}");
    assert_eq!(json(&out)["data"]["filter"], "nothing");
    // A gallery of such data names identities as the table does.
    let [gallery, report] = ["g.safetensors", "r.json"].map(|name| path(&folder, name));
    let keep = ["--same-camera", "keep", "--val-ids", "2"];
    succeeds(&[&["extract", "--checkpoint", run, "--data", &csv, "--out", &gallery][..], &keep].concat());
    let search =
        ["search", "--query", &gallery, "--gallery", &gallery, "--top", "1", "--threshold", "0.1", "--json", &report];
    assert!(succeeds(&search).contains("person "));
    let answers = json(&report)["answers"].clone();
    let identity = answers[0]["images"][0]["identity"].as_str().unwrap().to_string();
    assert!(identity.starts_with("person ") && answers[0]["images"][0]["distance"] == 0.0, "{identity}");
}
