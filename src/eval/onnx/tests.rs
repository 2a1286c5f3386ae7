//! Every network and every op in ONNX against its own outputs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use rand::{Rng, RngExt};

use super::{Agreement, OnnxInput};
use crate::base::progress::Reporter;
use crate::base::rng::{Purpose, stream};
use crate::base::stop::StopFlag;
use crate::data::{ImageSource, Interpolation, PackedImages, Sample, Transform};
use crate::engine::collective::Collective;
use crate::engine::device::Device;
use crate::engine::graph::{Graph, Mode, StateId};
use crate::engine::latent_state::{EvalState, LatentStates, StateInit};
use crate::engine::onnx::{Element, OnnxModel};
use crate::engine::op;
use crate::engine::session::CaseRun;
use crate::engine::shape::Shape;
use crate::engine::store::Store;
use crate::eval::{EvalOptions, Inference, Model, Output};
use crate::io::onnx::{WeightPlace, write};
use crate::nn::{Arch, Family, ModelOptions, NetworkConfig, Pool, PtlOptions, StemKind, TaskKind};
use crate::{Error, Result};

const SIZE: [usize; 2] = [96, 32];
const CLASSES: usize = 5;

/// What is exported: a network, and how it is evaluated.
struct Case<'a> {
    arch: &'a str,
    task: TaskKind,
    pool: Pool,
    eval_state: EvalState,
    flip: bool,
    input: OnnxInput,
    place: WeightPlace,
}

impl Case<'_> {
    /// Writes the network with random weights, statistics and states, and compares it on 11 images. `change` may change the weights between both.
    fn compare(&self, change: impl FnOnce(&mut Store)) -> Result<Agreement> {
        let arch = Arch::new(self.arch, self.task)?;
        let stem = if self.arch.starts_with("cifar") { StemKind::Cifar } else { StemKind::Imagenet };
        let model =
            ModelOptions { arch: self.arch.into(), width: 0.0625, stem, pool: self.pool, ..ModelOptions::default() };
        let mut store = Store::new();
        let ptl = PtlOptions { stages: (1..=arch.backbone.stages()).collect(), ..PtlOptions::default() };
        let network = NetworkConfig { arch, model, ptl, classes: CLASSES }.build(&mut store, 3)?;
        let mut rng = stream(5, Purpose::Test, 0, 0);
        // Initial values that hide mistakes: ones of normalisations, and zeros, by which cells are without effect at first.
        let vectors = store.params.iter().filter(|p| p.shape.len() == 1).map(|p| p.range.clone());
        let vectors: Vec<usize> = vectors.flatten().collect();
        let zeros = (0..store.values.len()).filter(|&i| store.values[i] == 0.0);
        let hidden: BTreeSet<usize> = zeros.chain(vectors).collect();
        hidden.into_iter().for_each(|i| store.values[i] += rng.random_range(-0.3..0.3));
        for buffer in &mut store.buffers {
            let is_variance = buffer.name.ends_with("var");
            let number = |_: usize| if is_variance { rng.random_range(0.5..1.5) } else { rng.random_range(-0.3..0.3) };
            buffer.values = (0..buffer.values.len()).map(number).collect::<Vec<f32>>().into();
        }
        let mut states = LatentStates::new(StateInit::Zeros, 0);
        let mut graph = Graph::new(Mode::Eval);
        let images = graph.input(Shape::new(1, SIZE[0], SIZE[1], 3));
        network.forward(&mut graph, &store, images)?;
        for (i, decl) in graph.states().iter().enumerate() {
            // Two slots, so that their mean is neither.
            let slots = (0..2 * decl.slot.len()).map(|_| rng.random_range(-0.8..0.8)).collect();
            states.set_current(StateId::from_index(i), slots);
        }
        let mut pixels = vec![0; 11 * SIZE[0] * SIZE[1] * 3];
        rng.fill_bytes(&mut pixels);
        let packed =
            PackedImages { file: PathBuf::from("noise"), height: SIZE[0], width: SIZE[1], channels: 3, pixels };
        let packed = Arc::new(packed);
        let sample = |index| Sample { image: ImageSource::Packed { images: packed.clone(), index }, label: 0 };
        let eval = EvalOptions { flip: self.flip, batch: 11, ..EvalOptions::default() };
        let transform = Transform::squeeze(SIZE, Interpolation::Bilinear);
        let options = Inference { eval, transform, workers: 1, eval_state: self.eval_state, seed: 0 };
        let (device, reporter) = (Device::Cpu(Default::default()), Reporter::silent());
        let output = if arch.family == Family::Classifier { Output::Probabilities } else { Output::Feature };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.onnx");
        let mut model = Model {
            network: &*network,
            store: &mut store,
            states: &states,
            options,
            device: &device,
            ranks: Collective::single(),
            reporter: &reporter,
            stop: StopFlag::default(),
        };
        write(model.onnx(output, self.input)?, &path, self.place)?;
        change(model.store);
        model.compare_onnx(&path, (0..11).map(sample).collect(), output, self.input)
    }
}

fn case(arch: &str) -> Case<'_> {
    Case {
        arch,
        task: TaskKind::Reid,
        pool: Pool::Avg,
        eval_state: EvalState::Mean,
        flip: true,
        input: OnnxInput::Normalized,
        place: WeightPlace::Auto,
    }
}

/// Panics unless the runtime computes what the network does.
fn agrees(case: &Case<'_>) {
    let agreement = case.compare(|_| {}).unwrap();
    let what = format!("{} {:?} {} {:?}: {agreement:?}", case.arch, case.task, case.eval_state, case.input);
    assert!(agreement.images == 11 && agreement.largest_difference < 3e-5, "{what}");
    assert!((agreement.smallest_cosine - 1.0).abs() < 1e-9, "{what}");
}

#[test]
fn every_network_is_the_same_in_a_runtime() {
    for arch in Arch::NAMES {
        agrees(&case(arch));
        if !arch.starts_with("mgn") {
            agrees(&Case { task: TaskKind::Classify, ..case(arch) });
        }
    }
}

#[test]
fn every_pooling_is_the_same_in_a_runtime() {
    for (&pool, task) in Pool::ALL.iter().flat_map(|pool| [(pool, TaskKind::Reid), (pool, TaskKind::Classify)]) {
        agrees(&Case { pool, task, ..case("resnet18-ptl") });
    }
}

#[test]
fn states_mirroring_input_and_place_of_weights_are_followed() {
    for arch in ["resnet18-ptl", "mgn-ptl"] {
        agrees(&Case { eval_state: EvalState::Zeros, ..case(arch) });
        agrees(&Case { flip: false, ..case(arch) });
        agrees(&Case { input: OnnxInput::Pixels, ..case(arch) });
        agrees(&Case { place: WeightPlace::Beside, ..case(arch) });
    }
    let refused = Case { eval_state: EvalState::Normal, ..case("resnet18-ptl") }.compare(|_| {});
    assert!(matches!(refused, Err(Error::Setting { setting, .. }) if setting == "`ptl.eval_state`"));
}

#[test]
fn another_network_is_told_apart() {
    for part in ["backbone.bn1.weight", "gates.weight"] {
        let change = |store: &mut Store| {
            let param = store.params.iter().rfind(|param| param.name.ends_with(part)).unwrap();
            let range = param.range.clone();
            store.values[range].iter_mut().for_each(|value| *value *= 1.1);
        };
        let agreement = case("resnet18-ptl").compare(change).unwrap();
        assert!(agreement.largest_difference > 1e-4 && agreement.smallest_cosine < 1.0, "{part}: {agreement:?}");
    }
}

/// Returns `[n, h, w, c]` as `[n, c, h, w]`.
fn channels_first(values: &[f32], Shape { h, w, c, .. }: Shape) -> Vec<f32> {
    let image = |image: &[f32]| -> Vec<f32> {
        (0..c).flat_map(|channel| image.iter().skip(channel).step_by(c).copied()).collect()
    };
    values.chunks_exact(h * w * c).flat_map(image).collect()
}

#[test]
fn every_case_of_an_op_is_the_same_in_a_runtime() {
    let mut compared = BTreeSet::new();
    for case in op::cases() {
        let mut run = CaseRun::new(&case, Mode::Eval);
        let wanted = run.forward().unwrap().to_vec();
        let graph = run.session.graph();
        let (shape, slots) = (graph.shape(run.output), graph.states());
        let mut model = OnnxModel::default();
        let name = |i: usize| format!("input{i}");
        let inputs: Vec<_> = (run.inputs.iter().enumerate())
            .map(|(i, &var)| {
                let Shape { h, w, c, .. } = graph.shape(var);
                (var, model.input(&name(i), Element::Float, &[c, h, w]))
            })
            .collect();
        // A network's cells start from the same state for each image, so the first image alone is compared for a cell.
        let states = run.initial_states();
        let states: Vec<&[f32]> = states.iter().zip(slots).map(|(state, decl)| &state[..decl.slot.len()]).collect();
        let images = if states.is_empty() { shape.n } else { 1 };
        let Ok(y) = graph.onnx(&mut model, &run.store, Some(&states), &inputs, run.output) else {
            let is_loss = shape.len() == 1;
            assert!(is_loss || case.name.contains("steps"), "{} has no form in ONNX", case.name);
            continue;
        };
        model.output("output", &y, &[shape.c, shape.h, shape.w]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("op.onnx");
        write(model, &path, WeightPlace::Auto).unwrap();
        let runtime = rten::Model::load_file(&path).unwrap();
        let given = run.inputs.iter().zip(&run.input_values).enumerate().map(|(i, (&var, values))| {
            let shape = graph.shape(var);
            let values = channels_first(&values[..shape.len() / shape.n * images], shape);
            let value = rten::Value::from_shape([images, shape.c, shape.h, shape.w], values).unwrap();
            (runtime.node_id(&name(i)).unwrap(), value.into())
        });
        let output = runtime.node_id("output").unwrap();
        let output = runtime.run(given.collect(), &[output], None).unwrap().remove(0);
        let (_, given) = output.into_shape_vec::<f32, 4>().unwrap();
        let wanted = channels_first(&wanted[..shape.len() / shape.n * images], shape);
        assert_eq!(given.len(), wanted.len(), "{}", case.name);
        let worst = given.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{}: {worst}", case.name);
        compared.insert(case.name.split_whitespace().next().unwrap());
    }
    let ops = [
        "add",
        "avg_pool2d",
        "batch_norm",
        "bconv_cell",
        "channel_gate",
        "concat",
        "conv2d",
        "cosine_linear",
        "depthwise_conv2d",
        "gem_pool",
        "instance_norm",
        "linear",
        "max_pool2d",
        "narrow_channels",
        "narrow_rows",
        "normalize",
        "relu",
    ];
    let missing: Vec<_> = ops.iter().filter(|op| !compared.contains(*op)).collect();
    assert!(missing.is_empty(), "{missing:?} of {compared:?}");
}

#[test]
fn graphs_of_training_are_refused() {
    let case = &op::cases()[0];
    let run = CaseRun::new(case, Mode::Train);
    let refused = run.session.graph().onnx(&mut OnnxModel::default(), &run.store, None, &[], run.output);
    assert!(matches!(refused, Err(Error::Onnx { reason }) if reason.contains("Mode::Eval")));
}

#[test]
fn states_that_no_cell_has_do_not_matter() {
    agrees(&Case { eval_state: EvalState::Normal, ..case("resnet18") });
}
