//! Bytes to network input: crops beside the image, mirrors, erased rectangles, a batch that is not full.

use rand::RngExt;

use super::{Check, deviation};
use crate::Result;
use crate::config::Augment;
use crate::data::{Batch, Drawn};
use crate::device::{Device, Gpu, Precision};
use crate::graph::{Graph, Mode};
use crate::rng::{Purpose, stream};
use crate::session::Session;
use crate::shape::Shape;
use crate::store::Store;

pub(super) fn run(device: &Device, gpu: &Gpu, seed: u64, visit: &mut dyn FnMut(&Check)) -> Result<()> {
    let mut rng = stream(seed, Purpose::Test, 2, 0);
    let size = [29, 17];
    let augment = Augment { pad: 5, random_erasing: 0.5, ..Augment::default() };
    let batch = Batch {
        pixels: (0..7 * size[0] * size[1] * 3).map(|_| rng.random()).collect(),
        size,
        drawn: (0..7).map(|_| Drawn::draw(&augment, size, &mut rng)).collect(),
        labels: vec![0; 7],
        indices: (0..7).collect(),
    };
    let input = |device: &Device| -> Result<Vec<f32>> {
        let mut graph = Graph::new(Mode::Eval);
        let images = graph.input(Shape::new(9, size[0], size[1], 3));
        let mut session = Session::new(graph, &Store::new(), device)?;
        session.set_images(images, &batch)?;
        Ok(session.value(images)?.to_vec())
    };
    // The same operations in the same order; bf16 keeps 8 significant bits.
    let allowed = if gpu.precision() == Precision::Bf16 { 1.0 / 256.0 } else { 1e-6 };
    let deviation = deviation(&input(device)?, &input(&Device::Cpu)?);
    visit(&Check { name: "images from bytes".into(), deviation, allowed });
    Ok(())
}
