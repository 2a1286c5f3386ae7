//! The PTL branch for any backbone in stages: BConv-Cells beside the stages, as in MGN_PTL (Yu et al., 2019, fig. 3).
//!
//! ```text
//! image ─ bconv1 ─ bconv2 ─┐                 (stride 2 each; with the stem for small images 1)
//! stem ────────────────────┴ fuse1 ─ bconv3 ─┐
//! layer1 ────────────────────────────────────┴ fuse2 ─ bconv4 ─┐
//! layer2 ──────────────────────────────────────────────────────┴ fuse3 ─ bconv5 ─┐
//! layer3 ────────────────────────────────────────────────────────────────────────┴ fuse4 ─ bconv6 ─ pool ─ [backbone, cell]
//! ```
//! `fuse` = 1x1 convolution with bias, BN, ReLU of `[cell, stage]` (fuse1) or `[stage, cell]` (the others). The backbone's own
//! path is unchanged. With fewer stages, the branch starts from the feature map before its first stage and skips stages that are not
//! chosen; its last cell is pooled.

use super::{BConvCell, Fuse, GlobalPool, Pool, ResidualBlock, Scope, StagedBackbone};
use crate::base::settings::{AVERAGED_STATES, BRANCH, CELL_WIDTHS, CELLS, ON_IMAGES, choice, settings};
use crate::engine::graph::{Graph, Var};
use crate::engine::latent_state::{EvalState, StateForm, StateInit, StatePolicy};
use crate::engine::op;
use crate::engine::store::{Group, Store};
use crate::{Error, Result};

settings! {
    /// `[ptl]`: the BConv-Cells: where they are, how wide, and what becomes of their latent states.
    pub struct PtlOptions in "ptl", "BConv-Cells" {
        /// Stages (1 to 4, to 3 for cifar-* and osnet-*) with a BConv-Cell beside them (all for mgn*).
        #[setting(flag("ptl-stages").needs(&[BRANCH]).of_network())]
        pub stages: Vec<usize> = vec![1, 2, 3, 4], ThreeStages => vec![1, 2, 3];
        /// Width of cells and fuse modules, relative to the default.
        #[setting(flag("cell-width").above(0.0).at_most(16.0).needs(&[BRANCH, CELL_WIDTHS]).of_network())]
        pub cell_width: f32 = 1.0;
        /// Channels of the cell beside each of --ptl-stages, and of the fuse module before it (not for mgn*); empty: by --cell-width.
        #[setting(flag("cell-channels").needs(&[BRANCH]).of_network())]
        pub cell_channels: Vec<usize> = Vec::new();
        /// What the branch consists of: BConv-Cells, or residual blocks with as many operations and without a state, for comparison (not for
        /// mgn*).
        #[setting(flag("ptl-block").needs(&[BRANCH]).of_network())]
        pub block: BranchBlock = BranchBlock::BConv;
        /// When training resets the latent states: at each epoch's start (carry), never (carry-epochs), or at every step (reset).
        #[setting(flag("state-policy").needs(&[CELLS]))]
        pub state_policy: StatePolicy = StatePolicy::Carry;
        /// What a latent state starts the next step from: its slots as published, the slots in a random order (permuted), the mean over slots,
        /// a running average of that mean (average) or of the mean over slots and pixels (channel-average), or a running average of the states
        /// of the slot's own identity or class (class).
        #[setting(flag("state-form").needs(&[CELLS]))]
        pub state_form: StateForm = StateForm::Slots;
        /// Steps of the latent states within a batch: parts of the batch follow one another, and gradients flow back from each to those before it.
        #[setting(flag("state-steps").at_least(1.0).needs(&[CELLS]))]
        pub state_steps: usize = 1;
        /// The share that a running average takes of each batch, for --state-form average, channel-average and class.
        #[setting(flag("state-rate").above(0.0).at_most(1.0).needs(&[CELLS, AVERAGED_STATES]))]
        pub state_rate: f32 = 0.1;
        /// What evaluation starts from: zeros, the mean of the last training state, or seeded noise (normal).
        #[setting(flag("eval-state").needs(&[CELLS]).taken_by(ON_IMAGES))]
        pub eval_state: EvalState = EvalState::Zeros;
        /// What a latent state holds after a reset: zeros, or seeded noise (normal).
        #[setting(flag("state-init").needs(&[CELLS]))]
        pub state_init: StateInit = StateInit::Zeros;
    }
}

choice! {
    /// What a PTL branch consists of.
    pub enum BranchBlock {
        /// BConv-Cells.
        #[default]
        BConv = "bconv",
        /// Residual blocks with as many operations, and without a state: the control that shows what the branch does without gates.
        Residual = "residual",
    }
}

/// Records `backbone` and its feature map, pooled by `pool`, `[n, 1, 1, c]`. With a branch, appends the output of its last cell, which the branch's
/// own pooling pools.
pub(super) fn pooled(
    backbone: &dyn StagedBackbone,
    branch: Option<&PtlBranch>,
    pool: &GlobalPool,
    g: &mut Graph,
    store: &Store,
    images: Var,
) -> Result<Var> {
    let Some(branch) = branch else {
        let x = backbone.features(g, store, images)?;
        return pool.forward(g, store, x);
    };
    let (x, cell) = branch.forward(g, store, backbone, images)?;
    let (x, cell) = (pool.forward(g, store, x)?, branch.pool.forward(g, store, cell)?);
    op::concat(g, &[x, cell])
}

/// A cell, or what takes its place.
#[derive(Clone, Debug)]
enum Cell {
    BConv(BConvCell),
    Residual(Box<ResidualBlock>),
}

impl Cell {
    /// Registers a cell with 3x3 kernels; `sizes` are input and output channels.
    fn new(block: BranchBlock, scope: &mut Scope<'_>, sizes: [usize; 2], stride: usize) -> Cell {
        match block {
            BranchBlock::BConv => Cell::BConv(BConvCell::new(scope, sizes, 3, stride, 1)),
            BranchBlock::Residual => Cell::Residual(Box::new(ResidualBlock::new(scope, sizes, stride))),
        }
    }

    fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        match self {
            Cell::BConv(cell) => cell.forward(g, store, x),
            Cell::Residual(block) => block.forward(g, store, x),
        }
    }

    fn out_channels(&self) -> usize {
        match self {
            Cell::BConv(cell) => cell.out_channels,
            Cell::Residual(block) => block.out_channels,
        }
    }
}

/// A cell beside a stage, and the fuse module that joins it with the stage's output (none after the last cell).
#[derive(Clone, Debug)]
struct Beside {
    stage: usize,
    cell: Cell,
    fuse: Option<Fuse>,
}

/// The branch's modules.
#[derive(Clone, Debug)]
pub struct PtlBranch {
    /// bconv1, bconv2 and fuse1, if there is a cell beside stage 1.
    entry: Option<(Cell, Cell, Fuse)>,
    cells: Vec<Beside>,
    pool: GlobalPool,
}

impl PtlBranch {
    /// Registers the branch for a backbone; `pool` pools its last cell, whose values have both signs: by its average instead of a generalised mean,
    /// which has no place for negative values. Parameters belong to the group [`Group::Ptl`].
    ///
    /// # Errors
    /// [`Error::Setting`]: there is no stage, a stage is unknown, or stages are not in order; there is not one number of cell channels
    /// for each stage; or the cell width is not positive.
    pub fn new(scope: Scope<'_>, backbone: &dyn StagedBackbone, config: &PtlOptions, pool: Pool) -> Result<PtlBranch> {
        let stages = &config.stages;
        let last = backbone.stages();
        let ordered = stages.windows(2).all(|w| w[0] < w[1]) && stages.iter().all(|s| (1..=last).contains(s));
        if stages.is_empty() || !ordered {
            return Err(Error::Setting {
                setting: "ptl.stages".into(),
                value: format!("{stages:?}"),
                reason: format!("give stages from 1 to {last} in ascending order, at least one"),
            });
        }
        let named = &config.cell_channels;
        if !named.is_empty() && (named.len() != stages.len() || named.contains(&0)) {
            return Err(Error::Setting {
                setting: "ptl.cell_channels".into(),
                value: format!("{named:?}"),
                reason: format!("name a number of channels for each of the stages {stages:?}"),
            });
        }
        if !(config.cell_width > 0.0 && config.cell_width.is_finite()) {
            return Err(Error::Setting {
                setting: "ptl.cell_width".into(),
                value: config.cell_width.to_string(),
                reason: "must be a positive number".into(),
            });
        }
        let mut scope = scope.in_group(Group::Ptl);
        // Channels are in 64ths of the backbone's stem width, so that the branch has the same share of parameters at any width.
        let channels = |sixty_fourths: usize| {
            let exact = (backbone.stem_channels() * sixty_fourths) as f32 / 64.0 * config.cell_width;
            (exact.round() as usize).max(1)
        };
        // Channels of the fuse module before a stage, and of the cell beside it.
        let stage_width = |stage: usize| match stages.iter().zip(named).find(|(s, _)| **s == stage) {
            Some((_, &named)) => named,
            None => channels(backbone.cell_widths()[stage - 1]),
        };
        let stride = if backbone.stem_stride() == 4 { 2 } else { 1 };

        let mut z = backbone.stem_channels();
        let mut entry = None;
        if stages[0] == 1 {
            let [first, second] = [channels(16), channels(32)];
            entry = Some((
                Cell::new(config.block, &mut scope.child("bconv1"), [3, first], stride),
                Cell::new(config.block, &mut scope.child("bconv2"), [first, second], stride),
                Fuse::new(&mut scope.child("fuse1"), [second + backbone.stem_channels(), stage_width(1)]),
            ));
            z = stage_width(1);
        } else if stages[0] > 1 {
            z = backbone.stage_channels(stages[0] - 1);
        }

        let mut cells = Vec::new();
        let mut reached = stages[0] - 1; // the stage whose resolution z has
        for (i, &stage) in stages.iter().enumerate() {
            let stride = (reached + 1..=stage).map(|s| backbone.stage_stride(s)).product();
            let name = format!("bconv{}", stage + 2);
            let cell = Cell::new(config.block, &mut scope.child(name), [z, stage_width(stage)], stride);
            let fuse = (i + 1 < stages.len()).then(|| {
                let output = stage_width(stage + 1);
                let fuse = Fuse::new(
                    &mut scope.child(format!("fuse{}", stage + 1)),
                    [backbone.stage_channels(stage) + cell.out_channels(), output],
                );
                z = output;
                fuse
            });
            cells.push(Beside { stage, cell, fuse });
            reached = stage;
        }
        let pool = if pool == Pool::Gem { Pool::Avg } else { pool };
        let pool = GlobalPool::new(&mut scope.child("pool"), pool);
        Ok(PtlBranch { entry, cells, pool })
    }

    /// Returns the channels of the last cell.
    pub fn out_channels(&self) -> usize {
        self.cells.last().map_or(0, |c| c.cell.out_channels())
    }

    /// Records backbone and branch on `images` `[n, h, w, 3]`. Returns the feature map after the last stage, and the last cell's output.
    ///
    /// # Errors
    /// The image size does not fit.
    pub fn forward(
        &self,
        g: &mut Graph,
        store: &Store,
        backbone: &dyn StagedBackbone,
        images: Var,
    ) -> Result<(Var, Var)> {
        let mut x = backbone.stem(g, store, images)?;
        let mut z = x;
        if let Some((first, second, fuse)) = &self.entry {
            let b = first.forward(g, store, images)?;
            let b = second.forward(g, store, b)?;
            z = fuse.forward(g, store, &[b, x])?;
        }
        let mut cells = self.cells.iter().peekable();
        let started = self.cells[0].stage;
        for stage in 1..=backbone.stages() {
            if stage == started && self.entry.is_none() {
                z = x;
            }
            x = backbone.stage(stage, g, store, x)?;
            if let Some(beside) = cells.next_if(|c| c.stage == stage) {
                z = beside.cell.forward(g, store, z)?;
                if let Some(fuse) = &beside.fuse {
                    z = fuse.forward(g, store, &[x, z])?;
                }
            }
        }
        Ok((x, z))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Mode;
    use crate::engine::shape::Shape;
    use crate::nn::{Architecture, Baseline, BaselineConfig, Network, ResNet, ResNetConfig, StemKind};

    fn model(architecture: Architecture, base: usize, ptl: Option<PtlOptions>) -> (Baseline, Store) {
        let stem = StemKind::Imagenet;
        let config = BaselineConfig {
            architecture,
            ibn: None,
            base,
            stem,
            last_stride: 1,
            embedding: 0,
            pool: Pool::Avg,
            ptl,
            classes: 751,
            logit_scale: None,
        };
        let mut store = Store::new();
        (Baseline::new(&mut store, &config, 0).unwrap(), store)
    }

    #[test]
    fn the_default_branch_adds_at_most_15_percent_of_parameters() {
        for architecture in Architecture::ALL {
            for base in [64, 16] {
                let count = |ptl| model(architecture, base, ptl).1.count(None) as f64;
                let stages = (1..=architecture.stages()).collect();
                let share = count(Some(PtlOptions { stages, ..PtlOptions::default() })) / count(None) - 1.0;
                println!("{}, stem of {base}: {:.1} %", architecture.name(), 100.0 * share);
                assert!(share > 0.0 && share <= 0.15, "{}, stem of {base}: {share}", architecture.name());
            }
        }
    }

    #[test]
    fn cells_sit_where_they_are_named() {
        for (stages, cells) in [(vec![1, 2, 3, 4], 6), (vec![1], 3), (vec![3], 1), (vec![2, 4], 2), (vec![3, 4], 2)] {
            let ptl = PtlOptions { stages: stages.clone(), cell_width: 0.5, ..PtlOptions::default() };
            let (model, store) = model(Architecture::ResNet18, 8, Some(ptl));
            let mut graph = Graph::new(Mode::Train);
            let images = graph.input(Shape::new(2, 64, 32, 3));
            let output = model.forward(&mut graph, &store, images).unwrap();
            assert_eq!(graph.states().len(), cells, "{stages:?}");
            let last = graph.states().last().unwrap();
            assert_eq!(graph.shape(output.embeddings[0]).c, 64 + last.slot.c, "{stages:?}");
            let named: Vec<String> = stages.iter().map(|s| format!("ptl.bconv{}", s + 2)).collect();
            assert!(named.iter().all(|name| graph.states().iter().any(|s| s.name.contains(name))), "{stages:?}");
        }
    }

    #[test]
    fn residual_blocks_have_the_operations_of_cells_and_no_state() {
        let flops = |block| {
            let ptl = PtlOptions { block, ..PtlOptions::default() };
            let (model, store) = self::model(Architecture::ResNet18, 64, Some(ptl));
            let mut graph = Graph::new(Mode::Train);
            let images = graph.input(Shape::new(2, 64, 32, 3));
            model.forward(&mut graph, &store, images).unwrap();
            (graph.flops() as f64, graph.states().len())
        };
        let (cells, states) = flops(BranchBlock::BConv);
        let (blocks, none) = flops(BranchBlock::Residual);
        assert!((blocks / cells - 1.0).abs() < 0.01, "{blocks} and {cells}");
        assert_eq!((states, none), (6, 0));
    }

    #[test]
    fn stages_that_make_no_branch_are_refused() {
        let (architecture, stem) = (Architecture::ResNet18, StemKind::Imagenet);
        let config = ResNetConfig { architecture, ibn: None, base: 8, stem, last_stride: 2, classes: None };
        let backbone = ResNet::new(Scope::root(&mut Store::new(), 0), config);
        for (stages, cell_width) in [(vec![], 1.0), (vec![2, 1], 1.0), (vec![5], 1.0), (vec![1], 0.0)] {
            let mut store = Store::new();
            let config = PtlOptions { stages, cell_width, ..PtlOptions::default() };
            assert!(PtlBranch::new(Scope::root(&mut store, 0), &backbone, &config, Pool::Avg).is_err(), "{config:?}");
        }
    }
}
