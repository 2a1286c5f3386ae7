//! Embeddings of earlier batches, from which the triplet loss mines too (cross-batch memory; Wang et al., CVPR 2020).

use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::op::{NO_LABEL, TripletBank};
use crate::engine::session::Session;
use crate::engine::shape::Shape;

/// A ring of places, in which new embeddings replace the oldest. The embeddings lie in inputs of the session, on the device that computes;
/// one label belongs to a place of all inputs.
pub(super) struct Bank {
    /// The outputs of the network that are kept.
    embeddings: Vec<Var>,
    /// An input `[places, 1, 1, d]` for each of `embeddings`.
    features: Vec<Var>,
    /// An input `[places, 1, 1, 1]`.
    labels: Var,
    /// The numbers of the input `labels`; [`NO_LABEL`] for an empty place.
    label_of: Vec<u32>,
    /// Number of embeddings that were added. The next one goes to the place of this number modulo the number of places.
    added: u64,
}

/// The content of a memory of embeddings, for a checkpoint.
pub(crate) struct Remembered {
    /// The labels of the places that are not empty, which are the first ones.
    pub labels: Vec<u32>,
    /// Number of embeddings that were added so far.
    pub added: u64,
    /// The embeddings in these places, `[places, d]`, for each of the network's embeddings.
    pub features: Vec<Vec<f32>>,
}

impl Bank {
    /// Records a bank of `places` places for each of the network's `embeddings` `[n, 1, 1, d]`.
    pub(super) fn record(graph: &mut Graph, embeddings: &[Var], places: usize) -> Bank {
        let mut input = |&embedding: &Var| {
            graph.keep(embedding);
            let dim = graph.shape(embedding).c;
            graph.targets(Shape::vectors(places, dim))
        };
        let features = embeddings.iter().map(&mut input).collect();
        let labels = graph.labels(places);
        Bank { embeddings: embeddings.to_vec(), features, labels, label_of: vec![NO_LABEL; places], added: 0 }
    }

    /// Returns the inputs for the loss of embedding number `index`.
    pub(super) fn inputs(&self, index: usize) -> TripletBank {
        TripletBank { features: self.features[index], labels: self.labels }
    }

    /// Returns the bytes of the inputs.
    pub(super) fn bytes(&self, graph: &Graph) -> u64 {
        self.features.iter().chain([&self.labels]).map(|&var| 4 * graph.shape(var).len() as u64).sum()
    }

    /// Writes the labels to their input. A new session has none.
    ///
    /// # Errors
    /// The GPU fails.
    pub(super) fn set_labels(&self, session: &mut Session) -> Result<()> {
        session.set(self.labels, bytemuck::cast_slice(&self.label_of))
    }

    /// Adds the embeddings that the session has computed for the images with these labels, which are at most as many as there are places.
    ///
    /// # Errors
    /// The GPU fails.
    pub(super) fn add(&mut self, session: &mut Session, labels: &[u32]) -> Result<()> {
        let places = self.places();
        let first = (self.added % places as u64) as usize;
        // Up to the end of the ring, and from its start.
        let until_end = labels.len().min(places - first);
        for (rows, place) in [(0..until_end, first), (until_end..labels.len(), 0)] {
            if rows.is_empty() {
                continue;
            }
            self.label_of[place..place + rows.len()].copy_from_slice(&labels[rows.clone()]);
            for (&from, &to) in self.embeddings.iter().zip(&self.features) {
                session.copy_rows(from, rows.clone(), to, place)?;
            }
        }
        self.added += labels.len() as u64;
        self.set_labels(session)
    }

    /// Returns the content.
    ///
    /// # Errors
    /// The GPU fails.
    pub(super) fn content(&self, session: &Session) -> Result<Remembered> {
        let labels: Vec<u32> = self.label_of.iter().copied().filter(|&label| label != NO_LABEL).collect();
        let dims = self.dims(session.graph());
        let features =
            self.features.iter().zip(dims).map(|(&var, dim)| Ok(session.value(var)?[..labels.len() * dim].to_vec()));
        Ok(Remembered { features: features.collect::<Result<_>>()?, labels, added: self.added })
    }

    /// Returns the number of places.
    pub(super) fn places(&self) -> usize {
        self.label_of.len()
    }

    /// Returns the lengths of the embeddings.
    pub(super) fn dims(&self, graph: &Graph) -> Vec<usize> {
        self.features.iter().map(|&var| graph.shape(var).c).collect()
    }

    /// Restores what [`Bank::content`] returned.
    ///
    /// # Errors
    /// The GPU fails.
    pub(super) fn restore(&mut self, session: &mut Session, content: Remembered) -> Result<()> {
        for (&var, mut numbers) in self.features.iter().zip(content.features) {
            numbers.resize(session.graph().shape(var).len(), 0.0);
            session.set(var, &numbers)?;
        }
        let places = self.places();
        self.label_of = content.labels;
        self.label_of.resize(places, NO_LABEL);
        self.added = content.added;
        self.set_labels(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::device::Device;
    use crate::engine::graph::Mode;
    use crate::engine::latent_state::{LatentStates, StateInit};
    use crate::engine::op;
    use crate::engine::store::Store;

    /// Returns the CPU, and the emulated GPU in two precisions where there is one.
    fn devices() -> Vec<Device> {
        #[allow(unused_mut)] // A build without the emulator has one device.
        let mut devices = vec![Device::cpu()];
        #[cfg(ptl_emulator)]
        for precision in [crate::engine::precision::Precision::F32, crate::engine::precision::Precision::Bf16] {
            let emulator = std::sync::Arc::new(crate::engine::device::Emulator::default());
            devices.push(Device::Gpu(crate::engine::device::Gpu::new(emulator, precision)));
        }
        devices
    }

    /// A bank of five places for two embeddings, [x, x] and x, of batches of three.
    struct Run {
        x: Var,
        bank: Bank,
        session: Session,
        batches: u32,
    }

    impl Run {
        fn new(device: &Device) -> Run {
            let mut graph = Graph::new(Mode::Train);
            let x = graph.input(Shape::vectors(3, 1));
            let one = op::relu(&mut graph, x).unwrap();
            let two = op::concat(&mut graph, &[x, one]).unwrap();
            let bank = Bank::record(&mut graph, &[two, one], 5);
            let mut session = Session::new(graph, &Store::new(), device).unwrap();
            bank.set_labels(&mut session).unwrap();
            Run { x, bank, session, batches: 0 }
        }

        /// Adds a batch whose labels and numbers are 10, 11, 12 times the number of the batch, and returns all labels and numbers.
        fn add(&mut self) -> (Vec<u32>, [Vec<f32>; 2]) {
            self.batches += 1;
            let labels = [10, 11, 12].map(|number| number * self.batches);
            self.session.set(self.x, &labels.map(|label| label as f32)).unwrap();
            self.session.forward(&mut Store::new(), &mut LatentStates::new(StateInit::Zeros, 0)).unwrap();
            self.bank.add(&mut self.session, &labels).unwrap();
            let Remembered { labels, features, added } = self.bank.content(&self.session).unwrap();
            assert_eq!(added, 3 * u64::from(self.batches));
            (labels, features.try_into().unwrap())
        }
    }

    #[test]
    fn new_embeddings_replace_the_oldest_and_a_restored_bank_goes_on() {
        for device in devices() {
            let mut run = Run::new(&device);
            for want in [&[10, 11, 12][..], &[24, 11, 12, 20, 22], &[24, 30, 33, 36, 22], &[44, 48, 33, 36, 40]] {
                // The place of embedding i is i modulo 5.
                if run.batches == 3 {
                    let content = run.bank.content(&run.session).unwrap();
                    run = Run { batches: 3, ..Run::new(&device) };
                    run.bank.restore(&mut run.session, content).unwrap();
                }
                let (labels, [twice, once]) = run.add();
                assert_eq!(labels, want, "{device}");
                assert_eq!(once, want.iter().map(|&label| label as f32).collect::<Vec<_>>(), "{device}");
                assert_eq!(twice, want.iter().flat_map(|&label| [label as f32; 2]).collect::<Vec<_>>(), "{device}");
            }
        }
    }
}
