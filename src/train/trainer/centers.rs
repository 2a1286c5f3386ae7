//! The centres of the identities, for the centre loss (Wen et al., ECCV 2016).

use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::op;
use crate::engine::session::Session;
use crate::engine::shape::Shape;

/// A centre of each identity for each of the network's embeddings. The centres lie in inputs of the session, on the device that computes.
pub(super) struct Centers {
    /// The outputs of the network that the centres follow.
    embeddings: Vec<Var>,
    /// An input `[classes, 1, 1, d]` for each of `embeddings`.
    centers: Vec<Var>,
    /// The labels of the batch.
    labels: Var,
    rate: f32,
}

impl Centers {
    /// Records the centres of `classes` identities for each of the network's `embeddings` `[n, 1, 1, d]` with `labels`.
    pub(super) fn record(graph: &mut Graph, embeddings: &[Var], labels: Var, classes: usize, rate: f32) -> Centers {
        let mut input = |&embedding: &Var| {
            graph.keep(embedding);
            let dim = graph.shape(embedding).c;
            graph.targets(Shape::vectors(classes, dim))
        };
        let centers = embeddings.iter().map(&mut input).collect();
        Centers { embeddings: embeddings.to_vec(), centers, labels, rate }
    }

    /// Returns the input for the loss of embedding number `index`.
    pub(super) fn input(&self, index: usize) -> Var {
        self.centers[index]
    }

    /// Returns the bytes of the inputs.
    pub(super) fn bytes(&self, graph: &Graph) -> u64 {
        self.centers.iter().map(|&var| 4 * graph.shape(var).len() as u64).sum()
    }

    /// Sets all centres to 0, where they start from.
    ///
    /// # Errors
    /// The GPU fails.
    pub(super) fn reset(&self, session: &mut Session) -> Result<()> {
        self.centers.iter().try_for_each(|&var| session.set(var, &vec![0.0; session.graph().shape(var).len()]))
    }

    /// Moves the centres towards the embeddings of the step that the session has just run.
    ///
    /// # Errors
    /// The GPU fails.
    pub(super) fn follow(&self, session: &mut Session) -> Result<()> {
        for (&embedding, &var) in self.embeddings.iter().zip(&self.centers) {
            let Shape { n, c: dim, .. } = session.graph().shape(embedding);
            match session.gpu() {
                Some(gpu) => {
                    let [centers, features, labels] = [var, embedding, self.labels].map(|var| session.address(var));
                    let sizes = [n, dim];
                    op::launch_move_centers(gpu, centers.cast(), features, labels.cast(), sizes, self.rate)?;
                }
                None => {
                    let mut centers = session.value(var)?.to_vec();
                    let (features, labels) = (session.value(embedding)?, session.value(self.labels)?);
                    op::move_centers(&mut centers, &features, bytemuck::cast_slice(&labels), dim, self.rate);
                    session.set(var, &centers)?;
                }
            }
        }
        Ok(())
    }

    /// Returns the centres for each of the network's embeddings.
    ///
    /// # Errors
    /// The GPU fails.
    pub(super) fn content(&self, session: &Session) -> Result<Vec<Vec<f32>>> {
        self.centers.iter().map(|&var| Ok(session.value(var)?.to_vec())).collect()
    }

    /// Restores what [`Centers::content`] returned.
    ///
    /// # Errors
    /// The GPU fails.
    pub(super) fn restore(&self, session: &mut Session, content: &[Vec<f32>]) -> Result<()> {
        self.centers.iter().zip(content).try_for_each(|(&var, numbers)| session.set(var, numbers))
    }

    /// Returns the numbers of all centres of each embedding, and the length of one.
    pub(super) fn sizes(&self, graph: &Graph) -> Vec<[usize; 2]> {
        self.centers.iter().map(|&var| [graph.shape(var).n, graph.shape(var).c]).collect()
    }
}
