//! Compares every form of a latent state over five steps of a cell, and steps within a batch with their gradients.

use std::path::Path;

use ptl::engine::graph::Mode;
use ptl::engine::latent_state::{LatentStates, StateForm, StateInit};
use ptl::engine::op;
use ptl::engine::shape::Shape;
use ptl::engine::store::Store;

use crate::engine::{Run, grad, param};
use crate::support::{GoldenFile, exact};

#[test]
fn golden_forms_of_a_latent_state() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/states.safetensors");
    let golden = GoldenFile::open(&path);
    let number = |key: &str| golden.metadata[key].parse::<f32>().expect("a number");
    let labels: Vec<u32> = golden.i64("labels").iter().map(|&label| label as u32).collect();
    let (weight, images) = (golden.f32("gates.weight"), golden.f32("x"));
    let forms: Vec<StateForm> = golden.metadata["forms"].split(' ').map(|form| form.parse().unwrap()).collect();
    // The order of `permuted` is a matter of our random numbers; the tests of the states check it.
    assert_eq!(forms.len() + 1, StateForm::ALL.len());
    let (slots, side, inputs) = (4, 5, 3);
    for variant in exact() {
        for &form in &forms {
            let mut checker = variant.checker(form.name());
            let mut store = Store::new();
            let id = param(&mut store, "gates.weight", &[16, inputs, 3, 3], &weight);
            let shape = Shape::new(slots, side, side, inputs);
            let mut run = Run::new(&variant.device, &mut store, Mode::Train, shape, |g, store, x| {
                op::bconv_cell(g, store, "cell", x, id, [1, 1], [1, 1])
            });
            let states = LatentStates::new(StateInit::Zeros, 0);
            run.states = states.with_form(form, number("rate"), number("classes") as usize);
            for (t, (x, labels)) in images.chunks_exact(shape.len()).zip(labels.chunks_exact(slots)).enumerate() {
                run.states.set_labels(labels);
                let y = run.forward(&mut store, x);
                let name = format!("{form}.y{}", t + 1);
                checker.close(&name, &y, &golden.f32(&name), 1e-5);
            }
            let name = format!("{form}.kept");
            checker.close(&name, &run.state(0), &golden.f32(&name), 1e-5);
        }
    }
}

#[test]
fn golden_steps_of_a_latent_state_within_a_batch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/state_steps.safetensors");
    let golden = GoldenFile::open(&path);
    let steps: usize = golden.metadata["steps"].parse().expect("a number");
    let (weight, images, cotangents) = (golden.f32("gates.weight"), golden.f32("x"), golden.f32("r"));
    let (side, inputs) = (5, 3);
    for variant in exact() {
        let mut checker = variant.checker("steps within a batch");
        let mut store = Store::new();
        let id = param(&mut store, "gates.weight", &[16, inputs, 3, 3], &weight);
        let shape = Shape::new(4 * steps, side, side, inputs);
        let mut run = Run::new(&variant.device, &mut store, Mode::Train, shape, |g, store, x| {
            g.set_state_steps(steps);
            op::bconv_cell(g, store, "cell", x, id, [1, 1], [1, 1])
        });
        let batches = images.chunks_exact(shape.len()).zip(cotangents.chunks_exact(cotangents.len() / 2));
        for (t, (x, r)) in batches.enumerate() {
            let y = run.forward(&mut store, x);
            let state = run.state(0);
            let dx = run.backward(&mut store, r);
            let found = [("y", y), ("c", state), ("dx", dx), ("dW", grad(&store, id))];
            for (name, found) in found {
                let (name, tolerance) = (format!("{name}{}", t + 1), if name.starts_with('d') { 2e-5 } else { 1e-5 });
                checker.close(&name, &found, &golden.f32(&name), tolerance);
            }
        }
    }
}
