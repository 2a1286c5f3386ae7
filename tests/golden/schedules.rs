//! Compares learning-rate schedules.

use ptl::engine::schedule::{Decay, Schedule, Warmup};
use serde_json::Value;

use crate::support::{Checker, GoldenFile, files};

/// Returns the schedule that a stored case describes; its fields tell the kind.
fn schedule(case: &Value) -> Schedule {
    let number = |key: &str| case[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {case}"));
    let count = |key: &str| case[key].as_u64().unwrap_or_else(|| panic!("no count {key} in {case}"));
    let has = |key: &str| case.get(key).is_some();
    let decay = if has("milestones") {
        let milestones = serde_json::from_value(case["milestones"].clone()).expect("milestones");
        Decay::MultiStep { milestones, gamma: number("gamma") }
    } else if has("step_size") {
        Decay::Step { step_size: count("step_size"), gamma: number("gamma") }
    } else if has("T_max") {
        Decay::Cosine { t_max: count("T_max"), eta_min: number("eta_min") }
    } else {
        assert!(has("total_iters"), "unknown schedule {case}");
        Decay::Constant
    };
    if has("end_factor") {
        assert_eq!(number("end_factor"), 1.0, "a warm-up ends at the base rate");
    }
    let iters = ["total_iters", "warmup_iters"].into_iter().find(|key| has(key));
    let warmup = iters.map(|key| Warmup { iters: count(key), start_factor: number("start_factor") });
    Schedule { warmup, decay }
}

#[test]
fn golden_schedules() {
    for path in files("lr_schedules*.json") {
        let golden = GoldenFile::open(&path);
        for (name, case) in golden.json.as_object().expect("schedules by name") {
            let schedule = schedule(case);
            let base = case["base_lr"].as_f64().expect("base_lr");
            let want: Vec<f64> = serde_json::from_value(case["lr"].clone()).expect("lr");
            let got: Vec<f64> = (0..want.len() as u64).map(|t| schedule.lr(base, t)).collect();
            Checker::new(&golden.name).close_absolute(name, &got, &want, 1e-9 * base);
        }
    }
}
