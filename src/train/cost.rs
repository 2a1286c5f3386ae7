//! What a network costs, before anything is trained.

use super::trainer::{network_config, record};
use crate::Result;
use crate::config::Config;
use crate::graph::{Graph, Mode};
use crate::optim::Optimizer;
use crate::plan::Plan;
use crate::shape::Shape;
use crate::store::{Group, Store};

/// Numbers, operations and memory of a network on the CPU, with f32 activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    pub parameters: usize,
    /// Those of BConv-Cells and fuse modules.
    pub ptl_parameters: usize,
    /// Floating-point operations of one image's forward pass; a product and a sum are two.
    pub flops: u64,
    /// Bytes of the parameters.
    pub weights: u64,
    /// Bytes of activations in the evaluation of one image.
    pub evaluation: u64,
    /// Bytes that training takes: weights, gradients, moments, latent states, and the activations and gradients of a batch.
    pub training: u64,
}

/// Of the network that `config` describes, with `classes` identities or classes.
///
/// # Errors
/// Settings that make no network.
pub fn cost(config: &Config, classes: usize) -> Result<Cost> {
    let mut store = Store::of_shapes();
    let network = network_config(config, classes)?.build(&mut store, config.seed)?;
    let mut graph = Graph::new(Mode::Eval);
    let images = graph.input(Shape::new(1, config.model.height, config.model.image_width, 3));
    let outputs = network.forward(&mut graph, &store, images)?;
    outputs.logits.iter().chain([&outputs.feature]).for_each(|&output| graph.keep(output));
    let evaluation = Plan::new(&graph, &store, None)?.arena_bytes() as u64;
    let (batch, _) = record(config, classes, network.as_ref(), &store)?;
    let plan = Plan::new(&batch, &store, None)?;
    let parameters = store.count(None);
    let copies = 2 + Optimizer::new(&config.optim.optimizer(), 0)?.state().count();
    let numbers = 4 * parameters as u64;
    // Before and after a step.
    let states: usize = batch.states().iter().map(|state| 2 * config.batch() * state.slot.len()).sum();
    Ok(Cost {
        parameters,
        ptl_parameters: store.count(Some(Group::Ptl)),
        flops: graph.flops(),
        weights: numbers,
        evaluation,
        training: numbers * copies as u64 + 4 * states as u64 + plan.arena_bytes() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TaskKind;
    use crate::nn::Arch;

    /// torchvision's counts for 1000 classes, and the usual 1.8 billion products of a ResNet-18 at 224x224.
    #[test]
    fn counts_are_those_of_torchvision() {
        let of = |arch: &str| cost(&Config::recipe(TaskKind::Classify, arch), 1000).unwrap();
        let expected =
            [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032), ("resnet101", 44_549_160)];
        for (arch, parameters) in expected {
            assert_eq!(of(arch).parameters, parameters, "{arch}");
        }
        let cost = of("resnet18");
        assert_eq!(cost.flops, 2 * 1_814_073_344);
        assert!(cost.weights < cost.training && cost.evaluation < cost.training, "{cost:?}");
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
