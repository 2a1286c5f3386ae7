//! Single convolutions, and a large product of matrices.

use std::path::Path;

use ptl::engine::cpu::conv;
use ptl::engine::geometry::Conv2dGeometry;
use ptl::engine::precision::Precision;
use ptl::engine::store::{Group, Layout, Param};
use serde::Deserialize;

use crate::pool::Pool;
use crate::work::{Check, Run, Work, seconds};

/// One pass of several convolutions.
#[derive(Deserialize)]
pub struct ConvsSpec {
    pass: Pass,
    batch: usize,
    layers: Vec<LayerSpec>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Pass {
    Forward,
    Data,
    Weight,
}

#[derive(Deserialize)]
struct LayerSpec {
    name: String,
    size: [usize; 2],
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    /// How often the network has such a layer.
    count: usize,
}

/// A convolution with its operands, one of which the pass computes.
struct Layer {
    name: String,
    geometry: Conv2dGeometry,
    count: usize,
    x: Vec<f32>,
    weight: Vec<f32>,
    y: Vec<f32>,
    workspace: Vec<f32>,
}

impl Layer {
    fn new(pool: &Pool, batch: usize, index: usize, spec: LayerSpec, pass: Pass) -> Layer {
        let LayerSpec { name, size, inputs, outputs, kernel, stride, count } = spec;
        let [kernel, stride, padding] = [kernel, stride, kernel / 2].map(|v| [v, v]);
        let geometry =
            Conv2dGeometry::new(batch, size, inputs, outputs, kernel, stride, padding).expect("a kernel that fits");
        let workspace = match pass {
            Pass::Forward => conv::forward_workspace(&geometry),
            Pass::Data => conv::backward_data_workspace(&geometry),
            Pass::Weight => conv::backward_weight_workspace(&geometry),
        };
        let scale = (3.0 / geometry.k() as f32).sqrt();
        let mut layer = Layer {
            name,
            geometry,
            count,
            x: pool.take(3 * index, batch * size[0] * size[1] * inputs, 1.0),
            weight: pool.take(3 * index + 1, geometry.k() * outputs, scale),
            y: pool.take(3 * index + 2, geometry.pixels() * outputs, 1.0),
            workspace: vec![0.0; workspace],
        };
        let torch = std::mem::replace(&mut layer.weight, vec![0.0; geometry.k() * outputs]);
        layer.param().from_torch(&torch, &mut layer.weight);
        layer
    }

    /// Returns the weight's shape and order of numbers.
    fn param(&self) -> Param {
        let g = &self.geometry;
        Param {
            name: self.name.clone(),
            shape: vec![g.output()[3], g.input()[3], g.kernel()[0], g.kernel()[1]],
            layout: Layout::Conv,
            group: Group::Backbone,
            stage: 0,
            trainable: true,
            range: 0..self.weight.len(),
        }
    }

    fn run(&mut self, pass: Pass) {
        let Layer { geometry, x, weight, y, workspace, .. } = self;
        match pass {
            Pass::Forward => {
                conv::conv2d_forward(Precision::F32, geometry, x, weight, None, y, conv::Packed::empty(workspace))
            }
            Pass::Data => conv::conv2d_backward_data(Precision::F32, geometry, y, weight, x, false, workspace),
            Pass::Weight => conv::conv2d_backward_weight(Precision::F32, geometry, x, y, weight, false, workspace),
        }
    }
}

/// One pass of several convolutions, each timed by itself.
pub struct Convs {
    pass: Pass,
    layers: Vec<Layer>,
}

impl Convs {
    /// Fills the operands.
    pub fn new(folder: &Path, spec: ConvsSpec) -> Convs {
        let (pool, pass) = (Pool::open(folder), spec.pass);
        let layers = spec.layers.into_iter().enumerate();
        Convs { pass, layers: layers.map(|(i, layer)| Layer::new(&pool, spec.batch, i, layer, pass)).collect() }
    }
}

impl Work for Convs {
    fn check(&mut self) -> Check {
        self.layers.iter_mut().fold(Check::default(), |check, layer| {
            layer.run(self.pass);
            match self.pass {
                Pass::Forward => check.tensor(&layer.name, &layer.y),
                Pass::Data => check.tensor(&layer.name, &layer.x),
                Pass::Weight => check.tensor(&layer.name, &layer.param().to_torch(&layer.weight)),
            }
        })
    }

    fn run(&mut self) -> Run {
        let parts: Vec<f64> = self.layers.iter_mut().map(|layer| seconds(|| layer.run(self.pass))).collect();
        let seconds = self.layers.iter().zip(&parts).map(|(layer, part)| layer.count as f64 * part).sum();
        Run { seconds, parts, loss: None }
    }
}

/// The side of two square matrices.
#[derive(Deserialize)]
pub struct ProductSpec {
    side: usize,
}

/// The product of two square matrices, as a 1x1 convolution.
pub struct Product {
    geometry: Conv2dGeometry,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    workspace: Vec<f32>,
}

impl Product {
    /// Fills the matrices.
    pub fn new(folder: &Path, spec: &ProductSpec) -> Product {
        let (pool, side) = (Pool::open(folder), spec.side);
        let geometry = Conv2dGeometry::new(1, [side, 1], side, side, [1, 1], [1, 1], [0, 0]).expect("a side above 0");
        let [a, b] = [0, 1].map(|matrix| pool.take(matrix, side * side, 1.0));
        let workspace = vec![0.0; conv::forward_workspace(&geometry)];
        Product { geometry, a, b, c: vec![0.0; side * side], workspace }
    }

    fn compute(&mut self) {
        let Product { geometry, a, b, c, workspace } = self;
        conv::conv2d_forward(Precision::F32, geometry, a, b, None, c, conv::Packed::empty(workspace));
    }
}

impl Work for Product {
    fn check(&mut self) -> Check {
        self.compute();
        Check::default().tensor("product", &self.c)
    }

    fn run(&mut self) -> Run {
        Run::of(|| self.compute())
    }
}
