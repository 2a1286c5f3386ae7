//! A training step on a GPU: launched anew each time, or recorded once and replayed.

use crate::Result;
use crate::base::profile;
use crate::engine::device::{Buffer, Gpu, Ptr, Recording};
use crate::engine::optim::Update;
use crate::engine::session::Bound;

/// Recordings that are kept: latent states take turns between two places, and a step may have three parts.
const KEPT: usize = 6;

/// What a batch does with its gradient, where several make one update (`train.accumulate`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Updates the parameters by its own gradient.
    Whole,
    /// Begins the sum.
    First,
    /// Adds to it.
    Middle,
    /// Adds the sum to its own gradient, and updates.
    Last,
}

impl Part {
    /// Of batch number `done` (from 0) of a group of `of`.
    pub fn new(done: usize, of: usize) -> Part {
        match done {
            _ if of == 1 => Part::Whole,
            0 => Part::First,
            last if last + 1 == of => Part::Last,
            _ => Part::Middle,
        }
    }

    pub fn updates(self) -> bool {
        matches!(self, Part::Whole | Part::Last)
    }
}

/// The launches of a step.
pub(super) struct Recorded {
    replay: bool,
    /// Parts whose launches have all run once: what a first call loads or chooses cannot be recorded.
    warm: Vec<Part>,
    /// Right answers of each classifier.
    hits: Buffer,
    steps: Vec<Step>,
}

/// What was recorded, and the addresses for which it holds.
struct Step {
    part: Part,
    bound: Bound,
    update: Update,
    launches: Box<dyn Recording>,
}

impl Recorded {
    pub fn new(gpu: &Gpu, classifiers: usize, replay: bool) -> Result<Recorded> {
        Ok(Recorded { replay, warm: Vec::new(), hits: gpu.allocate(4 * classifiers)?, steps: Vec::new() })
    }

    pub fn hits(&self) -> Ptr<f32> {
        self.hits.ptr()
    }

    /// Runs the part of a step that `launch` enqueues (it gets the place of the hits).
    pub fn run(
        &mut self,
        gpu: &Gpu,
        part: Part,
        bound: &Bound,
        update: &Update,
        launch: &mut dyn FnMut(Ptr<f32>) -> Result<()>,
    ) -> Result<()> {
        let hits = self.hits();
        if !self.replay {
            return launch(hits);
        }
        if !self.warm.contains(&part) {
            self.warm.push(part);
            return launch(hits);
        }
        let same = |step: &&Step| step.part == part && step.bound == *bound && step.update == *update;
        if let Some(step) = self.steps.iter().find(same) {
            let _replay = profile::range("replay");
            return step.launches.replay();
        }
        let _record = profile::range("record");
        let launches = {
            let _paused = profile::pause();
            gpu.record(&mut || launch(hits))?
        };
        launches.replay()?;
        if self.steps.len() == KEPT {
            self.steps.remove(0);
        }
        self.steps.push(Step { part, bound: bound.clone(), update: update.clone(), launches });
        Ok(())
    }
}
