//! Compares optimisers in every configuration of the metadata: parameters after the stored steps, and the final state.

use ptl::engine::device::{Device, Mirrored};
use ptl::engine::optim::{Optimizer, Segment, UpdateRule};
use ptl::engine::schedule::{Decay, Schedule};
use serde_json::Value;

use crate::support::{Checker, GoldenFile, exact, files};

const TOLERANCE: f64 = 5e-6;

fn config(case: &Value) -> UpdateRule {
    let number = |key: &str| case[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {case}"));
    let flag = |key: &str| case[key].as_bool().unwrap_or_else(|| panic!("no flag {key} in {case}"));
    let betas = || [number("beta1"), number("beta2")];
    match case["kind"].as_str().expect("kind") {
        "adam" => UpdateRule::Adam { betas: betas(), eps: number("eps"), amsgrad: flag("amsgrad") },
        "adamw" => UpdateRule::AdamW { betas: betas(), eps: number("eps"), amsgrad: flag("amsgrad") },
        "sgd" => UpdateRule::Sgd { momentum: number("momentum"), nesterov: flag("nesterov") },
        other => panic!("unknown optimiser {other}"),
    }
}

fn schedule(case: &Value) -> Schedule {
    let decay = match case.get("milestones") {
        None => Decay::Constant,
        Some(list) => Decay::MultiStep {
            milestones: serde_json::from_value(list.clone()).expect("milestones"),
            gamma: case["gamma"].as_f64().expect("gamma"),
        },
    };
    Schedule { warmup: None, decay }
}

/// Joins the tensors `<prefix><name>` in the order of `names`.
fn flat(golden: &GoldenFile, prefix: &str, names: &[&str]) -> Vec<f32> {
    names.iter().flat_map(|name| golden.f32(&format!("{prefix}{name}"))).collect()
}

/// Updates the parameters by one step on `device`.
pub fn update(
    device: &Device,
    optimizer: &mut Optimizer,
    values: &mut Mirrored,
    grads: &mut Mirrored,
    segments: &[Segment],
) {
    match device.gpu() {
        None => optimizer.step(values, grads, segments),
        Some(gpu) => {
            let update = optimizer.bind(gpu, segments).unwrap();
            let (values, grads) = (values.on_device_mut(gpu).unwrap(), grads.on_device(gpu).unwrap());
            optimizer.launch(gpu, &update, values, grads, 0.0).unwrap();
            optimizer.count_step();
        }
    }
}

#[test]
fn golden_optim() {
    for path in files("optim*.safetensors") {
        let golden = GoldenFile::open(&path);
        let names: Vec<&str> = golden.keys().into_iter().filter_map(|key| key.strip_prefix("param0.")).collect();
        let grads: Vec<Vec<f32>> = names.iter().map(|name| golden.f32(&format!("grads.{name}"))).collect();
        let steps = golden.shape(&format!("grads.{}", names[0]))[0];
        let mut cases: Vec<&String> = golden.metadata.keys().filter(|key| *key != "salt").collect();
        cases.sort_unstable();
        assert!(!cases.is_empty(), "{}: no configuration in the metadata", path.display());

        for (case_name, variant) in cases.iter().flat_map(|case| exact().into_iter().map(move |v| (*case, v))) {
            let case = golden.meta(case_name);
            let number = |key: &str| case[key].as_f64().expect("a number");
            let schedule = schedule(&case);
            let mut params = Mirrored::from(flat(&golden, "param0.", &names));
            let mut optimizer = Optimizer::new(&config(&case), params.len()).expect("a configuration that works");
            let mut checker = variant.checker(&format!("{} {case_name}", golden.name));
            let mut compared = 0;
            for t in 1..=steps {
                let slice = |g: &Vec<f32>| g[g.len() / steps * (t - 1)..g.len() / steps * t].to_vec();
                let step_grads: Vec<f32> = grads.iter().flat_map(slice).collect();
                let segment = Segment {
                    range: 0..params.len(),
                    lr: schedule.lr(number("lr"), t as u64 - 1) as f32,
                    weight_decay: number("weight_decay") as f32,
                };
                update(&variant.device, &mut optimizer, &mut params, &mut step_grads.into(), &[segment]);
                compared += compare(&golden, &format!("{case_name}.step{t}."), &names, &params, &mut checker);
            }
            for (buffer, values) in optimizer.state() {
                let prefix = format!("{case_name}.state{steps}.{buffer}.");
                compared += compare(&golden, &prefix, &names, values, &mut checker);
            }
            let stored = golden.keys().into_iter().filter(|key| key.starts_with(&format!("{case_name}."))).count();
            checker.that(compared == stored, || format!("{compared} of {stored} stored tensors were compared"));
        }
    }
}

/// Compares each stored tensor `<prefix><name>` with its part of the flat buffer. Returns the number of compared tensors.
fn compare(golden: &GoldenFile, prefix: &str, names: &[&str], flat: &[f32], checker: &mut Checker) -> usize {
    let (mut start, mut compared) = (0, 0);
    for name in names {
        let len: usize = golden.shape(&format!("param0.{name}")).iter().product();
        let key = format!("{prefix}{name}");
        if golden.has(&key) {
            checker.close(&key, &flat[start..start + len], &golden.f32(&key), TOLERANCE);
            compared += 1;
        }
        start += len;
    }
    compared
}
