//! Compares the triplet loss with a memory of embeddings over several steps.

use std::path::Path;

use ptl::engine::graph::{Graph, Mode};
use ptl::engine::latent_state::{LatentStates, StateInit};
use ptl::engine::op::{NO_LABEL, TripletBank, batch_hard_triplet};
use ptl::engine::session::Session;
use ptl::engine::shape::Shape;
use ptl::engine::store::Store;

use crate::support::{GoldenFile, exact};

#[test]
fn golden_triplet_with_a_memory() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/xbm.safetensors");
    let golden = GoldenFile::open(&path);
    let (features, &[_, batch, dim]) = (golden.f32("f"), golden.shape("f")) else { panic!("[steps, batch, dim]") };
    let labels: Vec<u32> = golden.i64("labels").iter().map(|&label| label as u32).collect();
    let places: usize = golden.metadata["places"].parse().unwrap();
    for (variant, margin) in exact().iter().flat_map(|v| golden.metadata["margins"].split(' ').map(move |m| (v, m))) {
        let mut checker = variant.checker(&format!("xbm m{margin}"));
        let (mut graph, mut store) = (Graph::new(Mode::Train), Store::new());
        let (x, label) = (graph.input_with_grad(Shape::vectors(batch, dim)), graph.labels(batch));
        let bank = TripletBank { features: graph.targets(Shape::vectors(places, dim)), labels: graph.labels(places) };
        let loss = batch_hard_triplet(&mut graph, x, label, Some(bank), margin.parse().unwrap()).unwrap();
        graph.root(loss);
        let mut session = Session::new(graph, &store, &variant.device).unwrap().poisoned();
        let mut states = LatentStates::new(StateInit::Zeros, 0);
        // An empty place may hold anything.
        let (mut held, mut held_labels) = (vec![f32::NAN; places * dim], vec![NO_LABEL; places]);
        let (mut losses, mut gradients) = (Vec::new(), Vec::new());
        for (t, (f, of_f)) in features.chunks_exact(batch * dim).zip(labels.chunks_exact(batch)).enumerate() {
            session.set(x, f).unwrap();
            session.set(label, bytemuck::cast_slice(of_f)).unwrap();
            session.set(bank.features, &held).unwrap();
            session.set(bank.labels, bytemuck::cast_slice(&held_labels)).unwrap();
            session.forward(&mut store, &mut states).unwrap();
            session.set_grad(loss, &[1.0]).unwrap();
            session.backward(&mut store, &mut states).unwrap();
            losses.push(session.value(loss).unwrap()[0]);
            gradients.extend_from_slice(&session.grad(x).unwrap());
            for (row, (f, &of_f)) in f.chunks_exact(dim).zip(of_f).enumerate() {
                let place = (t * batch + row) % places;
                held[place * dim..(place + 1) * dim].copy_from_slice(f);
                held_labels[place] = of_f;
            }
        }
        checker.close("loss", &losses, &golden.f32(&format!("m{margin}.loss")), 1e-6);
        checker.close("df", &gradients, &golden.f32(&format!("m{margin}.df")), 1e-6);
    }
}
