//! The interface of backbones that run stage by stage, so that a PTL branch can run beside them.

use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::store::Store;

/// A backbone: a stem, and stages that are counted from 1.
pub trait StagedBackbone {
    /// Returns the number of stages.
    fn stages(&self) -> usize;

    /// Returns the channels of the stem's output.
    fn stem_channels(&self) -> usize;

    /// Returns the stride from images to the stem's output.
    fn stem_stride(&self) -> usize;

    /// Returns the channels at the end of a stage.
    fn stage_channels(&self, stage: usize) -> usize;

    /// Returns the stride of a stage.
    fn stage_stride(&self, stage: usize) -> usize;

    /// Returns the default channels of the cells beside the stages, in 64ths of the stem's channels: together they have at most 15 % of the
    /// backbone's parameters.
    fn cell_widths(&self) -> &'static [usize];

    /// Records the stem on `images` `[n, h, w, 3]`.
    ///
    /// # Errors
    /// `images` do not have 3 channels or are too small, or a batch normalisation has a single value per channel in training.
    fn stem(&self, g: &mut Graph, store: &Store, images: Var) -> Result<Var>;

    /// Records a stage on the output `x` of the one before, or of the stem.
    ///
    /// # Errors
    /// `x` has other channels than the stage takes or is too small, or a batch normalisation has a single value per channel in training.
    fn stage(&self, stage: usize, g: &mut Graph, store: &Store, x: Var) -> Result<Var>;

    /// Records the whole backbone on `images` `[n, h, w, 3]`, and returns the feature map after the last stage.
    ///
    /// # Errors
    /// As [`StagedBackbone::stem`] and [`StagedBackbone::stage`].
    fn features(&self, g: &mut Graph, store: &Store, images: Var) -> Result<Var> {
        let stem = self.stem(g, store, images)?;
        (1..=self.stages()).try_fold(stem, |x, stage| self.stage(stage, g, store, x))
    }
}
