//! Networks as ONNX: from images to the outputs that [`Model::run`] computes, and a comparison of both.

mod compare;
#[cfg(all(test, feature = "onnx-runtime"))]
mod tests;

pub use compare::{Agreement, RUNTIME};

use super::extract::Output;
use super::model::Model;
use crate::base::memory;
use crate::data::{MEAN, STD};
use crate::engine::graph::{Graph, Mode, StateId};
use crate::engine::latent_state::EvalState;
use crate::engine::onnx::{Element, OnnxAttribute, OnnxModel};
use crate::engine::shape::Shape;
use crate::{Error, Result};

/// Name of the input.
pub const INPUT: &str = "images";

/// Returns the name of the output.
pub fn output_name(output: Output) -> &'static str {
    match output {
        Output::Feature => "features",
        Output::Probabilities => "probabilities",
    }
}

/// The smallest length that a feature is divided by, so that a feature of zeros stays.
const SMALLEST_LENGTH: f32 = 1e-30;

/// What the network in ONNX takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnnxInput {
    /// `[batch, 3, height, width]` f32, RGB, normalised: `(pixel / 255 - mean) / std`.
    Normalized,
    /// `[batch, height, width, 3]` u8, RGB, as images are stored.
    Pixels,
}

impl Model<'_> {
    /// Returns the network in ONNX, with its preprocessing from `input` and with all that follows it here: mirrored images if the options ask for
    /// them, features scaled to unit length, or probabilities. The output `[batch, dim]` is named by [`output_name`].
    ///
    /// # Errors
    /// [`Error::Setting`]: the options start every evaluation from other states; [`Error::NoLatentState`]; [`Error::OutOfMemory`]; a
    /// size that the network cannot take.
    pub fn onnx(&self, output: Output, input: OnnxInput) -> Result<OnnxModel> {
        let Model { network, store, states, options, .. } = self;
        let (height, width) = (options.transform.height, options.transform.width);
        let mut graph = Graph::new(Mode::Eval);
        let images = graph.input(Shape::new(1, height, width, 3));
        let outputs = network.forward(&mut graph, store, images)?;
        if options.eval_state == EvalState::Normal && !graph.states().is_empty() {
            return Err(Error::Setting {
                setting: "`ptl.eval_state`".into(),
                value: options.eval_state.to_string(),
                reason: "these states differ between the images of a batch, and ONNX has no batch of a known size: take zeros or mean".into(),
            });
        }
        store.fetch()?;
        // The weights as they are collected, as the message of the file, and as the runtime loads and packs them.
        let weights = (store.values.len() + store.buffer_numbers()) as u64 * 4;
        memory::ensure("the network in ONNX", weights.saturating_mul(4))?;
        let computed = match output {
            Output::Feature => outputs.feature,
            Output::Probabilities => outputs.logits[0],
        };
        let states = states.for_evaluation(options.eval_state, graph.states(), 1, options.seed)?;
        let slot = |state: usize| states.current(StateId::from_index(state));
        let slots: Option<Vec<&[f32]>> =
            (options.eval_state != EvalState::Zeros).then(|| (0..graph.states().len()).map(slot).collect());

        let mut model = OnnxModel::default();
        let mut x = preprocessing(&mut model, input, [height, width]);
        if options.eval.flip {
            let (starts, ends) = (model.integers("mirror/starts", &[-1]), model.integers("mirror/ends", &[i64::MIN]));
            let (axes, steps) = (model.integers("mirror/axes", &[3]), model.integers("mirror/steps", &[-1]));
            let mirrored = model.node("Slice", "mirror", &[&x, &starts, &ends, &axes, &steps], Vec::new());
            x = model.node("Concat", "mirror", &[&x, &mirrored], vec![OnnxAttribute::int("axis", 0)]);
        }
        let y = graph.onnx(&mut model, store, slots.as_deref(), &[(images, x)], computed)?;
        let y = model.node("Flatten", "output", &[&y], vec![OnnxAttribute::int("axis", 1)]);
        let dim = graph.shape(computed).c;
        let y = postprocessing(&mut model, output, y, dim, options.eval.flip);
        model.output(output_name(output), &y, &[dim]);
        Ok(model)
    }
}

/// Adds the input, and what turns it into `[batch, 3, height, width]`. Returns the name of that.
fn preprocessing(model: &mut OnnxModel, input: OnnxInput, [height, width]: [usize; 2]) -> String {
    if input == OnnxInput::Normalized {
        return model.input(INPUT, Element::Float, &[3, height, width]);
    }
    let name = "preprocessing";
    let x = model.input(INPUT, Element::Uint8, &[height, width, 3]);
    let x = model.node("Cast", name, &[&x], vec![OnnxAttribute::int("to", Element::Float as i64)]);
    let white = model.numbers("preprocessing/white", &[1], &[255.0]);
    let (mean, std) =
        (model.numbers("preprocessing/mean", &[3], &MEAN), model.numbers("preprocessing/std", &[3], &STD));
    let x = model.node("Div", name, &[&x, &white], Vec::new());
    let x = model.node("Sub", name, &[&x, &mean], Vec::new());
    let x = model.node("Div", name, &[&x, &std], Vec::new());
    model.node("Transpose", name, &[&x], vec![OnnxAttribute::ints("perm", &[0, 3, 1, 2])])
}

/// Adds what follows the network: from `y` `[batch, dim]`, with `flip` `[2·batch, dim]`, to the output. Returns its name.
fn postprocessing(model: &mut OnnxModel, output: Output, y: String, dim: usize, flip: bool) -> String {
    let name = "output";
    let mut y = y;
    if output == Output::Probabilities {
        y = model.node("Softmax", name, &[&y], vec![OnnxAttribute::int("axis", 1)]);
    }
    if flip {
        let halves = model.integers("output/halves", &[2, -1, dim as i64]);
        y = model.node("Reshape", name, &[&y, &halves], Vec::new());
        let attributes = vec![OnnxAttribute::ints("axes", &[0]), OnnxAttribute::int("keepdims", 0)];
        y = model.node("ReduceMean", name, &[&y], attributes);
    }
    if output == Output::Feature {
        let attributes = vec![OnnxAttribute::ints("axes", &[1]), OnnxAttribute::int("keepdims", 1)];
        let length = model.node("ReduceL2", name, &[&y], attributes);
        let smallest = model.numbers("output/smallest_length", &[1], &[SMALLEST_LENGTH]);
        let length = model.node("Max", name, &[&length, &smallest], Vec::new());
        y = model.node("Div", name, &[&y, &length], Vec::new());
    }
    y
}
