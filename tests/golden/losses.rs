//! Compares cross-entropy and batch-hard triplet loss.

use ptl::engine::device::Device;
use ptl::engine::graph::{Graph, Mode, Var};
use ptl::engine::latent_state::{LatentStates, StateInit};
use ptl::engine::op::{self, CrossEntropyOptions};
use ptl::engine::session::Session;
use ptl::engine::shape::Shape;
use ptl::engine::store::Store;

use crate::support::{GoldenFile, Variant, exact, files};

/// Computes loss and gradient of one loss op on `x` `[n, d]`.
fn run(
    device: &Device,
    x: &[f32],
    shape: &[usize],
    labels: &[i64],
    weight: f32,
    loss: impl FnOnce(&mut Graph, Var, Var) -> ptl::Result<Var>,
) -> (f32, Vec<f32>) {
    let mut store = Store::new();
    let mut graph = Graph::new(Mode::Train);
    let input = graph.input_with_grad(Shape::vectors(shape[0], shape[1]));
    let target = graph.labels(shape[0]);
    let output = loss(&mut graph, input, target).expect("the loss records");
    graph.root(output);
    let mut session = Session::new(graph, &store, device).unwrap().poisoned();
    let labels: Vec<u32> = labels.iter().map(|l| u32::try_from(*l).expect("a label")).collect();
    session.set(input, x).unwrap();
    session.set(target, bytemuck::cast_slice(&labels)).unwrap();
    let mut states = LatentStates::new(StateInit::Zeros, 0);
    session.forward(&mut store, &mut states).unwrap();
    session.set_grad(output, &[weight]).unwrap();
    session.backward(&mut store, &mut states).unwrap();
    let loss = session.value(output).unwrap()[0];
    (loss, session.grad(input).unwrap().to_vec())
}

/// Returns the names of the cases: the part of each key before `suffix`.
fn cases(golden: &GoldenFile, suffix: &str) -> Vec<String> {
    let found: Vec<String> =
        golden.keys().iter().filter_map(|key| key.strip_suffix(suffix)).map(String::from).collect();
    assert!(!found.is_empty(), "no case ends in {suffix}");
    found
}

/// Returns each case with each exact device. In bf16 another example may be the hardest, which changes more than rounding does.
fn on_each(cases: Vec<String>) -> Vec<(String, Variant)> {
    cases.into_iter().flat_map(|case| exact().into_iter().map(move |variant| (case.clone(), variant))).collect()
}

#[test]
fn golden_cross_entropy() {
    for path in files("loss_ce*.safetensors") {
        let golden = GoldenFile::open(&path);
        for (case, variant) in on_each(cases(&golden, ".z")) {
            let key = |name: &str| format!("{case}.{name}");
            let (z, labels) = (golden.f32(&key("z")), golden.i64(&key("labels")));
            let (loss, dz) = run(&variant.device, &z, golden.shape(&key("z")), &labels, 1.0, |g, z, labels| {
                op::cross_entropy(g, z, labels, CrossEntropyOptions::default())
            });
            let mut checker = variant.checker(&case);
            checker.close("loss", &[loss], &golden.f32(&key("loss")), 1e-6);
            checker.close("dz", &dz, &golden.f32(&key("dz")), 1e-6);
        }
    }
}

#[test]
fn golden_triplet() {
    for path in files("loss_triplet*.safetensors") {
        let golden = GoldenFile::open(&path);
        for (case, variant) in on_each(cases(&golden, ".f")) {
            let key = |name: &str| format!("{case}.{name}");
            let margin = case.trim_start_matches('m').split('_').next().expect("a margin").parse().expect("a number");
            let (f, labels) = (golden.f32(&key("f")), golden.i64(&key("labels")));
            let (loss, df) = run(&variant.device, &f, golden.shape(&key("f")), &labels, 1.0, |g, f, labels| {
                op::batch_hard_triplet(g, f, labels, None, margin)
            });
            let mut checker = variant.checker(&case);
            let duplicates = case.ends_with("dup");
            let [loss_tolerance, grad_tolerance] = if duplicates { [2e-3, 2e-3] } else { [1e-5, 5e-6] };
            checker.close("loss", &[loss], &golden.f32(&key("loss")), loss_tolerance);
            checker.close("df", &df, &golden.f32(&key("df")), grad_tolerance);
        }
    }
}

#[test]
fn golden_sum_of_losses() {
    for path in files("loss_mgn_total*.safetensors") {
        let golden = GoldenFile::open(&path);
        exact().iter().for_each(|variant| sum_of_losses(&golden, variant));
    }
}

fn sum_of_losses(golden: &GoldenFile, variant: &Variant) {
    let labels = golden.i64("labels");
    let mut checker = variant.checker(&golden.name);
    let inputs = |prefix: &str| -> Vec<String> {
        golden.keys().iter().filter(|k| k.starts_with(prefix) && **k != "labels").map(|k| k.to_string()).collect()
    };
    let (features, logits) = (inputs("fg_"), inputs("l"));
    let mut total = 0.0f64;
    let mut add = |names: &[String], triplet: bool| {
        for name in names {
            let (x, weight) = (golden.f32(name), 1.0 / names.len() as f32);
            let (loss, grad) = run(&variant.device, &x, golden.shape(name), &labels, weight, |g, x, labels| {
                if triplet {
                    op::batch_hard_triplet(g, x, labels, None, 1.2)
                } else {
                    op::cross_entropy(g, x, labels, CrossEntropyOptions::default())
                }
            });
            total += f64::from(loss) / names.len() as f64;
            checker.close(name, &grad, &golden.f32(&format!("d_{name}")), 2e-6);
        }
    };
    add(&features, true);
    add(&logits, false);
    checker.close("total", &[total], &golden.f32("total"), 2e-6);
}
