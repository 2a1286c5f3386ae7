//! Estimates parameters, operations and memory of a training before it starts.

use super::trainer::record;
use crate::Result;
use crate::base::memory;
use crate::base::text::plural;
use crate::config::Config;
use crate::engine::collective::Collective;
use crate::engine::device::Device;
use crate::engine::optim::OptimKind;
use crate::engine::optim::Optimizer;
use crate::engine::plan::Plan;
use crate::engine::store::{Group, Store};
use crate::model::cost::{
    SMALLER_IMAGES, advice, evaluation, fewer_at_once, loader_bytes, memory_bytes, state_bytes, sum, times,
};
use crate::nn::TaskKind;

/// Parameters, operations and memory of a network on the CPU with f32 activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Number of parameters.
    pub parameters: usize,
    /// Parameters of BConv-Cells and fuse modules.
    pub ptl_parameters: usize,
    /// Floating-point operations of the forward pass of one image; a multiplication and an addition are two.
    pub flops: u64,
    /// Bytes of the parameters.
    pub weights: u64,
    /// Bytes of activations and packed weights when one image is evaluated.
    pub evaluation: u64,
    /// Length of a feature, or number of classes.
    pub outputs: usize,
    /// Memory of a training, without what depends on the data.
    pub training: Memory,
}

/// Bytes that a training takes, without what depends on the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Parameters, running statistics, and the copies of both while they are saved.
    pub weights: u64,
    /// Gradients and their sum over batches, state of the optimiser, moving average, and the copies while they are saved.
    pub update: u64,
    /// Activations of a training batch with their gradients, and latent states.
    pub activations: u64,
    /// Activations, packed weights and latent states of a batch that is evaluated.
    pub evaluation: u64,
    /// Batches of images that are ready or in progress, and the threads that load them.
    pub batches: u64,
}

/// Sizes of the data. They determine the memory that a training takes in addition to [`Memory`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataSizes {
    /// Number of images of an evaluation.
    pub measured: usize,
    /// Number of batches of an epoch.
    pub batches: usize,
}

impl Memory {
    /// Returns the sum of all parts.
    pub fn bytes(&self) -> u64 {
        let Memory { weights, update, activations, evaluation, batches } = *self;
        sum([weights, update, activations, evaluation, batches])
    }

    /// Returns the part that takes host memory when a GPU computes.
    fn beside_gpu(self) -> Memory {
        Memory { activations: 0, evaluation: 0, ..self }
    }
}

/// Returns the cost of the network that `config` describes, for `classes` identities or classes, without allocating the network.
///
/// # Errors
/// Settings from which no network can be built.
pub fn cost(config: &Config, classes: usize) -> Result<Cost> {
    cost_of_rank(config, classes, &Collective::single())
}

/// Returns the cost of one of `ranks`.
fn cost_of_rank(config: &Config, classes: usize, ranks: &Collective) -> Result<Cost> {
    let own = config.batch() / ranks.ranks();
    let mut store = Store::of_shapes();
    let network = config.network(classes)?.build(&mut store, config.seed)?;
    let one = evaluation(config, network.as_ref(), &store, 1)?;
    let (batch, vars) = record(config, classes, network.as_ref(), &store, ranks)?;
    let plan = Plan::new(&batch, &store, None)?;
    let (parameters, statistics) = (store.count(None), store.buffer_numbers());
    let bytes = |numbers: usize| (numbers as u64).saturating_mul(4);
    let weights = sum([bytes(parameters), bytes(statistics)]);
    let moments = Optimizer::new(&config.optim.rule(), 0)?.state().count();
    let average = if config.train.ema > 0.0 { weights } else { 0 };
    // Several processes add up their gradients in a copy.
    let gradients = 1 + usize::from(config.train.accumulate > 1) + usize::from(ranks.has_others());
    let slots = state_bytes(&batch, own / config.ptl.state_steps);
    let memories = memory_bytes(&batch, config.ptl.state_form.rows(config.batch(), classes));
    let states = sum([slots, memories]);
    // There is room for the larger one of a checkpoint's two files: the weights, or all the rest. Writing them needs less, because one tensor
    // is copied at a time.
    let rest = sum([times(bytes(parameters), moments), average, slots, memories, vars.memory_bytes(&batch)]);
    Ok(Cost {
        parameters,
        ptl_parameters: store.count(Some(Group::Ptl)),
        flops: one.flops,
        weights: bytes(parameters),
        evaluation: one.arena,
        outputs: one.outputs,
        training: Memory {
            weights: times(weights, 2),
            update: sum([times(bytes(parameters), gradients + moments), average, rest.saturating_sub(weights)]),
            activations: sum([plan.arena_bytes() as u64, states]),
            evaluation: evaluation(config, network.as_ref(), &store, config.eval.batch)?.bytes(),
            batches: loader_bytes(config, own.max(config.eval.batch), usize::MAX),
        },
    })
}

/// Refuses a training on `device` that does not fit into the available memory. Returns its cost.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory); settings from which no network can be built.
pub(crate) fn ensure_training(
    config: &Config,
    classes: usize,
    data: DataSizes,
    device: &Device,
    ranks: &Collective,
) -> Result<Cost> {
    let cost = cost_of_rank(config, classes, ranks)?;
    let memory = if device.gpu().is_some() { cost.training.beside_gpu() } else { cost.training };
    let batches = data.batches.max(data.measured.div_ceil(config.eval.batch));
    let batches = loader_bytes(config, (config.batch() / ranks.ranks()).max(config.eval.batch), batches);
    let memory = Memory { batches, ..memory };
    let numbers = times(cost.outputs as u64, data.measured);
    let train = &config.train;
    let reid = config.task == TaskKind::Reid;
    let batch = (
        config.batch() > 1,
        if reid { "smaller batches (`sampler.ids`, `sampler.images`)" } else { "a smaller `sampler.batch`" },
    );
    let [sizes, network] = [(true, SMALLER_IMAGES), (true, "a smaller network (`model.arch`, `model.width`)")];
    let [eval_batch, workers] = fewer_at_once(config);
    let update = [
        network,
        (config.optim.kind != OptimKind::Sgd, "`optim.kind` sgd"),
        (train.ema > 0.0, "no `train.ema`"),
        (train.accumulate > 1, "no `train.accumulate`"),
    ];
    let parts = [
        (memory.weights, advice(&[network])),
        (memory.update, advice(&update)),
        (memory.activations, advice(&[batch, sizes, network, (config.loss.memory > 0, "a smaller `loss.memory`")])),
        (memory.evaluation, advice(&[eval_batch, sizes, network])),
        (memory.batches, advice(&[workers, batch, eval_batch, sizes])),
        // Features are in memory twice, because ranking packs them.
        (times(numbers, 8), format!("measure fewer than {}", plural(data.measured, "image", "images"))),
        (
            index_bytes(config, data),
            advice(&[(reid && config.sampler.passes > 1, "fewer `sampler.passes`"), (true, "fewer training images")]),
        ),
    ];
    let (_, advice) = parts.iter().max_by_key(|(bytes, _)| *bytes).expect("there are parts");
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let purpose = format!(
        "training {} with batches of {} images of {}x{} ({} MiB for weights and their update, {} MiB for activations, {} MiB to evaluate \
         {} at a time)",
        config.model.arch,
        config.batch() / ranks.ranks(),
        config.model.height,
        config.model.image_width,
        mib(sum([memory.weights, memory.update])),
        mib(memory.activations),
        mib(memory.evaluation),
        plural(config.eval.batch, "image", "images"),
    );
    // The processes of a machine share its memory.
    let own = sum(parts.each_ref().map(|(bytes, _)| *bytes));
    memory::ensure_or(&purpose, times(own, ranks.local_ranks()), advice)?;
    Ok(cost)
}

/// Returns the size of the image cache in MiB: `data.cache_mb`, or what the rest of the training leaves of the memory if that is less.
pub fn cache_mb(config: &Config, cost: &Cost, data: DataSizes) -> usize {
    let Some((_, available)) = memory::total_and_available() else { return config.data.cache_mb };
    // Weights and training activations are allocated already, or are in the memory of a device.
    let Memory { evaluation, batches, .. } = cost.training;
    let copies = cost.training.weights / 2;
    let features = times(8, data.measured).saturating_mul(cost.outputs as u64);
    let later = sum([copies, cost.training.update, evaluation, batches, features, index_bytes(config, data)]);
    config.data.cache_mb.min((available.saturating_sub(later) >> 20) as usize)
}

/// Returns the bytes of the lists of images of an epoch: the sampler's, their division into batches, and the loader's.
fn index_bytes(config: &Config, data: DataSizes) -> u64 {
    times(3 * (config.batch() as u64 + 3) * size_of::<usize>() as u64, data.batches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Arch;

    #[test]
    fn advice_names_what_helps() {
        assert_eq!(advice(&[(true, "a"), (false, "b")]), "use a");
        assert_eq!(advice(&[(true, "a"), (false, "b"), (true, "c"), (true, "d")]), "use a, c or d");
    }

    /// Expects torchvision's counts for 1000 classes, for IBN-a the same, for IBN-b those of its `IN` besides, and the usual 1.8 billion products of a ResNet-18 at 224x224.
    #[test]
    fn counts_are_those_of_torchvision() {
        let of = |arch: &str| cost(&Config::recipe(TaskKind::Classify, arch), 1000).unwrap();
        let expected = [
            ("resnet18", 11_689_512),
            ("resnet34", 21_797_672),
            ("resnet50", 25_557_032),
            ("resnet101", 44_549_160),
            ("resnet50-ibn-a", 25_557_032),
            ("resnet50-ibn-b", 25_557_032 + 2 * (256 + 512)),
        ];
        for (arch, parameters) in expected {
            assert_eq!(of(arch).parameters, parameters, "{arch}");
        }
        let cost = of("resnet18");
        assert_eq!(cost.flops, 2 * 1_814_073_344);
        let training = cost.training.bytes();
        assert!(cost.weights < training && cost.evaluation < cost.training.evaluation, "{cost:?}");
    }

    #[test]
    fn the_default_cells_add_at_most_15_percent_to_every_classifier() {
        for arch in Arch::NAMES.into_iter().filter(|name| !name.starts_with("mgn") && name.ends_with("-ptl")) {
            let config = Config::recipe(TaskKind::Classify, arch);
            for (width, classes) in [(1.0, 10), (1.0, 1000), (0.25, 10)] {
                let sized = |arch: &str| {
                    let mut config = config.clone();
                    (config.model.width, config.sampler.batch) = (width, 2);
                    config.model.arch = arch.into();
                    cost(&config, classes).unwrap()
                };
                let (plain, ptl) = (sized(arch.trim_end_matches("-ptl")), sized(arch));
                let share = ptl.parameters as f64 / plain.parameters as f64 - 1.0;
                println!("{arch} x{width}, {classes} classes: {:.1} %", 100.0 * share);
                assert!(share > 0.0 && share <= 0.15, "{arch} x{width}, {classes} classes: {share}");
            }
        }
    }
}
