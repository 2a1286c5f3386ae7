//! `ptl-train report`: what the page shows, and what is refused. `scripts/check-report` opens such pages in a browser.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{classify, fails_with, files, fixture, json, own_data, path, ptl, succeeds, text, tiny};

/// Writes the page of some runs, and returns it with the messages of the command.
fn page(out: &str, args: &[&str]) -> (String, String) {
    let output = ptl(&[&["report", "--out", out][..], args].concat());
    let messages = text(&output.stderr);
    assert!(output.status.success(), "{messages}");
    (fs::read_to_string(out).unwrap(), messages)
}

fn contains(page: &str, parts: &[&str]) {
    for part in parts {
        assert!(page.contains(part), "{part:?} is not in\n{}", without_pictures(page));
    }
}

/// Returns the page without the bytes of its pictures.
fn without_pictures(page: &str) -> String {
    let mut parts = page.split("data:image/jpeg;base64,");
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |text, part| text + part.split_once('"').map_or("", |(_, rest)| rest))
}

#[test]
fn two_arms_are_compared_and_their_queries_shown() {
    let folder = tempfile::tempdir().unwrap();
    let data = &fixture().data;
    for seed in ["0", "1"] {
        for arch in ["resnet18", "resnet18-ptl"] {
            let run = path(&folder, &format!("study/seed-{seed}/{arch}"));
            succeeds(
                &[&tiny(&["train", "--data", data, "--out", &run, "--seed", seed])[..], &["--arch", arch]].concat(),
            );
        }
    }
    let (study, out, figures) = (path(&folder, "study"), path(&folder, "new/page.html"), path(&folder, "figures.json"));
    succeeds(&["calibrate", "--checkpoint", &format!("{study}/seed-0/resnet18-ptl"), "--fmr", "0.2", "--fpir", "0.5"]);
    succeeds(&["compare", &study, "--out", &figures, "--resamples", "200"]);
    let (html, messages) = page(&out, &[&study, "--queries", "2", "--resamples", "200"]);
    assert!(messages.contains("open it in a browser"), "{messages}");
    contains(
        &html,
        &[
            "<title>ptl: resnet18, resnet18-ptl</title>",
            "<h2>Figures</h2>",
            "<h2>Curves</h2>",
            "<h2>Latent states</h2>",
            "<h2>Results of resnet18</h2>",
            "<h2>Results of resnet18-ptl</h2>",
            "<h2>Settings</h2>",
            "<h2>Costs</h2>",
            "Training loss",
            "Similarity of slots (cosine)",
            "ptl.bconv6",
            "Queries from good to bad",
            "Worst queries",
            "Pairs of cameras",
            "equal error rate",
            "Distances of pairs",
            "There is no calibration beside the weights",
            "<td>model.arch</td><td>resnet18</td><td>resnet18-ptl</td>",
        ],
    );
    // The table has the figures and intervals of the comparison.
    let figures = json(&figures);
    for arm in figures["arms"].as_array().unwrap() {
        let [low, high] = [0, 1].map(|end| 100.0 * arm["interval"][end].as_f64().unwrap());
        contains(
            &html,
            &[&format!("{:.2} ± ", 100.0 * arm["mean"]["mAP"].as_f64().unwrap()), &format!("[{low:.2}, {high:.2}]")],
        );
        assert!(low < high && (low..=high).contains(&(100.0 * arm["mean"]["mAP"].as_f64().unwrap())));
    }
    // 2 arms with 4 queries, each with its gallery and two or four heat maps.
    assert_eq!(html.matches("<div class=\"ranked\"><figure class=\"query\">").count(), 8);
    let maps = html.matches("falls by up to").count();
    assert!((16..=32).contains(&maps) && maps % 2 == 0, "{maps}");
    let words = without_pictures(&html);
    for foreign in ["http://", "https://", "<script", "<link", "src=\"/", "NaN"] {
        let found = words.matches(foreign).count() - words.matches(&format!("{foreign}www.w3.org/2000/svg")).count();
        assert_eq!(found, 0, "{foreign}");
    }
    // The same runs give the same page; without the networks it has the same tables.
    let again = path(&folder, "again.html");
    assert!(page(&again, &[&study, "--queries", "2", "--resamples", "200"]).0 == html);
    let (short, _) = page(&again, &[&study, "--no-model", "--resamples", "200"]);
    assert!(!short.contains("data:image") && !short.contains("Results of"));
    let table =
        |page: &str| page.split("<h2>Figures</h2>").nth(1).unwrap().split("</section>").next().unwrap().to_string();
    assert_eq!(table(&short), table(&html));
}

#[test]
fn held_out_identities_are_measured_as_in_the_training_also_where_they_have_moved() {
    let folder = tempfile::tempdir().unwrap();
    let (data, run, out) = (own_data(&folder), path(&folder, "run"), path(&folder, "page.html"));
    let held_out = [
        "--val-ids",
        "1",
        "--same-camera",
        "keep",
        "--ids",
        "2",
        "--sampler.passes",
        "4",
        "--accumulate",
        "2",
        "--train.log-every",
        "1",
    ];
    succeeds(&[&tiny(&["train", "--data", &data, "--out", &run])[..], &held_out].concat());
    let (html, messages) = page(&out, &[&run, "--no-heat-maps"]);
    assert!(messages.contains("held out for validation"), "{messages}");
    let map = json(format!("{run}/summary.json"))["mAP"].as_f64().unwrap();
    contains(&html, &[&format!("{map:.2}"), "resnet18-ptl", "seed 0, measured on", "95 % interval of mAP"]);
    assert!(!html.contains("falls by up to") && !html.contains("These results are not those of the run"));
    let moved = path(&folder, "moved");
    fs::rename(&data, &moved).unwrap();
    fails_with(1, &["report", "--out", &out, &run], &[&data, "--data names images that have moved"]);
    let (after, _) = page(&out, &[&run, "--no-heat-maps", "--data", &moved]);
    assert_eq!(without_pictures(&after).replace(&moved, &data), without_pictures(&html));
    // Other images are not those of the run.
    let other = &fixture().data;
    let line = ["report", "--out", &out, &run, "--data", other, "--val-ids", "2"];
    fails_with(1, &line, &["was measured on", "--data must name the images of the run"]);
    // Time is that of images: an update of two batches has twice as many.
    let lines = fs::read_to_string(format!("{run}/metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (mut seconds, mut before) = (0.0, 0.0);
    for line in lines.iter().filter(|line| line["type"] == "epoch") {
        let step = line["step"].as_f64().unwrap();
        seconds += (step - before) * 2.0 * 4.0 / line["images_per_second"].as_f64().unwrap();
        before = step;
    }
    contains(&html, &[&format!("<td>{seconds:.1} s</td>")]);
}

/// Writes generated images as VehicleID publishes them: numbered, with lists of names and identities.
fn vehicle_id(folder: &str) {
    fs::create_dir_all(format!("{folder}/image")).unwrap();
    fs::create_dir_all(format!("{folder}/train_test_split")).unwrap();
    let mut image = 0;
    for (list, ids) in [("train_list", 0..4u8), ("test_list_800", 4..9)] {
        let mut lines = String::new();
        for id in ids {
            for shot in 0..4u8 {
                image += 1;
                let pixel = |x, y| image::Rgb([2 * id, (20 * x * u32::from(shot)) as u8, (y * u32::from(id)) as u8]);
                image::RgbImage::from_fn(20, 16, pixel).save(format!("{folder}/image/{image:07}.jpg")).unwrap();
                lines += &format!("{image:07} {id}\n");
            }
        }
        fs::write(format!("{folder}/train_test_split/{list}.txt"), lines).unwrap();
    }
}

#[test]
fn drawn_galleries_and_re_ranked_results_are_those_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (vehicles, run, out) = (path(&folder, "VehicleID"), path(&folder, "vehicles"), path(&folder, "page.html"));
    vehicle_id(&vehicles);
    succeeds(&tiny(&["train", "--data", &vehicles, "--dataset", "vehicleid-800", "--out", &run]));
    let own = json(format!("{run}/summary.json"))["mAP"].as_f64().unwrap();
    assert!(0.0 < own && own < 100.0, "{own}");
    let (html, _) = page(&out, &[&run, "--queries", "2"]);
    // No query has a rank of its own where galleries are drawn anew, so none is the worst.
    contains(&html, &["VehicleID", &format!("{own:.2}"), "Queries from good to bad", "falls by up to"]);
    assert!(!html.contains("Worst queries") && !html.contains("These results are not those of the run"));
    assert_eq!(html.matches("<figure class=\"query\">").count(), 2);

    let (run, report) = (path(&folder, "reranked"), path(&folder, "reranked.json"));
    succeeds(&tiny(&["train", "--data", &fixture().data, "--out", &run, "--rerank"]));
    succeeds(&["evaluate", "--checkpoint", &run, "--rerank", "--out", &report]);
    let (html, _) = page(&out, &[&run, "--no-heat-maps"]);
    let report = json(&report);
    for ranking in ["plain", "reranked"] {
        contains(&html, &[&format!("{:.2}", 100.0 * report[ranking]["mAP"].as_f64().unwrap())]);
    }
    contains(&html, &["Ranks, distances and AP of queries are those of the re-ranking"]);
    assert!(!html.contains("These results are not those of the run"));
}

#[test]
fn a_classifier_has_confusions_and_its_worst_errors() {
    let folder = tempfile::tempdir().unwrap();
    let (photos, run, out) = (path(&folder, "photos"), path(&folder, "run"), path(&folder, "page.html"));
    for class in ["day", "night <dark>"] {
        fs::create_dir_all(format!("{photos}/{class}")).unwrap();
        for i in 0..10u8 {
            // Both classes look the same, so that half of the images must be wrong.
            let image = image::RgbImage::from_fn(18, 14, |x, y| {
                image::Rgb([20 * i, (x * y) as u8, if class == "day" { 9 } else { 10 }])
            });
            image.save(format!("{photos}/{class}/{i}.png")).unwrap();
        }
    }
    let line = classify::tiny(&["train", "--data", &photos, "--out", &run]);
    succeeds(&[&line[..], &["--arch", "cifar-resnet20"]].concat());
    let (html, _) = page(&out, &[&run]);
    contains(
        &html,
        &[
            "Confusion matrix",
            "Reliability",
            "Classes with the lowest accuracy",
            "night &lt;dark&gt;",
            "<h2>Curves</h2>",
        ],
    );
    assert!(!html.contains("night <dark>") && !html.contains("<h2>Latent states</h2>"));
    let wrong = fs::read_to_string(format!("{run}/items.csv"))
        .unwrap()
        .lines()
        .filter(|line| line.split(',').nth(4) == Some("0"))
        .count();
    assert!(wrong > 0, "a class that cannot be told has errors");
    contains(
        &html,
        &[
            &format!("The errors with the largest probabilities, of {wrong}"),
            "heat maps: where the probability falls",
            "falls to ",
        ],
    );
    assert_eq!(html.matches("data:image/jpeg").count(), 2 * wrong.min(8));
    fails_with(1, &["report", &run, &fixture().run, "--out", &out], &["classifies", "re-identifies"]);
    // The images that were held out are measured also where they have moved.
    let moved = path(&folder, "moved");
    fs::rename(&photos, &moved).unwrap();
    let (after, _) = page(&out, &[&run, "--data", &moved]);
    assert_eq!(after.replace(&moved, &photos), html);
}

#[test]
fn what_cannot_be_reported_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let run = &fixture().run;
    let out = path(&folder, "page.html");
    let refused = |args: &[&str], parts: &[&str]| {
        fails_with(1, &[&["report", "--out", &out][..], args].concat(), parts);
        assert!(!Path::new(&out).exists());
    };
    refused(&[&path(&folder, "none")], &["none is not a run folder: it does not exist"]);
    refused(&[run, "--baseline", "other"], &["--baseline = other", "name an arm or its number"]);
    refused(&[run, "--no-model", "--data", "elsewhere"], &["--data = (given): with --no-model, no network is run"]);
    refused(
        &[run, "--data", &path(&folder, "elsewhere")],
        &["elsewhere", "--no-model makes a report without networks"],
    );
    refused(&[run, "--task", "classify"], &["the checkpoint was trained with reid"]);
    fails_with(1, &["report", run, "--out", &format!("{run}/items.csv")], &["give it the ending .html"]);
    refused(&[run, "--raw-csv"], &["this command does not use it"]);
    fails_with(1, &["report", run, "--out", &path(&folder, "")], &["it is a folder"]);
    fails_with(2, &["report"], &["<RUN>"]);
    fails_with(2, &["report", run, "--no-model", "--no-heat-maps"], &["cannot be used with"]);

    // A run without an end, and one whose images are gone.
    let unfinished = path(&folder, "unfinished");
    fs::create_dir(&unfinished).unwrap();
    fs::copy(format!("{run}/config.toml"), format!("{unfinished}/config.toml")).unwrap();
    refused(&[&unfinished], &["it has not finished"]);
    // A study whose runs cannot be told apart is no run.
    let study = path(&folder, "study");
    for copy in ["a", "b"] {
        let same = format!("{study}/{copy}/run");
        fs::create_dir_all(&same).unwrap();
        for name in ["config.toml", "items.csv"] {
            fs::copy(format!("{run}/{name}"), format!("{same}/{name}")).unwrap();
        }
    }
    fs::copy(format!("{run}/config.toml"), format!("{study}/config.toml")).unwrap();
    refused(&[&study], &["have the same settings, seed 0 and name"]);
    let short = path(&folder, "run");
    assert!(Command::new("cp").args(["-r", run, &short]).status().unwrap().success());
    // Without weights there are still figures and curves.
    fs::remove_dir_all(format!("{short}/checkpoints")).unwrap();
    let (html, _) = page(&out, &[&short, "--no-model"]);
    contains(&html, &["<h2>Figures</h2>", "<h2>Curves</h2>", "<td>-</td>"]);
    assert!(files(&short).iter().all(|file| !file.ends_with("checkpoints")), "the run is only read");
}
