//! Runs a recorded graph on golden tensors: NCHW outside, NHWC inside.

use ptl::engine::device::Device;
use ptl::engine::graph::{Graph, Mode, StateId, Var};
use ptl::engine::latent_state::{LatentStates, StateInit};
use ptl::engine::session::Session;
use ptl::engine::shape::Shape;
use ptl::engine::store::{Group, Layout, ParamId, Store};

/// Converts `[n, c, h, w]` to `[n, h, w, c]`.
pub fn to_nhwc(x: &[f32], shape: Shape) -> Vec<f32> {
    let Shape { n, h, w, c } = shape;
    let mut out = vec![0.0; x.len()];
    for i in 0..n {
        for k in 0..c {
            for p in 0..h * w {
                out[(i * h * w + p) * c + k] = x[(i * c + k) * h * w + p];
            }
        }
    }
    out
}

/// Converts `[n, h, w, c]` to `[n, c, h, w]`.
pub fn to_nchw(x: &[f32], shape: Shape) -> Vec<f32> {
    let Shape { n, h, w, c } = shape;
    // The same permutation with the roles of channels and pixels exchanged.
    to_nhwc(x, Shape { n, h: c, w: 1, c: h * w })
}

/// Returns the shape of a torch tensor `[n, c, h, w]` or `[n, c]`.
pub fn nhwc_shape(torch: &[usize]) -> Shape {
    match *torch {
        [n, c] => Shape::vectors(n, c),
        [n, c, h, w] => Shape::new(n, h, w, c),
        ref other => panic!("a tensor of shape {other:?}"),
    }
}

/// Registers a parameter and fills it from torch's order.
pub fn param(store: &mut Store, name: &str, shape: &[usize], torch: &[f32]) -> ParamId {
    let layout = if shape.len() >= 2 { Layout::Conv } else { Layout::Plain };
    let id = store.add_param(name.into(), shape, layout, Group::Head);
    let described = store.param(id).clone();
    described.from_torch(torch, store.value_mut(id));
    id
}

/// Returns the gradient of a parameter in torch's order.
pub fn grad(store: &Store, id: ParamId) -> Vec<f32> {
    store.param(id).to_torch(store.grad(id))
}

/// One run of a single-input graph.
pub struct Run {
    pub session: Session,
    pub x: Var,
    pub y: Var,
    pub states: LatentStates,
}

impl Run {
    /// Records `build` on an input of `shape`. Memory is filled with NaN before it is written, so that a value that is read too early shows.
    pub fn new(
        device: &Device,
        store: &mut Store,
        mode: Mode,
        shape: Shape,
        build: impl FnOnce(&mut Graph, &mut Store, Var) -> ptl::Result<Var>,
    ) -> Run {
        let mut graph = Graph::new(mode);
        let x = graph.input_with_grad(shape);
        let y = build(&mut graph, store, x).expect("the graph records");
        graph.root(y);
        let session = Session::new(graph, store, device).unwrap().poisoned();
        Run { session, x, y, states: LatentStates::new(StateInit::Zeros, 0) }
    }

    pub fn set_state(&mut self, index: usize, torch: &[f32]) {
        let decl = &self.session.graph().states()[index];
        let batch = torch.len() / decl.slot.len();
        let state = to_nhwc(torch, Shape { n: batch, ..decl.slot });
        self.states.set_current(StateId::from_index(index), state);
    }

    /// Returns the state after the last step, NCHW.
    pub fn state(&self, index: usize) -> Vec<f32> {
        let slot = self.session.graph().states()[index].slot;
        let state = self.states.current(StateId::from_index(index));
        to_nchw(state, Shape { n: state.len() / slot.len(), ..slot })
    }

    /// Runs the forward pass on `x`, NCHW. Returns the output, NCHW.
    pub fn forward(&mut self, store: &mut Store, x: &[f32]) -> Vec<f32> {
        let shape = self.session.graph().shape(self.x);
        self.session.set(self.x, &to_nhwc(x, shape)).unwrap();
        self.session.forward(store, &mut self.states).unwrap();
        to_nchw(&self.session.value(self.y).unwrap(), self.session.graph().shape(self.y))
    }

    /// Returns the gradient of the input for the loss `Σ y·r`, NCHW. The gradients of parameters go to the store.
    pub fn backward(&mut self, store: &mut Store, r: &[f32]) -> Vec<f32> {
        let shape = self.session.graph().shape(self.y);
        self.session.set_grad(self.y, &to_nhwc(r, shape)).unwrap();
        store.grads.fill(f32::NAN);
        self.session.backward(store, &mut self.states).unwrap();
        to_nchw(&self.session.grad(self.x).unwrap(), self.session.graph().shape(self.x))
    }
}
