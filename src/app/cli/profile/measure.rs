//! Runs training steps or evaluations on generated images, and measures their pieces.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rand::RngExt;

use crate::Result;
use crate::base::memory;
use crate::base::profile::record;
use crate::base::rng::{Purpose, stream};
use crate::base::text::plural;
use crate::config::Config;
use crate::data::{AugmentParams, Batch, Mix};
use crate::engine::device::Device;
use crate::engine::latent_state::{EvalState, LatentStates};
use crate::engine::session::{Part, Work};
use crate::engine::store::Store;
use crate::eval::Output;
use crate::eval::extract::{ExtractOptions, Extractor};
use crate::model::cost::ensure_evaluation;
use crate::nn::TaskKind;
use crate::train::Trainer;
use crate::train::cost::{Memory, cost};

/// The learning rate: small, so that random images cannot make the loss infinite.
pub(crate) const LR: f64 = 1e-6;

/// A piece of a step: the work of a node, or what is done once.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Name of the range that is open while it runs.
    pub range: String,
    /// Name of the op, or of what is done once.
    pub name: &'static str,
    /// What the op computes.
    pub part: Option<Part>,
    /// Shapes of a node's inputs and output.
    pub shapes: String,
    /// Name of a node's first parameter.
    pub param: String,
    /// Floating-point operations of a call; 0 where they do not matter.
    pub flops: u64,
    /// Bytes that a call must move at least; 0 where they are not counted.
    pub bytes: u64,
    /// Calls in all steps.
    pub calls: usize,
    /// Time of all calls.
    pub time: Duration,
}

/// The times of several equal steps.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// Images of a batch.
    pub batch: usize,
    /// Time of each step.
    pub steps: Vec<Duration>,
    /// The pieces of all steps, in the order of a step.
    pub pieces: Vec<Piece>,
}

impl Piece {
    fn once(range: &str, name: &'static str, bytes: u64) -> Piece {
        Piece {
            range: range.into(),
            name,
            part: None,
            shapes: String::new(),
            param: String::new(),
            flops: 0,
            bytes,
            calls: 0,
            time: Duration::ZERO,
        }
    }

    fn of_node(work: &Work, store: &Store) -> Piece {
        let inputs: Vec<String> = work.inputs.iter().map(ToString::to_string).collect();
        Piece {
            part: Some(work.part),
            shapes: format!("{} → {}", inputs.join(", "), work.output),
            param: work.params.first().map_or(String::new(), |id| store.param(*id).name.clone()),
            flops: work.flops,
            ..Piece::once(&work.range(), work.op, work.bytes)
        }
    }
}

/// Measures `steps` training steps of the network of `config` on `device`, for `classes` identities or classes.
///
/// # Errors
/// Settings from which no network can be built; [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub(crate) fn training(
    config: &Config,
    device: &Device,
    classes: usize,
    steps: usize,
    done: impl FnMut(),
) -> Result<Profile> {
    let batch = config.batch();
    let Memory { weights, update, activations, .. } = cost(config, classes)?.training;
    let needed = [weights, update, activations].into_iter().fold(0, u64::saturating_add);
    let advice = format!(
        "use smaller batches ({}), smaller images (`model.height`, `model.image_width`) or a smaller network (`model.arch`, \
         `model.width`)",
        config.batch_settings()
    );
    let (arch, height, width) = (&config.model.arch, config.model.height, config.model.image_width);
    let purpose = format!("profiling {arch} with batches of {} of {height}x{width}", plural(batch, "image", "images"));
    memory::ensure_or(&purpose, needed, &advice)?;
    let mut trainer = Trainer::on(device.clone(), config, classes, |_, _| Ok(()))?;
    let mut pieces = vec![images(config, batch)];
    pieces.extend(trainer.work().iter().map(|work| Piece::of_node(work, &trainer.store)));
    // The gradient is read for its norm and for the update, which reads and writes the parameters and each moment.
    let (trained, moments) = (trainer.trained_parameters(), trainer.optimizer.state().count());
    pieces.push(Piece::once("optimizer", "optimiser", 4 * (trained * (4 + 2 * moments)) as u64));
    if trainer.averages() {
        // Reads the weights, reads and writes their average.
        let numbers = trainer.store.count(None) + trainer.store.buffer_numbers();
        pieces.push(Piece::once("average", "moving average", 12 * numbers as u64));
    }
    let batch = generated(config, batch, classes);
    measure(batch.labels.len(), pieces, steps, done, || trainer.step(&batch, None, LR).map(drop))
}

/// Measures `steps` evaluations of a batch.
///
/// # Errors
/// As [`training`].
pub(crate) fn evaluation(
    config: &Config,
    device: &Device,
    classes: usize,
    steps: usize,
    done: impl FnMut(),
) -> Result<Profile> {
    // Generated images need no loader threads.
    let mut checked = config.clone();
    checked.train.workers = 1;
    ensure_evaluation(&checked, classes, device)?;
    let mut store = Store::new();
    let network = config.network(classes)?.build(&mut store, config.seed)?;
    let output = if config.task == TaskKind::Reid { Output::Feature } else { Output::Probabilities };
    let batch = config.eval.batch;
    // There are no states of a training, from which a mean could be taken.
    let options =
        ExtractOptions { output, flip: config.eval.flip, batch, eval_state: EvalState::Zeros, seed: config.seed };
    let size = [config.model.height, config.model.image_width];
    let mut extractor = Extractor::new(network.as_ref(), &store, size, options, device)?;
    let mut pieces = vec![images(config, batch)];
    pieces.extend(extractor.work(&store).iter().map(|work| Piece::of_node(work, &store)));
    let states = LatentStates::new(config.ptl.state_init, config.seed);
    let mut images = generated(config, batch, classes);
    measure(batch, pieces, steps, done, || extractor.extract(&mut store, &states, &mut images, &mut Vec::new()))
}

/// Runs `step` once to warm up, then `steps` times, and adds the times of its ranges to `pieces`. Calls `done` after each.
fn measure(
    batch: usize,
    mut pieces: Vec<Piece>,
    steps: usize,
    mut done: impl FnMut(),
    mut step: impl FnMut() -> Result<()>,
) -> Result<Profile> {
    let index: HashMap<String, usize> = pieces.iter().enumerate().map(|(i, piece)| (piece.range.clone(), i)).collect();
    step()?;
    done();
    let mut times = Vec::new();
    for _ in 0..steps {
        let start = Instant::now();
        let (result, spans) = record(&mut step);
        times.push(start.elapsed());
        result?;
        for span in spans {
            if let Some(&i) = index.get(&span.name) {
                pieces[i].calls += 1;
                pieces[i].time += span.time;
            }
        }
        done();
    }
    Ok(Profile { batch, steps: times, pieces })
}

/// Returns the preparation of the network's input: bytes are read, and f32 written.
fn images(config: &Config, batch: usize) -> Piece {
    let numbers = batch * config.model.height * config.model.image_width * 3;
    Piece::once("images", "input images", 5 * numbers as u64)
}

/// Returns `count` random images with labels, augmented as `config` says.
pub(crate) fn generated(config: &Config, count: usize, classes: usize) -> Batch {
    let mut rng = stream(config.seed, Purpose::Test, 0, 0);
    let size = [config.model.height, config.model.image_width];
    let of_identity = if config.task == TaskKind::Reid { config.sampler.images } else { 1 };
    Batch {
        pixels: (0..count * size[0] * size[1] * 3).map(|_| rng.random()).collect(),
        size,
        params: (0..count).map(|_| AugmentParams::sample(&config.augment, size, &mut rng)).collect(),
        labels: (0..count).map(|i| (i / of_identity % classes) as u32).collect(),
        indices: (0..count).collect(),
        mix: Mix::draw(&config.augment, size, &mut rng),
    }
}
