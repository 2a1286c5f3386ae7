//! Runs a single op on seeded numbers, for gradient checks, comparisons of devices and benches.

use std::borrow::Cow;

use rand::RngExt;

use super::Session;
use crate::Result;
use crate::base::rng::{Purpose, stream};
use crate::engine::device::Device;
use crate::engine::graph::{Graph, Mode, StateId, Var};
use crate::engine::latent_state::{LatentStates, StateInit};
use crate::engine::op::OpCase;
use crate::engine::store::{Group, ParamId, Store};

/// A recorded case whose inputs, parameters, latent state and gradient of the output are filled with numbers from [-1, 1).
pub struct CaseRun {
    /// The session that runs the op.
    pub session: Session,
    /// The parameters and their gradients.
    pub store: Store,
    /// The differentiated inputs.
    pub inputs: Vec<Var>,
    /// The op's parameters, in [`CaseRun::store`].
    pub params: Vec<ParamId>,
    /// The op's output.
    pub output: Var,
    /// The numbers of each of `inputs`.
    pub input_values: Vec<Vec<f32>>,
    /// The gradient that backward starts from.
    pub cotangent: Vec<f32>,
    initial_states: Vec<Vec<f32>>,
    states: LatentStates,
}

/// Returns `len` numbers from [-1, 1), which depend on `seed` and `item` only.
fn uniform(seed: u64, len: usize, item: u64) -> Vec<f32> {
    let mut rng = stream(seed, Purpose::Test, 0, item);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

impl CaseRun {
    /// Records `case` on the CPU.
    pub fn new(case: &OpCase, mode: Mode) -> CaseRun {
        CaseRun::on(&Device::cpu(), case, mode, 7)
    }

    /// Records `case` on `device`, with numbers drawn from `seed`.
    ///
    /// # Panics
    /// If the case's shapes do not fit its op.
    pub fn on(device: &Device, case: &OpCase, mode: Mode, seed: u64) -> CaseRun {
        let uniform = |len: usize, item: u64| uniform(seed, len, item);
        let mut store = Store::new();
        let mut params = Vec::new();
        for (i, (shape, layout)) in case.params.iter().enumerate() {
            let id = store.add_param(format!("param{i}"), shape, *layout, Group::Head);
            let values = uniform(shape.iter().product::<usize>(), 100 + i as u64);
            store.value_mut(id).copy_from_slice(&values);
            params.push(id);
        }
        let mut graph = Graph::new(mode);
        let inputs: Vec<Var> = case.inputs.iter().map(|shape| graph.input_with_grad(*shape)).collect();
        let fixed: Vec<Var> = case.fixed.iter().map(|(shape, _)| graph.targets(*shape)).collect();
        let output = (case.build)(&mut graph, &mut store, &inputs, &params, &fixed).expect("the case records");
        graph.root(output);
        let cotangent = uniform(graph.shape(output).len(), 999);
        let slots = case.inputs[0].n / graph.state_steps;
        let initial_states =
            graph.states().iter().enumerate().map(|(i, s)| uniform(slots * s.slot.len(), 500 + i as u64)).collect();
        let mut session = Session::new(graph, &store, device).expect("a case is small");
        let input_values = (0..inputs.len()).map(|i| uniform(case.inputs[i].len(), i as u64)).collect();
        for (var, (_, numbers)) in fixed.into_iter().zip(&case.fixed) {
            session.set(var, numbers).expect("a device that works");
        }
        let states = LatentStates::new(StateInit::Zeros, 0);
        CaseRun { session, store, inputs, params, output, input_values, cotangent, initial_states, states }
    }

    /// Returns the same case; before each forward, all memory that must not be read is filled with NaN.
    pub fn poisoned(self) -> CaseRun {
        CaseRun { session: self.session.poisoned(), ..self }
    }

    /// Returns how many nodes the graph has.
    #[cfg(test)]
    pub(crate) fn nodes(&self) -> usize {
        self.session.graph().nodes.len()
    }

    /// Returns the latent states that forward starts from.
    #[cfg(test)]
    pub(crate) fn initial_states(&self) -> &[Vec<f32>] {
        &self.initial_states
    }

    /// Runs forward once on `input_values` from the initial latent state, and returns the output.
    ///
    /// # Errors
    /// The device fails.
    pub fn forward(&mut self) -> Result<Cow<'_, [f32]>> {
        for (var, values) in self.inputs.iter().zip(&self.input_values) {
            self.session.set(*var, values)?;
        }
        for (i, state) in self.initial_states.iter().enumerate() {
            self.states.set_current(StateId::from_index(i), state.clone());
        }
        self.session.forward(&mut self.store, &mut self.states)?;
        self.session.value(self.output)
    }

    /// Computes the gradients of all inputs and parameters, after [`CaseRun::forward`].
    ///
    /// # Errors
    /// The device fails.
    pub fn backward(&mut self) -> Result<()> {
        self.session.set_grad(self.output, &self.cotangent)?;
        self.session.backward(&mut self.store, &mut self.states)
    }

    /// Runs the op's forward alone, for benches: on the inputs that [`CaseRun::forward`] set, from the latent states of the last run.
    ///
    /// # Errors
    /// The device fails.
    pub fn forward_again(&mut self) -> Result<()> {
        self.session.forward(&mut self.store, &mut self.states)
    }

    /// Runs the op's backward alone, for benches: from whatever the gradient of the output holds.
    ///
    /// # Errors
    /// The device fails.
    pub fn backward_again(&mut self) -> Result<()> {
        self.session.backward(&mut self.store, &mut self.states)
    }

    /// Brings latent states and statistics to the host.
    ///
    /// # Errors
    /// The device was lost.
    pub fn fetch(&self) -> Result<()> {
        self.states.fetch()?;
        self.store.fetch()
    }

    /// Returns the latent states after [`CaseRun::forward`].
    pub fn states(&self) -> Vec<Vec<f32>> {
        (0..self.initial_states.len()).map(|i| self.states.current(StateId::from_index(i)).to_vec()).collect()
    }
}
