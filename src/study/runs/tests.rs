use std::fs;
use std::path::Path;

use super::*;
use crate::base::csv_out::Cells;
use crate::data::ImageRecord;
use crate::engine::latent_state::{StateInit, StatePolicy};
use crate::eval::classification::ClassificationReport;
use crate::eval::ranking::{Labels, RankingOptions, evaluate_distances, write_queries_csv};

const OPTIONS: Options = Options { bootstrap: Bootstrap { resamples: 500, seed: 0 }, baseline: None };
const IMAGES: usize = 60;

/// Makes a finished run of three classes in `folder`. Wrong are the first `wrong` images, and a few that the seed chooses.
fn run(folder: &Path, seed: u64, wrong: usize, change: impl Fn(&mut Config)) {
    let mut config = Config::recipe(TaskKind::Classify, "resnet18");
    config.seed = seed;
    change(&mut config);
    let run = RunDir::create(folder).unwrap();
    run.write_config(&config).unwrap();
    write_items(&run.items_path(), seed, wrong, "image");
}

fn write_items(path: &Path, seed: u64, wrong: usize, name: &str) {
    let labels: Vec<u32> = (0..IMAGES as u32).map(|i| i % 3).collect();
    let row = |(i, &label): (usize, &u32)| {
        let wrong = i < wrong || i as u64 % 20 == seed % 20;
        let predicted = if wrong { (label as usize + 1) % 3 } else { label as usize };
        let mut row = [0.1f32; 3];
        row[predicted] = 0.8;
        row
    };
    let probabilities: Vec<f32> = labels.iter().enumerate().flat_map(row).collect();
    let classes = ["cat", "dog, big", "eel"].map(String::from);
    let report = ClassificationReport::new(&probabilities, &labels, &classes).unwrap();
    let names: Vec<String> = (0..IMAGES).map(|i| format!("{name}{i}")).collect();
    report.write_items_csv(path, Cells::Guarded, &names).unwrap();
}

fn compare_in(folder: &Path, names: &[&str]) -> Result<RunComparison> {
    compare(&names.iter().map(|name| folder.join(name)).collect::<Vec<_>>(), &OPTIONS)
}

fn names(found: &RunComparison) -> Vec<&str> {
    found.arms.iter().map(|arm| arm.name.as_str()).collect()
}

#[test]
fn a_study_has_arms_by_folder() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for seed in [0, 1, 2] {
        run(&root.join(format!("study/seed-{seed}/plain")), seed, 30, |_| ());
        run(&root.join(format!("study/seed-{seed}/ptl")), seed, 3, |c| {
            c.model.arch = "resnet18-ptl".into();
            // What cannot change results does not make an arm.
            (c.threads, c.train.workers, c.train.log_every) = (seed as usize, 1, 7);
            c.train.eval_every = 1 + seed as usize;
        });
    }
    // The study's own settings are no run.
    RunDir::create(&root.join("study/own")).unwrap();
    fs::write(root.join("study/config.toml"), Config::default().to_toml()).unwrap();
    let found = compare_in(root, &["study"]).unwrap();
    assert_eq!((names(&found), found.items, found.figure), (vec!["plain", "ptl"], IMAGES, "top1"));
    let seeds = |arm: usize| found.arms[arm].runs.iter().map(|run| run.seed).collect::<Vec<_>>();
    assert_eq!((seeds(0), seeds(1)), (vec![0, 1, 2], vec![0, 1, 2]));
    // Wrong are the first 30 or 3 images, and one or two more that the seed chooses.
    let top1 = |arm: usize| found.arms[arm].runs.iter().map(|run| run.figures["top1"]).collect::<Vec<_>>();
    assert_eq!(top1(0), [29.0 / 60.0; 3]);
    assert_eq!(top1(1), [55.0 / 60.0; 3]);
    assert_eq!(found.arms[0].std["top1"], 0.0);
    let [ptl] = &found.comparisons[..] else { panic!("{found:?}") };
    assert!((ptl.difference.mean - 26.0 / 60.0).abs() < 1e-12 && ptl.difference.paired_seeds);
    assert_eq!((ptl.verdict, ptl.p_holm, ptl.by_seed.len()), (Verdict::Better, None, 3));
    let text = found.text(false);
    for part in
        ["48.33 ± 0.00", "top-1 against `plain`, in points:", "+43.33", "0: +43.33, 1: +43.33", "3 pairs", "better"]
    {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(text.contains("500 resamples, seed 0: a resample draws 60 images with replacement"), "{text}");
    let json = found.to_json();
    assert_eq!((&json["baseline"], &json["comparisons"][0]["arm"]), (&"plain".into(), &"ptl".into()));
    assert_eq!(json["arms"][1]["runs"][2]["figures"]["top1"], 55.0 / 60.0);
    assert!(json["comparisons"][0]["p"].is_f64() && json["procedure"].is_string());
}

#[test]
fn figures_are_those_of_the_report() {
    let folder = tempfile::tempdir().unwrap();
    run(&folder.path().join("a"), 0, 7, |_| ());
    let (items, _) = Items::read(&folder.path().join("a/items.csv")).unwrap();
    // Images 0 to 6, 20 and 40 of 60 are wrong; of class 0 (0, 3, 6), of 1 (1, 4, 40), of 2 (2, 5, 20).
    let nll = -(51.0 * 0.8f64.ln() + 9.0 * 0.1f64.ln()) / 60.0;
    let want = [51.0 / 60.0, 1.0, 51.0 / 60.0, 0.05, nll];
    assert!(items.figures.iter().zip(want).all(|(x, want)| (x - want).abs() < 1e-6), "{:?}", items.figures);
}

#[test]
fn arms_are_named_by_the_settings_in_which_they_differ() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    run(&root.join("a0"), 0, 3, |_| ());
    run(&root.join("a1"), 1, 3, |_| ());
    run(&root.join("b0"), 0, 4, |c| c.ptl.state_policy = StatePolicy::Reset);
    run(&root.join("b1"), 2, 4, |c| c.ptl.state_policy = StatePolicy::Reset);
    run(&root.join("c0"), 0, 3, |c| c.ptl.state_init = StateInit::Normal);
    let found = compare_in(root, &["a0", "a1", "b0", "b1", "c0"]).unwrap();
    let name = |policy, init| format!("ptl.state_policy = {policy}, ptl.state_init = {init}");
    let want = [name("carry", "zeros"), name("reset", "zeros"), name("carry", "normal")];
    assert_eq!(names(&found), want);
    // The arms have other seeds: these are drawn separately, and one seed has a difference. There are two comparisons, so p is adjusted.
    let [b, c] = &found.comparisons[..] else { panic!("{found:?}") };
    assert_eq!((b.difference.paired_seeds, b.by_seed.len(), c.by_seed.len()), (false, 1, 1));
    assert_eq!(
        (c.difference.mean, c.difference.p, c.p_holm, c.verdict),
        (0.0, 1.0, Some(1.0), Verdict::NotSignificant)
    );
    assert!(
        found.text(false).contains("2 and 2, separately") && found.procedure().contains("verdicts at 95 % by Holm's p")
    );
    // With many settings, the name has those that distinguish the arms.
    run(&root.join("d"), 0, 4, |c| {
        c.model.arch = "resnet34".into();
        (c.optim.lr, c.schedule.epochs, c.train.max_steps) = (0.5, 3, Some(9));
    });
    let found = compare_in(root, &["a0", "a1", "d"]).unwrap();
    assert_eq!(names(&found), ["model.arch = resnet18, ...", "model.arch = resnet34, ..."]);
    // An evaluation may end a training, where patience is set.
    for every in [1, 2] {
        run(&root.join(format!("e{every}")), every as u64, 4, |c| (c.train.patience, c.train.eval_every) = (2, every));
    }
    assert_eq!(names(&compare_in(root, &["e1", "e2"]).unwrap()), ["e1", "e2"]);
}

#[test]
fn runs_of_other_start_weights_are_arms_by_folder() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for seed in [0, 1] {
        run(&root.join(format!("s{seed}/scratch")), seed, 8, |_| ());
        run(&root.join(format!("s{seed}/pretrained")), seed, 8, |_| ());
    }
    let found = compare_in(root, &["s0", "s1"]).unwrap();
    assert_eq!(names(&found), ["pretrained", "scratch"]);
    assert_eq!((found.comparisons[0].difference.p, found.comparisons[0].difference.mean), (1.0, 0.0));
    run(&root.join("again/scratch"), 1, 8, |_| ());
    let error = compare_in(root, &["s0", "s1", "again"]).unwrap_err().to_string();
    assert!(error.contains("s1/scratch and ") && error.contains("the same settings, seed 1 and name"), "{error}");
    // The same run by two paths is one run, and a single arm is compared with nothing.
    let one = compare_in(root, &["s0/scratch", "s0/../s0/scratch"]).unwrap();
    assert!(one.comparisons.is_empty() && one.text(false).contains("nothing to compare"));
}

#[test]
fn the_baseline_is_chosen_by_name_or_number() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| folder.path().join(name));
    run(&paths[0], 0, 3, |_| ());
    run(&paths[1], 0, 30, |c| c.optim.lr = 0.5);
    let with = |named: &str| compare(&paths, &Options { baseline: Some(named.into()), ..OPTIONS });
    assert_eq!(with("b").unwrap().comparisons[0].verdict, Verdict::Better);
    assert_eq!(with("2").unwrap().baseline, 1);
    let first = with("a").unwrap();
    assert_eq!(first.comparisons[0].verdict, Verdict::Worse);
    assert!(first.procedure().contains("each arm has one seed, so the interval covers images only"));
    assert!(first.text(true).contains("| arm |") && first.text(true).contains(" one each | "), "{}", first.text(true));
    for named in ["c", "0", "3"] {
        let error = with(named).unwrap_err().to_string();
        assert_eq!(error, format!("`baseline` = {named}: name an arm or its number: 1 a; 2 b"));
    }
}

#[test]
fn errors_say_what_cannot_be_compared() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let error = |names: &[&str]| compare_in(root, names).unwrap_err().to_string();
    run(&root.join("a"), 0, 3, |_| ());
    run(&root.join("other"), 1, 3, |_| ());
    let items = root.join("other/items.csv");
    let text = fs::read_to_string(&items).unwrap();
    fs::write(&items, text.replace("image7,", "new7,").replace("image8,eel,", "image8,cat,")).unwrap();
    let other = error(&["a", "other"]);
    let want = "2 of 60 images (with their labels) are missing, 2 are new";
    assert!(other.contains("other was measured on other images than ") && other.contains(want), "{other}");
    // Broken files, with their line.
    fs::write(&items, text.replacen(",0.8,1,", ",NaN,1,", 1)).unwrap();
    assert!(error(&["a", "other"]).contains("items.csv, line "), "{}", error(&["other"]));
    fs::write(&items, "image,label\nx,y\n").unwrap();
    assert!(error(&["other"]).contains("items.csv, line 1: the header is neither image,label,predicted"));
    fs::write(&items, "image,pid,camid,AP,rank1,INP\n").unwrap();
    assert!(error(&["other"]).contains("a protocol that draws galleries has no figures for single queries"));
    fs::remove_file(&items).unwrap();
    assert!(error(&["a", "other"]).contains("it has no items.csv, so it has not finished"));
    // A folder with a run that has not finished: the message names that run.
    assert!(error(&["."]).contains("other is not a run folder"));
    fs::create_dir(root.join("empty")).unwrap();
    assert!(error(&["empty"]).contains("it is empty") && error(&["none"]).contains("it does not exist"));
}

/// Makes a re-identification run in which queries are ranked by `distances` `[2, 3]`.
fn reid_run(folder: &Path, seed: u64, distances: [f32; 6]) {
    let run = RunDir::create(folder).unwrap();
    run.write_config(&Config { seed, ..Config::default() }).unwrap();
    let queries = [1, 2].map(|pid| ImageRecord { path: format!("{pid}.jpg").into(), pid, camid: 1 });
    let (query, gallery) = (Labels { pids: &[1, 2], camids: &[1, 1] }, Labels { pids: &[1, 2, 3], camids: &[2; 3] });
    let report = evaluate_distances(&distances, query, gallery, &RankingOptions::default()).unwrap();
    write_queries_csv(&run.items_path(), &report, &queries, std::path::Path::new(""), Cells::Guarded).unwrap();
}

#[test]
fn reidentification_is_compared_by_map() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    // The match is first in both queries of a, and first and second in those of b.
    reid_run(&root.join("a"), 0, [0.1, 0.2, 0.3, 0.2, 0.1, 0.3]);
    reid_run(&root.join("b"), 0, [0.1, 0.2, 0.3, 0.1, 0.2, 0.3]);
    let found = compare_in(root, &["a", "b"]).unwrap();
    assert_eq!((found.task, found.figure, names(&found)), (TaskKind::Reid, "mAP", vec!["a", "b"]));
    let b = &found.arms[1].mean;
    assert_eq!((b["mAP"], b["rank1"], b["mINP"]), (0.75, 0.5, 0.75));
    assert_eq!((found.comparisons[0].difference.mean, found.comparisons[0].verdict), (-0.25, Verdict::NotSignificant));
    assert!(
        found.text(false).contains("mAP against `a`") && found.procedure().contains("draws 2 queries with replacement")
    );
    run(&root.join("c"), 0, 3, |_| ());
    let error = compare_in(root, &["a", "c"]).unwrap_err().to_string();
    assert!(error.starts_with("these runs cannot be compared: ") && error.ends_with("c classifies"), "{error}");
}
