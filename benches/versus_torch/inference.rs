//! Networks in evaluation: the outputs of a classifier, and features for retrieval.

use std::path::Path;

use ptl::config::Config;
use ptl::data::Batch;
use ptl::engine::device::Device;
use ptl::engine::graph::{Graph, Mode, Var};
use ptl::engine::latent_state::{LatentStates, StateInit};
use ptl::engine::session::Session;
use ptl::engine::shape::Shape;
use ptl::engine::store::Store;
use ptl::eval::extract::normalize;
use ptl::nn::TaskKind;
use serde::Deserialize;

use crate::work::{Check, Run, Work};
use crate::{images, weights};

/// A network and its number of classes or identities; the images of `inputs.safetensors` are its input.
#[derive(Deserialize)]
pub struct InferenceSpec {
    arch: String,
    classes: usize,
}

/// A network that is recorded for evaluation.
struct Recorded {
    store: Store,
    states: LatentStates,
    session: Session,
    batch: Batch,
    images: Var,
    /// Logits or feature.
    output: Var,
}

impl Recorded {
    /// Builds the network, and writes its weights.
    fn new(folder: &Path, spec: &InferenceSpec, task: TaskKind) -> Recorded {
        let (batch, mut store) = (images::batch(folder), Store::new());
        let config = Config::recipe(task, &spec.arch);
        let network = config.network(spec.classes).and_then(|network| network.build(&mut store, config.seed));
        let network = network.expect("a network");
        weights::settle_and_write(folder, &mut store);
        let mut graph = Graph::new(Mode::Eval);
        let images = graph.input(Shape::new(batch.indices.len(), batch.size[0], batch.size[1], 3));
        let outputs = network.forward(&mut graph, &store, images).expect("a size that fits");
        let output = if task == TaskKind::Classify { outputs.logits[0] } else { outputs.feature };
        graph.keep(output);
        let session = Session::new(graph, &store, &Device::cpu()).expect("memory for a batch");
        Recorded { store, states: LatentStates::new(StateInit::Zeros, 0), session, batch, images, output }
    }

    fn set_images(&mut self) {
        self.session.set_images(self.images, &self.batch).expect("the CPU");
    }

    /// Runs the network on the images that were set, from latent states of zeros.
    fn forward(&mut self) -> Vec<f32> {
        self.states.reset();
        self.session.forward(&mut self.store, &mut self.states).expect("the CPU");
        self.session.value(self.output).expect("the CPU").into_owned()
    }
}

/// The logits of a classifier.
pub struct Evaluation(Recorded);

impl Evaluation {
    /// Builds the classifier, writes its weights, and prepares its input.
    pub fn new(folder: &Path, spec: &InferenceSpec) -> Evaluation {
        let mut recorded = Recorded::new(folder, spec, TaskKind::Classify);
        recorded.set_images();
        Evaluation(recorded)
    }
}

impl Work for Evaluation {
    fn check(&mut self) -> Check {
        Check::default().tensor("logits", &self.0.forward())
    }

    fn run(&mut self) -> Run {
        Run::of(|| {
            self.0.forward();
        })
    }
}

/// Features of images and their mirror images, added and scaled to unit length.
pub struct Features(Recorded);

impl Features {
    /// Builds the network, and writes its weights.
    pub fn new(folder: &Path, spec: &InferenceSpec) -> Features {
        Features(Recorded::new(folder, spec, TaskKind::Reid))
    }

    fn compute(&mut self) -> Vec<f32> {
        let [plain, mirrored] = [false, true].map(|mirror| {
            self.0.batch.params.iter_mut().for_each(|params| params.mirror = mirror);
            self.0.set_images();
            self.0.forward()
        });
        let mut features: Vec<f32> = plain.iter().zip(&mirrored).map(|(a, b)| a + b).collect();
        let dim = features.len() / self.0.batch.indices.len();
        features.chunks_exact_mut(dim).for_each(normalize);
        features
    }
}

impl Work for Features {
    fn check(&mut self) -> Check {
        let features = self.compute();
        Check::default().tensor("features", &features)
    }

    fn run(&mut self) -> Run {
        Run::of(|| {
            self.compute();
        })
    }
}
