//! Checks how bytes become the input of a network: shifted crops, mirrors, erased rectangles, mixed pairs, and a batch that is not full.

use rand::RngExt;

use super::{Check, deviation};
use crate::Result;
use crate::base::rng::{Purpose, stream};
use crate::data::{Augment, AugmentParams, Batch, Mix};
use crate::engine::device::{Device, Gpu};
use crate::engine::graph::{Graph, Mode};
use crate::engine::precision::Precision;
use crate::engine::session::Session;
use crate::engine::shape::Shape;
use crate::engine::store::Store;

pub(super) fn run(device: &Device, gpu: &Gpu, seed: u64, visit: &mut dyn FnMut(&Check)) -> Result<()> {
    let mut rng = stream(seed, Purpose::Test, 2, 0);
    let size = [29, 17];
    let augment = Augment { pad: 5, random_erasing: 0.5, ..Augment::default() };
    let mut batch = Batch {
        pixels: (0..7 * size[0] * size[1] * 3).map(|_| rng.random()).collect(),
        size,
        params: (0..7).map(|_| AugmentParams::sample(&augment, size, &mut rng)).collect(),
        labels: vec![0; 7],
        indices: (0..7).collect(),
        mix: None,
    };
    let input = |device: &Device, batch: &Batch| -> Result<Vec<f32>> {
        let mut graph = Graph::new(Mode::Eval);
        let images = graph.input(Shape::new(9, size[0], size[1], 3));
        let mut session = Session::new(graph, &Store::new(), device)?;
        session.set_images(images, batch)?;
        Ok(session.value(images)?.to_vec())
    };
    // Both devices do the same operations in the same order; bf16 keeps 8 significant bits, and mixing rounds once more.
    let bf16 = gpu.precision() == Precision::Bf16;
    let cases = [
        ("images from bytes", None, 1.0 / 256.0),
        ("images, blended", Some(Mix::Blend { share: 0.3 }), 1.0 / 128.0),
        ("images, rectangles exchanged", Some(Mix::Paste { rectangle: [20, 3, 9, 14], share: 0.7 }), 1.0 / 256.0),
    ];
    for (name, mix, of_bf16) in cases {
        batch.mix = mix;
        let deviation = deviation(&input(device, &batch)?, &input(&Device::cpu(), &batch)?);
        let allowed = if bf16 { of_bf16 } else { 1e-6 };
        visit(&Check { name: name.into(), deviation, allowed });
    }
    Ok(())
}
