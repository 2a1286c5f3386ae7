//! A BConv-Cell by itself.

use std::path::Path;

use ptl::engine::device::Device;
use ptl::engine::graph::{Graph, Mode, StateId, Var};
use ptl::engine::latent_state::{LatentStates, StateInit};
use ptl::engine::op;
use ptl::engine::session::Session;
use ptl::engine::shape::Shape;
use ptl::engine::store::{Group, Layout, ParamId, Store};
use serde::Deserialize;

use crate::pool::Pool;
use crate::work::{Check, Run, Work, seconds};

/// The sizes of a cell: 3x3 with padding 1.
#[derive(Deserialize)]
pub struct CellSpec {
    batch: usize,
    size: [usize; 2],
    inputs: usize,
    channels: usize,
    stride: usize,
    /// Whether backward is part of the work.
    train: bool,
    /// Whether backward computes the gradient of the input; the first cell's input are images.
    input_gradient: bool,
}

/// A cell with its input, its latent state, and the gradient of its output.
pub struct Cell {
    session: Session,
    store: Store,
    states: LatentStates,
    x: Var,
    weight: ParamId,
    output: Var,
    /// `[n, h, w, channels]`.
    initial_state: Vec<f32>,
    /// `[n, h, w, channels]`; empty if there is no backward.
    cotangent: Vec<f32>,
    input_gradient: bool,
}

impl Cell {
    /// Records the cell.
    pub fn new(folder: &Path, spec: &CellSpec) -> Cell {
        let (pool, mut store) = (Pool::open(folder), Store::new());
        let shape = [4 * spec.channels, spec.inputs, 3, 3];
        let weight = store.add_param("gates.weight".into(), &shape, Layout::Conv, Group::Ptl);
        let len = shape.iter().product();
        let values = pool.take(1, len, (6.0 / (9 * spec.inputs) as f32).sqrt());
        let param = store.param(weight).clone();
        param.from_torch(&values, store.value_mut(weight));

        let mut graph = Graph::new(if spec.train { Mode::Train } else { Mode::Eval });
        let shape = Shape::new(spec.batch, spec.size[0], spec.size[1], spec.inputs);
        let x = if spec.input_gradient { graph.input_with_grad(shape) } else { graph.input(shape) };
        let output = op::bconv_cell(&mut graph, &store, "cell", x, weight, [spec.stride; 2], [1, 1]);
        let output = output.expect("sizes that fit");
        if spec.train {
            graph.root(output)
        } else {
            graph.keep(output)
        }
        let outputs = graph.shape(output).len();
        let mut session = Session::new(graph, &store, &Device::cpu()).expect("memory for a cell");
        session.set(x, &pool.take(0, shape.len(), 1.0)).expect("the CPU");
        Cell {
            session,
            store,
            states: LatentStates::new(StateInit::Zeros, 0),
            x,
            weight,
            output,
            initial_state: pool.take(2, outputs, 1.0),
            cotangent: if spec.train { pool.take(3, outputs, 1.0) } else { Vec::new() },
            input_gradient: spec.input_gradient,
        }
    }

    fn forward(&mut self) {
        self.session.forward(&mut self.store, &mut self.states).expect("the CPU");
    }

    fn backward(&mut self) {
        self.session.backward(&mut self.store, &mut self.states).expect("the CPU");
    }

    /// Sets the gradient that backward starts from.
    fn set_cotangent(&mut self) {
        self.session.set_grad(self.output, &self.cotangent).expect("the CPU");
    }
}

impl Work for Cell {
    fn check(&mut self) -> Check {
        let state = StateId::from_index(0);
        self.states.set_current(state, self.initial_state.clone());
        self.forward();
        let check = Check::default()
            .tensor("output", &self.session.value(self.output).expect("the CPU"))
            .tensor("state", self.states.current(state));
        if self.cotangent.is_empty() {
            return check;
        }
        self.set_cotangent();
        self.backward();
        let check = check
            .tensor("gradient of the weight", &self.store.param(self.weight).to_torch(self.store.grad(self.weight)));
        if !self.input_gradient {
            return check;
        }
        check.tensor("gradient of the input", &self.session.grad(self.x).expect("the CPU"))
    }

    fn run(&mut self) -> Run {
        let mut time = seconds(|| self.forward());
        if !self.cotangent.is_empty() {
            // A network's backward writes this gradient itself, and PyTorch takes it without a copy.
            self.set_cotangent();
            time += seconds(|| self.backward());
        }
        Run { seconds: time, ..Run::default() }
    }
}
