//! Graphs: to record an op adds a node, in the order of execution. Nothing is computed here.

mod op;

pub use op::{
    Backward, Forward, GpuBackward, GpuForward, GpuGrad, Grad, Needs, OnnxNode, Op, Recompute, TurnedGradient,
};

use crate::engine::collective::Collective;
use crate::engine::device::Gpu;
use crate::engine::onnx::OnnxModel;
use crate::engine::shape::Shape;
use crate::engine::store::{BufferId, CounterId, ParamId, Store};
use crate::{Error, Result};

/// An activation: an input of the graph or the output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Var(pub(crate) usize);

/// Index of a latent state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateId(pub(crate) usize);

impl StateId {
    /// Returns the state that was declared as number `index` ([`Graph::states`]).
    pub fn from_index(index: usize) -> StateId {
        StateId(index)
    }
}

/// Whether a graph is differentiated, and which statistics it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics, running statistics updated, backward possible.
    Train,
    /// Running statistics, backward possible (for tests and frozen parts).
    EvalGrad,
    /// Running statistics, forward only: memory is reused as early as possible.
    Eval,
}

#[derive(Debug)]
pub(crate) struct Value {
    pub shape: Shape,
    pub requires_grad: bool,
    /// Has 4 bytes an element in every precision: labels and losses.
    pub exact: bool,
    /// Keeps its memory, so that it can be read after the run.
    pub keep: bool,
    /// Its gradient is set by the caller: a loss, or a tensor under test.
    pub root: bool,
}

impl Value {
    /// Returns the bytes of an element on `gpu`.
    pub(crate) fn element_bytes(&self, gpu: &Gpu) -> usize {
        if self.exact { 4 } else { gpu.activation_bytes() }
    }
}

#[derive(Debug)]
pub(crate) struct Node {
    pub op: Box<dyn Op>,
    pub inputs: Vec<Var>,
    pub output: Var,
    pub attachments: Attachments,
}

/// What an op uses besides its inputs.
#[derive(Clone, Debug, Default)]
pub struct Attachments {
    /// Parameters, in the order that the op expects.
    pub params: Vec<ParamId>,
    /// Running statistics, in the order that the op expects.
    pub buffers: Vec<BufferId>,
    /// Counter of training batches, for a batch normalisation.
    pub counter: Option<CounterId>,
    /// Latent state, for a BConv-Cell.
    pub state: Option<StateId>,
}

/// One latent state of the network: a slot of `[h, w, c]` for each image of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDecl {
    /// Name in checkpoints and messages.
    pub name: String,
    /// Shape of one slot, `[1, h, w, c]`.
    pub slot: Shape,
}

/// The recorded computation.
#[derive(Debug)]
pub struct Graph {
    pub(crate) mode: Mode,
    pub(crate) values: Vec<Value>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) states: Vec<StateDecl>,
    pub(crate) freeze_backbone_bn: bool,
    /// Into how many steps of the latent states a batch is divided.
    pub(crate) state_steps: usize,
    /// The processes over whose batches batch normalisations compute their statistics.
    pub(crate) synchronised: Collective,
}

impl Graph {
    /// Returns an empty graph.
    pub fn new(mode: Mode) -> Graph {
        let (values, nodes, states) = (Vec::new(), Vec::new(), Vec::new());
        let synchronised = Collective::single();
        Graph { mode, values, nodes, states, freeze_backbone_bn: false, state_steps: 1, synchronised }
    }

    /// Sets whether the batch normalisations of the backbone use their running statistics and leave them unchanged, in training too
    /// (`train.freeze_bn`). Holds for what is recorded afterwards.
    pub fn freeze_backbone_bn(mut self, freeze: bool) -> Graph {
        self.freeze_backbone_bn = freeze;
        self
    }

    /// Lets batch normalisations compute their statistics over the batches of all `ranks` (`train.sync_bn`). Holds for those that are recorded
    /// afterwards.
    pub fn synchronise_bn(&mut self, ranks: &Collective) {
        self.synchronised = ranks.clone();
    }

    /// Divides a batch into `steps` parts of as many images, which follow one another in the latent states: a part starts from the states of the
    /// part before it, and gradients flow back through them. Holds for cells that are recorded afterwards. The states have a slot for each image
    /// of a part.
    pub fn set_state_steps(&mut self, steps: usize) {
        self.state_steps = steps;
    }

    /// Returns whether the graph is differentiated, and which statistics it uses.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Records an input, which the caller sets for each run.
    pub fn input(&mut self, shape: Shape) -> Var {
        self.value(Value { shape, requires_grad: false, exact: false, keep: true, root: false })
    }

    /// Records an input whose gradient is computed too.
    pub fn input_with_grad(&mut self, shape: Shape) -> Var {
        self.value(Value { shape, requires_grad: true, exact: false, keep: true, root: false })
    }

    /// Records an input with one class label for each of `n` images, as the bits of u32: `[n, 1, 1, 1]`.
    pub fn labels(&mut self, n: usize) -> Var {
        self.targets(Shape::vectors(n, 1))
    }

    /// Records the targets of a loss: an input with 4 bytes an element in every precision, without gradient.
    pub fn targets(&mut self, shape: Shape) -> Var {
        self.value(Value { shape, requires_grad: false, exact: true, keep: true, root: false })
    }

    /// Declares a latent state with slots of shape `[1, h, w, c]`.
    pub fn state(&mut self, name: String, slot: Shape) -> StateId {
        self.states.push(StateDecl { name, slot });
        StateId(self.states.len() - 1)
    }

    /// Records an op with an output of `shape`.
    ///
    /// # Errors
    /// An input is no value of this graph. An input is given twice, so that its two gradients would be written to one place.
    pub fn push(
        &mut self,
        op: impl Op + 'static,
        inputs: &[Var],
        shape: Shape,
        attachments: Attachments,
    ) -> Result<Var> {
        for (i, var) in inputs.iter().enumerate() {
            let wrong = |how: &str| Err(Error::Shape { op: op.name(), detail: format!("input {i} is {how}") });
            if var.0 >= self.values.len() {
                return wrong("no value of this graph");
            }
            if inputs[..i].contains(var) {
                return wrong("the same tensor as an earlier input");
            }
        }
        let exact = op.exact();
        let output = self.value(Value { shape, requires_grad: false, exact, keep: false, root: false });
        self.nodes.push(Node { op: Box::new(op), inputs: inputs.to_vec(), output, attachments });
        Ok(output)
    }

    /// Keeps `var`, so that it can be read after the run.
    pub fn keep(&mut self, var: Var) {
        self.values[var.0].keep = true;
    }

    /// Makes `var` a root of backward, whose gradient `Session::set_grad` sets. Also keeps it.
    pub fn root(&mut self, var: Var) {
        self.values[var.0].root = true;
        self.values[var.0].keep = true;
    }

    /// Returns the shape of `var`.
    pub fn shape(&self, var: Var) -> Shape {
        self.values[var.0].shape
    }

    /// Returns whether `var` is an input.
    pub(crate) fn is_input(&self, var: Var) -> bool {
        self.nodes.iter().all(|node| node.output != var)
    }

    /// Returns whether `var` is an input that [`Graph::targets`] recorded.
    pub(crate) fn is_target(&self, var: Var) -> bool {
        self.values[var.0].exact && self.is_input(var)
    }

    /// Returns the latent states in the order of their declaration.
    pub fn states(&self) -> &[StateDecl] {
        &self.states
    }

    /// Returns the floating-point operations of one forward.
    pub fn flops(&self) -> u64 {
        self.nodes.iter().map(|node| node.op.flops()).sum()
    }

    /// Returns the graph with pairs of ops replaced by one op, where there is one ([`Op::fused_with`]). Only a graph without backward is
    /// changed, for there are no fused gradients.
    pub(crate) fn fused(mut self) -> Graph {
        if self.mode != Mode::Eval {
            return self;
        }
        let mut uses = vec![0; self.values.len()];
        let mut producer = vec![None; self.values.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|var| uses[var.0] += 1);
            producer[node.output.0] = Some(i);
        }
        let mut gone = vec![false; self.nodes.len()];
        for i in 0..self.nodes.len() {
            let read_once = |var: &&Var| uses[var.0] == 1 && !self.values[var.0].keep;
            let Some(&between) = self.nodes[i].inputs.first().filter(read_once) else { continue };
            let Some(first) = producer[between.0] else { continue };
            let (one, two) = (&self.nodes[first], &self.nodes[i]);
            let inputs: Vec<Var> = one.inputs.iter().chain(&two.inputs[1..]).copied().collect();
            // An op must not get one value twice: the convolution's input may be the residual.
            let apart = two.inputs[1..].iter().all(|var| !one.inputs.contains(var));
            let Some(op) = one.op.fused_with(&*two.op).filter(|_| apart) else { continue };
            let (one, two) = (one.attachments.clone(), two.attachments.clone());
            assert!(
                one.counter.is_none() && one.state.is_none(),
                "a fused op has only the second op's counter and state"
            );
            let attachments = Attachments {
                params: [one.params, two.params].concat(),
                buffers: [one.buffers, two.buffers].concat(),
                counter: two.counter,
                state: two.state,
            };
            self.nodes[i] = Node { op, inputs, output: self.nodes[i].output, attachments };
            gone[first] = true;
            // Nobody writes it any more, so it takes no memory.
            self.values[between.0].shape = Shape::vectors(0, 0);
        }
        let mut gone = gone.into_iter();
        self.nodes.retain(|_| !gone.next().expect("a flag for each node"));
        self
    }

    /// Adds to `model` what computes `output` from `inputs`, each with the name of its tensor there, `[n, c, h, w]`. Returns the name of the
    /// output. `states` are what every slot of each latent state holds, `[h, w, c]`, in the order of [`Graph::states`]; without them,
    /// states are zeros. The weights of `store` must be on the host ([`Store::fetch`]).
    ///
    /// # Errors
    /// [`Error::Onnx`]: the graph is not of [`Mode::Eval`], divides batches into steps, or has other states or inputs; an op has no form in ONNX.
    pub fn onnx(
        &self,
        model: &mut OnnxModel,
        store: &Store,
        states: Option<&[&[f32]]>,
        inputs: &[(Var, String)],
        output: Var,
    ) -> Result<String> {
        let refuse = |reason: String| Err(Error::Onnx { reason });
        if self.mode != Mode::Eval || self.state_steps != 1 {
            return refuse(
                "a network is exported as it evaluates: record it in Mode::Eval, with one step of the states".into(),
            );
        }
        if let Some(states) = states.filter(|states| states.len() != self.states.len()) {
            return refuse(format!("the graph has {} latent states, {} are given", self.states.len(), states.len()));
        }
        // A classifier beside a feature, for example, is left out.
        let mut needed = vec![false; self.values.len()];
        needed[output.0] = true;
        for node in self.nodes.iter().rev() {
            if needed[node.output.0] {
                node.inputs.iter().for_each(|var| needed[var.0] = true);
            }
        }
        let mut names: Vec<Option<String>> = vec![None; self.values.len()];
        inputs.iter().for_each(|(input, tensor)| names[input.0] = Some(tensor.clone()));
        for node in self.nodes.iter().filter(|node| needed[node.output.0]) {
            let Attachments { params, state, .. } = &node.attachments;
            let declared = state.map(|id| (&self.states[id.0], states.map(|states| states[id.0])));
            let layer = params.first().and_then(|&id| Some(store.param(id).name.rsplit_once('.')?.0));
            let inputs = node.inputs.iter().map(|var| names[var.0].clone()).collect::<Option<Vec<String>>>();
            let mut cx = OnnxNode {
                model,
                name: layer.unwrap_or(node.op.name()).into(),
                inputs: inputs.ok_or_else(|| Error::Onnx {
                    reason: format!("{} reads an input of the graph that was not named", node.op.name()),
                })?,
                store,
                attachments: &node.attachments,
                state: declared.and_then(|(decl, values)| Some((decl, values?))),
            };
            names[node.output.0] = Some(node.op.onnx(&mut cx)?);
        }
        names[output.0].take().ok_or_else(|| Error::Onnx { reason: "the output is not computed".into() })
    }

    fn value(&mut self, value: Value) -> Var {
        self.values.push(value);
        Var(self.values.len() - 1)
    }
}
