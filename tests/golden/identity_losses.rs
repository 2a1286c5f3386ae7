//! Compares cross-entropies with class weights, focal losses, margins between classes and centres.

use std::path::Path;

use ptl::engine::graph::{Graph, Mode};
use ptl::engine::latent_state::{LatentStates, StateInit};
use ptl::engine::op::{self, CrossEntropyOptions, Margin};
use ptl::engine::session::Session;
use ptl::engine::shape::Shape;
use ptl::engine::store::{Group, Layout, Store};

use crate::support::{GoldenFile, exact};

fn golden() -> GoldenFile {
    GoldenFile::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/losses.safetensors"))
}

/// Returns the cases of a family, such as `ce s0.1 g0 w`, each with its words.
fn cases<'a>(golden: &'a GoldenFile, family: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let names = golden.keys().into_iter().filter_map(|key| key.strip_suffix(".loss"));
    let cases: Vec<_> = names.map(|name| (name, name.split(' ').collect())).collect();
    let of_family = |(_, words): &(&str, Vec<&str>)| words[0] == family;
    let found: Vec<_> = cases.into_iter().filter(of_family).collect();
    assert!(found.len() >= 3, "{found:?}");
    found
}

fn labels(golden: &GoldenFile, name: &str) -> Vec<u32> {
    golden.i64(name).iter().map(|&label| label as u32).collect()
}

#[test]
fn golden_weighted_and_focal_cross_entropy() {
    let golden = golden();
    let &[n, classes] = golden.shape("ce.z") else { panic!("[n, classes]") };
    for (name, words) in cases(&golden, "ce") {
        let number = |word: usize| words[word][1..].parse().unwrap();
        for variant in exact() {
            let (mut graph, mut store) = (Graph::new(Mode::Train), Store::new());
            let (z, label) = (graph.input_with_grad(Shape::vectors(n, classes)), graph.labels(n));
            let weights = graph.targets(Shape::vectors(1, classes));
            let class_weights = (words[3] == "w").then_some(weights);
            let options = CrossEntropyOptions { label_smoothing: number(1), focal_gamma: number(2), class_weights };
            let loss = op::cross_entropy(&mut graph, z, label, options).unwrap();
            graph.root(loss);
            let mut session = Session::new(graph, &store, &variant.device).unwrap().poisoned();
            session.set(z, &golden.f32("ce.z")).unwrap();
            session.set(weights, &golden.f32("ce.weights")).unwrap();
            session.set(label, bytemuck::cast_slice(&labels(&golden, "ce.labels"))).unwrap();
            let mut states = LatentStates::new(StateInit::Zeros, 0);
            session.forward(&mut store, &mut states).unwrap();
            session.set_grad(loss, &[1.0]).unwrap();
            session.backward(&mut store, &mut states).unwrap();
            let mut checker = variant.checker(name);
            checker.close("loss", &session.value(loss).unwrap(), &golden.f32(&format!("{name}.loss")), 1e-6);
            checker.close("dz", &session.grad(z).unwrap(), &golden.f32(&format!("{name}.dz")), 1e-6);
        }
    }
}

#[test]
fn golden_margins() {
    let golden = golden();
    let (&[n, dim], &[classes, _]) = (golden.shape("margin.x"), golden.shape("margin.weight")) else {
        panic!("[n, dim] and [classes, dim]")
    };
    for (name, words) in cases(&golden, "margin") {
        let (size, scale): (f32, f32) = (words[2].parse().unwrap(), words[3].parse().unwrap());
        let margin = if words[1] == "arc" { Margin::Arc(size) } else { Margin::Circle(size) };
        for variant in exact() {
            let (mut graph, mut store) = (Graph::new(Mode::Train), Store::new());
            let weight = store.add_param("weight".into(), &[classes, dim], Layout::Conv, Group::Head);
            let torch = golden.f32("margin.weight");
            let range = store.param(weight).range.clone();
            store.params[0].from_torch(&torch, &mut store.values[range.clone()]);
            let (x, label) = (graph.input_with_grad(Shape::vectors(n, dim)), graph.labels(n));
            let logits = op::cosine_linear(&mut graph, &store, x, weight, scale).unwrap();
            graph.keep(logits);
            let moved = op::margin_logits(&mut graph, logits, label, margin, scale).unwrap();
            let loss = op::cross_entropy(&mut graph, moved, label, CrossEntropyOptions::default()).unwrap();
            graph.root(loss);
            let mut session = Session::new(graph, &store, &variant.device).unwrap().poisoned();
            session.set(x, &golden.f32("margin.x")).unwrap();
            session.set(label, bytemuck::cast_slice(&labels(&golden, "margin.labels"))).unwrap();
            let mut states = LatentStates::new(StateInit::Zeros, 0);
            session.forward(&mut store, &mut states).unwrap();
            session.set_grad(loss, &[1.0]).unwrap();
            session.backward(&mut store, &mut states).unwrap();
            store.fetch().unwrap();
            let want = |what: &str| golden.f32(&format!("{name}.{what}"));
            let dw = store.params[0].to_torch(&store.grads[range.clone()]);
            let mut checker = variant.checker(name);
            checker.close("logits", &session.value(logits).unwrap(), &want("logits"), 2e-6);
            checker.close("loss", &session.value(loss).unwrap(), &want("loss"), 2e-6);
            checker.close("dx", &session.grad(x).unwrap(), &want("dx"), 5e-6);
            checker.close("dw", &dw, &want("dw"), 5e-6);
        }
    }
}

#[test]
fn golden_centers() {
    let golden = golden();
    let (features, &[_, n, dim]) = (golden.f32("center.f"), golden.shape("center.f")) else {
        panic!("[steps, n, dim]")
    };
    let (labels, classes) = (labels(&golden, "center.labels"), golden.shape("center.centers")[0]);
    for variant in exact() {
        let (mut graph, mut store) = (Graph::new(Mode::Train), Store::new());
        let (x, label) = (graph.input_with_grad(Shape::vectors(n, dim)), graph.labels(n));
        let centers = graph.targets(Shape::vectors(classes, dim));
        let loss = op::center_loss(&mut graph, x, label, centers).unwrap();
        graph.root(loss);
        let mut session = Session::new(graph, &store, &variant.device).unwrap().poisoned();
        let mut states = LatentStates::new(StateInit::Zeros, 0);
        let (mut held, mut losses, mut gradients) = (vec![0.0; classes * dim], Vec::new(), Vec::new());
        for (f, of_f) in features.chunks_exact(n * dim).zip(labels.chunks_exact(n)) {
            session.set(x, f).unwrap();
            session.set(label, bytemuck::cast_slice(of_f)).unwrap();
            session.set(centers, &held).unwrap();
            session.forward(&mut store, &mut states).unwrap();
            session.set_grad(loss, &[1.0]).unwrap();
            session.backward(&mut store, &mut states).unwrap();
            losses.push(session.value(loss).unwrap()[0]);
            gradients.extend_from_slice(&session.grad(x).unwrap());
            op::move_centers(&mut held, f, of_f, dim, 0.5);
        }
        let mut checker = variant.checker("centres");
        checker.close("losses", &losses, &golden.f32("center.losses"), 1e-6);
        checker.close("df", &gradients, &golden.f32("center.df"), 1e-6);
        checker.close("centres", &held, &golden.f32("center.centers"), 1e-6);
    }
}
