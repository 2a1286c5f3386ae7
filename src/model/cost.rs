//! Estimates the memory and the operations of an evaluation before it starts.

use crate::Result;
use crate::base::memory;
use crate::base::text::plural;
use crate::config::Config;
use crate::engine::device::Device;
use crate::engine::graph::{Graph, Mode};
use crate::engine::plan::Plan;
use crate::engine::shape::Shape;
use crate::engine::store::Store;
use crate::nn::{Network, TaskKind};

/// Batches that a loader thread holds: those that wait, and the one in progress.
const BATCHES_OF_A_WORKER: usize = 3;
/// Bytes of memory and address space of a loader thread.
const WORKER: u64 = 4 << 20;

/// Refuses to evaluate a network that does not fit into the available memory.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory); settings from which no network can be built.
pub(crate) fn ensure_evaluation(config: &Config, classes: usize, device: &Device) -> Result<()> {
    let mut store = Store::of_shapes();
    let network = config.network(classes)?.build(&mut store, config.seed)?;
    let weights = times(4, store.count(None) + store.buffer_numbers());
    let batch = config.eval.batch;
    let activations = match device.gpu() {
        None => evaluation(config, network.as_ref(), &store, batch)?.bytes(),
        Some(_) => 0,
    };
    let batches = loader_bytes(config, batch, usize::MAX);
    let [eval_batch, workers] = fewer_at_once(config);
    let advice = match weights > activations.max(batches) {
        true => "free memory, raise the limit, or use a smaller network".into(),
        false => advice(&[eval_batch, workers, (true, SMALLER_IMAGES)]),
    };
    let purpose = format!(
        "evaluating {} with batches of {} of {}x{}",
        config.model.arch,
        plural(batch, "image", "images"),
        config.model.height,
        config.model.image_width
    );
    memory::ensure_or(&purpose, sum([weights, activations, batches]), &advice)
}

/// Advice to use smaller images.
pub(crate) const SMALLER_IMAGES: &str = "smaller images (`model.height`, `model.image_width`)";

/// Returns advice to evaluate or load fewer images at a time; each part with whether it helps this run.
pub(crate) fn fewer_at_once(config: &Config) -> [(bool, &'static str); 2] {
    let workers = config.workers();
    [(config.eval.batch > 1, "a smaller `eval.batch`"), (workers > 1, "fewer `train.workers`")]
}

/// Formats those of `ways` that help this run as `use a, b or c`.
pub(crate) fn advice(ways: &[(bool, &str)]) -> String {
    let ways: Vec<&str> = ways.iter().filter(|(helps, _)| *helps).map(|(_, way)| *way).collect();
    match &ways[..] {
        [rest @ .., last] if !rest.is_empty() => format!("use {} or {last}", rest.join(", ")),
        ways => format!("use {}", ways.concat()),
    }
}

/// Cost of the evaluation of a batch.
pub(crate) struct Evaluation {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes of activations and of packed weights.
    pub arena: u64,
    /// Bytes of latent states.
    pub states: u64,
    /// Length of a feature, or number of classes.
    pub outputs: usize,
}

impl Evaluation {
    /// Returns the bytes of activations, packed weights and latent states.
    pub(crate) fn bytes(&self) -> u64 {
        self.arena.saturating_add(self.states)
    }
}

/// Returns the cost of the evaluation of `batch` images.
pub(crate) fn evaluation(config: &Config, network: &dyn Network, store: &Store, batch: usize) -> Result<Evaluation> {
    let mut graph = Graph::new(Mode::Eval);
    let images = graph.input(Shape::new(batch, config.model.height, config.model.image_width, 3));
    let outputs = network.forward(&mut graph, store, images)?;
    outputs.logits.iter().chain([&outputs.feature]).for_each(|&output| graph.keep(output));
    let row = if config.task == TaskKind::Reid { outputs.feature } else { outputs.logits[0] };
    Ok(Evaluation {
        flops: graph.flops(),
        states: state_bytes(&graph, batch),
        outputs: graph.shape(row).c,
        arena: Plan::new(&graph.fused(), store, None)?.arena_bytes() as u64,
    })
}

/// Returns the bytes of the latent states of `batch` images, before and after a step.
pub(crate) fn state_bytes(graph: &Graph, batch: usize) -> u64 {
    graph.states().iter().map(|state| times(8 * state.slot.len() as u64, batch)).fold(0, u64::saturating_add)
}

/// Returns the bytes of what latent states keep in `rows` rows of a memory ([`StateForm`](crate::engine::latent_state::StateForm)).
pub(crate) fn memory_bytes(graph: &Graph, rows: usize) -> u64 {
    graph.states().iter().map(|state| times(4 * state.slot.len() as u64, rows)).fold(0, u64::saturating_add)
}

/// Returns the bytes of the loader's images and threads for `batches` batches of `batch` images; it starts no more threads than batches.
pub(crate) fn loader_bytes(config: &Config, batch: usize, batches: usize) -> u64 {
    let workers = config.workers().min(batches);
    let image = 3 * (config.model.height * config.model.image_width) as u64;
    // Two more: the batch that is trained on, and the next one.
    sum([times(times(image, batch), BATCHES_OF_A_WORKER * workers + 2), times(WORKER, workers)])
}

/// Multiplies; stops at the largest number.
pub(crate) fn times(bytes: u64, count: usize) -> u64 {
    bytes.saturating_mul(count as u64)
}

/// Adds up; stops at the largest number.
pub(crate) fn sum<const N: usize>(parts: [u64; N]) -> u64 {
    parts.into_iter().fold(0, u64::saturating_add)
}
