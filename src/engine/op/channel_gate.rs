//! Multiplies each channel of an image by the sigmoid of a number: `y = x·σ(z)`, `dx = dy·σ(z)`, and `dz` is `σ(z)·(1 - σ(z))` times the
//! sum of `dy·x` over the image.

use rayon::prelude::*;

use super::{OpCase, mismatch};
use crate::Result;
use crate::engine::cpu::for_each_isa;
use crate::engine::device::{Gpu, Grid, Ptr, kernels};
use crate::engine::graph::{Attachments, Backward, Forward, GpuBackward, GpuForward, Graph, Needs, OnnxNode, Op, Var};
use crate::engine::shape::Shape;

#[derive(Debug)]
struct ChannelGate {
    shape: Shape,
}

/// Records `x` `[n, h, w, c]` times the sigmoids of `z` `[n, 1, 1, c]`.
///
/// # Errors
/// `z` does not have one number for each channel of each image.
pub fn channel_gate(g: &mut Graph, x: Var, z: Var) -> Result<Var> {
    let (shape, gates) = (g.shape(x), g.shape(z));
    if gates != Shape::vectors(shape.n, shape.c) {
        let wanted = Shape::vectors(shape.n, shape.c);
        return Err(mismatch("channel_gate", format!("the gates are {gates}, but the input {shape} takes {wanted}")));
    }
    g.push(ChannelGate { shape }, &[x, z], shape, Attachments::default())
}

impl ChannelGate {
    /// Computes `y (+)= x·σ(z)`, row by row.
    fn multiply(&self, x: &[f32], z: &[f32], y: &mut [f32], accumulate: bool) {
        let Shape { h, w, c, .. } = self.shape;
        let (row, gates) = (w * c, sigmoids(z));
        y.par_chunks_mut(row).zip(x.par_chunks(row)).enumerate().for_each(|(line, (y, x))| {
            scale(x, &gates[line / h * c..][..c], y, accumulate);
        });
    }

    fn launch(&self, gpu: &Gpu, [x, z, y]: [Ptr; 3], accumulate: i32) -> Result<()> {
        let Shape { n, h, w, c } = self.shape;
        let [pixels, area, c] = [n * h * w, h * w, c].map(|size| size as i32);
        kernels::channel_gate(gpu, Grid::any(self.shape.len()), x, z, y, pixels, area, c, accumulate)
    }
}

fn sigmoids(z: &[f32]) -> Vec<f32> {
    z.iter().map(|&z| 1.0 / (1.0 + (-z).exp())).collect()
}

impl Op for ChannelGate {
    fn name(&self) -> &'static str {
        "channel_gate"
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> Result<String> {
        let (x, z) = (cx.inputs[0].clone(), cx.inputs[1].clone());
        let gates = cx.node("Sigmoid", &[&z], Vec::new());
        Ok(cx.node("Mul", &[&x, &gates], Vec::new()))
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![true, true], ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        self.multiply(cx.inputs[0], cx.inputs[1], cx.output, false);
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Shape { h, w, c, .. } = self.shape;
        let (x, z, dy) = (cx.inputs[0], cx.inputs[1], cx.grad_output);
        let [grad_x, grad_z] = &mut cx.grad_inputs[..] else { unreachable!("two inputs") };
        if let Some(grad) = grad_x {
            self.multiply(dy, z, grad.data, grad.accumulate);
        }
        if let Some(grad) = grad_z {
            let accumulate = grad.accumulate;
            let (image, gates) = (h * w * c, sigmoids(z));
            let images = x.par_chunks(image).zip(dy.par_chunks(image)).zip(gates.par_chunks(c));
            grad.data.par_chunks_mut(c).zip(images).for_each(|(dz, ((x, dy), gates))| {
                let mut sums = vec![0.0; c];
                x.chunks_exact(w * c).zip(dy.chunks_exact(w * c)).for_each(|(x, dy)| add_products(x, dy, &mut sums));
                for ((dz, sum), gate) in dz.iter_mut().zip(sums).zip(gates) {
                    let value = sum * gate * (1.0 - gate);
                    *dz = if accumulate { *dz + value } else { value };
                }
            });
        }
    }

    fn gpu_needs(&self, _: &Gpu, _: bool) -> Result<Needs> {
        Ok(self.needs())
    }

    fn gpu_forward(&self, cx: &GpuForward<'_>) -> Result<()> {
        self.launch(cx.gpu, [cx.inputs[0], cx.inputs[1], cx.output], 0)
    }

    fn gpu_backward(&self, cx: &GpuBackward<'_>) -> Result<()> {
        let Shape { n, h, w, c } = self.shape;
        let (gpu, x, z, dy) = (cx.gpu, cx.inputs[0], cx.inputs[1], cx.grad_output);
        if let Some(grad) = cx.grad_inputs[0] {
            self.launch(gpu, [dy, z, grad.data], grad.flag())?;
        }
        if let Some(grad) = cx.grad_inputs[1] {
            let grid = [c.div_ceil(32), n];
            kernels::channel_gate_backward(gpu, grid, x, z, dy, grad.data, (h * w) as i32, c as i32, grad.flag())?;
        }
        Ok(())
    }
}

for_each_isa! {
    /// Computes `y (+)= x·gates` for the pixels of a row.
    fn scale(x: &[f32], gates: &[f32], y: &mut [f32], accumulate: bool) {
        let channels = gates.len();
        for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
            let values = y.iter_mut().zip(x.iter().zip(gates));
            if accumulate {
                values.for_each(|(y, (x, gate))| *y += x * gate);
            } else {
                values.for_each(|(y, (x, gate))| *y = x * gate);
            }
        }
    }

    /// Adds to each sum the products `x·dy` of its channel over a row, which are added up first.
    fn add_products(x: &[f32], dy: &[f32], sums: &mut [f32]) {
        let channels = sums.len();
        let mut row = vec![0.0; channels];
        for (x, dy) in x.chunks_exact(channels).zip(dy.chunks_exact(channels)) {
            row.iter_mut().zip(x.iter().zip(dy)).for_each(|(sum, (x, dy))| *sum += x * dy);
        }
        sums.iter_mut().zip(row).for_each(|(sum, row)| *sum += row);
    }
}

pub(super) fn cases() -> Vec<OpCase> {
    let (map, vectors) = (Shape::new(2, 3, 2, 5), Shape::vectors(2, 5));
    vec![
        OpCase::new("channel_gate", &[map, vectors], &[], |g, _, x, _, _| channel_gate(g, x[0], x[1])),
        // Both second gradients are added.
        OpCase::new("channel_gate twice", &[map, vectors], &[], |g, _, x, _, _| {
            let y = channel_gate(g, x[0], x[1])?;
            let z = channel_gate(g, y, x[1])?;
            super::add(g, x[0], z)
        }),
    ]
}

pub(super) fn bench_cases() -> Vec<OpCase> {
    vec![OpCase::new("channel_gate", &[Shape::new(16, 64, 32, 64), Shape::vectors(16, 64)], &[], |g, _, x, _, _| {
        channel_gate(g, x[0], x[1])
    })]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Mode;

    #[test]
    fn gates_of_another_shape_are_refused() {
        let mut graph = Graph::new(Mode::Eval);
        let (x, z) = (graph.input(Shape::new(2, 4, 4, 8)), graph.input(Shape::vectors(1, 8)));
        let error = channel_gate(&mut graph, x, z).unwrap_err().to_string();
        assert!(error.contains("takes"), "{error}");
    }
}
