//! Training steps on a GPU: kernels are launched one by one, or recorded once and replayed.

use super::numbers::Numbers;
use crate::Result;
use crate::base::profile;
use crate::engine::device::{Buffer, Gpu, Ptr, Recording};
use crate::engine::optim::Update;
use crate::engine::session::Bound;

/// Largest number of recordings: two for each of three parts of a step, because latent states alternate between two places.
const KEPT: usize = 6;

/// How a batch uses its gradient, where several batches make one update (`train.accumulate`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Updates the parameters by its own gradient.
    Whole,
    /// Begins the sum of gradients.
    First,
    /// Adds its gradient to the sum.
    Middle,
    /// Adds the sum to its own gradient, and updates the parameters.
    Last,
}

impl Part {
    /// Returns the part of batch number `done` (from 0) in a group of `of` batches.
    pub(super) fn new(done: usize, of: usize) -> Part {
        match done {
            _ if of == 1 => Part::Whole,
            0 => Part::First,
            last if last + 1 == of => Part::Last,
            _ => Part::Middle,
        }
    }

    /// Returns whether the batch updates the parameters.
    pub(super) fn updates(self) -> bool {
        matches!(self, Part::Whole | Part::Last)
    }
}

/// The recorded steps of a training.
pub(super) struct Recorded {
    replay: bool,
    /// Parts that have run once without recording: a first call loads kernels and chooses algorithms, which cannot be recorded.
    warm: Vec<Part>,
    /// Number of correct predictions of each classifier.
    hits: Buffer,
    /// What the host reads after a step; `None` before the first.
    numbers: Option<Numbers>,
    steps: Vec<Step>,
}

/// A recording, and the addresses for which it is valid.
struct Step {
    part: Part,
    bound: Bound,
    update: Update,
    launches: Box<dyn Recording>,
}

impl Recorded {
    /// Allocates memory for the correct predictions of `classifiers` classifiers; `replay` says whether to record steps.
    pub(super) fn new(gpu: &Gpu, classifiers: usize, replay: bool) -> Result<Recorded> {
        let hits = gpu.allocate(4 * classifiers)?;
        Ok(Recorded { replay, warm: Vec::new(), hits, numbers: None, steps: Vec::new() })
    }

    /// Returns the address of the correct predictions.
    pub(super) fn hits(&self) -> Ptr<f32> {
        self.hits.ptr()
    }

    /// Waits for the GPU, and returns the numbers of the last run. What the part did not compute is undefined.
    ///
    /// # Panics
    /// Before the first run.
    pub(super) fn read(&self, gpu: &Gpu) -> Result<Vec<f64>> {
        self.numbers.as_ref().expect("after a run").read(gpu)
    }

    /// Runs a part of a step, and brings the numbers at `places` together for [`Recorded::read`]. `launch` enqueues the part, and once
    /// recorded, it is replayed.
    pub(super) fn run(
        &mut self,
        gpu: &Gpu,
        part: Part,
        bound: &Bound,
        update: &Update,
        places: Vec<Ptr<f32>>,
        launch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        if self.numbers.as_ref().is_none_or(|numbers| !numbers.are_at(&places)) {
            self.numbers = Some(Numbers::new(gpu, places)?);
            // Recorded steps gather from the old places, into memory that is freed.
            self.steps.clear();
        }
        let numbers = self.numbers.as_ref().expect("set above");
        let mut launch = || {
            launch()?;
            numbers.launch(gpu)
        };
        if !self.replay {
            return launch();
        }
        if !self.warm.contains(&part) {
            self.warm.push(part);
            return launch();
        }
        let same = |step: &&Step| step.part == part && step.bound == *bound && step.update == *update;
        if let Some(step) = self.steps.iter().find(same) {
            let _replay = profile::range("replay");
            return step.launches.replay();
        }
        let _record = profile::range("record");
        let launches = {
            let _paused = profile::pause();
            gpu.record(&mut launch)?
        };
        launches.replay()?;
        if self.steps.len() == KEPT {
            self.steps.remove(0);
        }
        self.steps.push(Step { part, bound: bound.clone(), update: update.clone(), launches });
        Ok(())
    }
}
