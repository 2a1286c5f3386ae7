//! Compares IBN-Nets with few channels, from their names to the gradients of their parameters, and generalised-mean pooling.

use std::collections::BTreeSet;
use std::path::Path;

use ptl::engine::graph::Mode;
use ptl::engine::op;
use ptl::engine::store::Store;
use ptl::nn::{Arch, ModelOptions, NetworkConfig, PtlOptions, TaskKind};

use crate::engine::{Run, grad, nhwc_shape, param};
use crate::support::{GoldenFile, Summary, Variant, exact, formula_tensor, state_dict_tensor};

fn golden() -> GoldenFile {
    GoldenFile::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/ibn.safetensors"))
}

#[test]
fn golden_ibn_networks() {
    let golden = golden();
    for (tag, variant) in
        ["resnet18-ibn-a", "resnet50-ibn-b"].iter().flat_map(|&tag| exact().into_iter().map(move |v| (tag, v)))
    {
        check_network(&golden, tag, &variant);
    }
}

fn check_network(golden: &GoldenFile, tag: &str, variant: &Variant) {
    let (meta, salt) = (golden.meta(tag), golden.salt());
    let key = |name: &str| format!("{tag}.{name}");
    let number = |value: &serde_json::Value| value.as_u64().expect("a size") as usize;
    let arch = Arch::new(tag, TaskKind::Classify).unwrap();
    let model = ModelOptions {
        width: number(&meta["base"]) as f32 / 64.0,
        last_stride: 2,
        pool: meta["pool"].as_str().expect("a pooling").parse().unwrap(),
        ..ModelOptions::default()
    };
    let &[_, classes] = golden.shape(&key("y")) else { panic!("[images, classes]") };
    let mut store = Store::new();
    let network = NetworkConfig { arch, model, ptl: PtlOptions::default(), classes }.build(&mut store, 0).unwrap();

    let names: BTreeSet<String> = store.params.iter().map(|param| format!("d_{}", param.name)).collect();
    let buffers = store.buffers.iter().map(|buffer| format!("after_{}", buffer.name));
    let names: BTreeSet<String> = names.into_iter().chain(buffers).collect();
    let prefixes = ["d_", "after_"].map(key);
    let stored = golden.keys().into_iter().filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    let stored: BTreeSet<String> = stored.map(|name| name[tag.len() + 1..].to_string()).collect();
    assert_eq!(names, stored, "{tag}: names of parameters and statistics");

    for param in store.params.clone().into_iter().filter(|param| param.name != "pool.p") {
        let torch = state_dict_tensor(salt, tag, &param.name, &param.shape);
        param.from_torch(&torch, &mut store.values[param.range.clone()]);
    }
    for buffer in &mut store.buffers {
        buffer.values = state_dict_tensor(salt, tag, &buffer.name, &[buffer.values.len()]).into();
    }
    let shape: Vec<usize> = meta["shape"].as_array().expect("sizes").iter().map(number).collect();
    let images = formula_tensor(salt, &format!("{tag}/images"), shape.iter().product(), 0.0, 1.0);
    let mut run = |mode| {
        Run::new(&variant.device, &mut store, mode, nhwc_shape(&shape), |g, store, x| {
            Ok(network.forward(g, store, x)?.logits[0])
        })
    };
    let (mut evaluation, mut training) = (run(Mode::Eval), run(Mode::Train));

    let mut checker = variant.checker(tag);
    checker.close("eval.y", &evaluation.forward(&mut store, &images), &golden.f32(&key("eval.y")), 1e-5);
    checker.close("y", &training.forward(&mut store, &images), &golden.f32(&key("y")), 3e-5);
    let dx = training.backward(&mut store, &golden.f32(&key("r")));
    let gradients = store.params.iter().map(|param| {
        (param.name.as_str(), format!("d_{}", param.name), param.to_torch(&store.grads[param.range.clone()]))
    });
    for (name, stored, gradient) in gradients.chain([("images", "dx".to_string(), dx)]) {
        let (got, want) = (Summary::of(&gradient, salt, tag, name, 0), golden.f64(&key(&stored)));
        if want[0] < 1e-9 {
            // Exactly zero by algebra (a bias before a normalisation by image): only its size can be checked.
            checker.that(got.l2 <= 1e-5, || format!("{stored}: {:e}, not 0", got.l2));
        } else {
            checker.close_absolute(&stored, &[got.l2, got.proj], &want, 1e-4 * want[0]);
        }
    }
    for buffer in &store.buffers {
        let name = format!("after_{}", buffer.name);
        checker.close(&name, &buffer.values, &golden.f32(&key(&name)), 1e-5);
    }
}

#[test]
fn golden_gem_pooling() {
    let golden = golden();
    for (variant, p) in exact()
        .iter()
        .flat_map(|v| golden.meta("exponents").as_array().unwrap().clone().into_iter().map(move |p| (v, p)))
    {
        let key = |name: &str| format!("gem{p}.{name}");
        let mut store = Store::new();
        let exponent = param(&mut store, "p", &[1], &[p.as_f64().unwrap() as f32]);
        let shape = nhwc_shape(golden.shape(&key("x")));
        let mut run = Run::new(&variant.device, &mut store, Mode::Train, shape, |g, store, x| {
            op::gem_pool(g, store, x, exponent)
        });
        let mut checker = variant.checker(&key(""));
        checker.close("y", &run.forward(&mut store, &golden.f32(&key("x"))), &golden.f32(&key("y")), 1e-6);
        checker.close("dx", &run.backward(&mut store, &golden.f32(&key("r"))), &golden.f32(&key("dx")), 2e-6);
        checker.close("dp", &grad(&store, exponent), &golden.f32(&key("dp")), 5e-6);
    }
}
