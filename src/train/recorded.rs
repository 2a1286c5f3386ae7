//! A training step on a GPU: launched anew each time, or recorded once and replayed.

use crate::device::{Buffer, Gpu, Ptr, Recording};
use crate::optim::Update;
use crate::session::Bound;
use crate::{Result, profile};

/// Recordings that are kept: latent states take turns between two places, so a run needs two.
const KEPT: usize = 2;

/// The launches of a step.
pub(super) struct Recorded {
    replay: bool,
    /// Every launch has run once: what a first call loads or chooses cannot be recorded.
    warm: bool,
    /// Right answers of each classifier.
    hits: Buffer,
    steps: Vec<Step>,
}

/// What was recorded, and the addresses for which it holds.
struct Step {
    bound: Bound,
    update: Update,
    launches: Box<dyn Recording>,
}

impl Recorded {
    pub fn new(gpu: &Gpu, classifiers: usize, replay: bool) -> Result<Recorded> {
        Ok(Recorded { replay, warm: false, hits: gpu.allocate(4 * classifiers)?, steps: Vec::new() })
    }

    pub fn hits(&self) -> Ptr<f32> {
        self.hits.ptr()
    }

    /// Runs the step that `launch` enqueues (it gets the place of the hits).
    pub fn run(
        &mut self,
        gpu: &Gpu,
        bound: &Bound,
        update: &Update,
        launch: &mut dyn FnMut(Ptr<f32>) -> Result<()>,
    ) -> Result<()> {
        let hits = self.hits();
        if !self.replay || !self.warm {
            self.warm = true;
            return launch(hits);
        }
        if let Some(step) = self.steps.iter().find(|step| step.bound == *bound && step.update == *update) {
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
        self.steps.push(Step { bound: bound.clone(), update: update.clone(), launches });
        Ok(())
    }
}
