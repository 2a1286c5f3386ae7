//! OSNet (Zhou et al., 2019) with torchreid's names: residual blocks of four streams with receptive fields of 3, 5, 7 and 9 pixels, which one
//! gate weighs channel by channel.
//!
//! Names: `conv1` (the stem) to `conv5`, `fc` (the embedding: linear, BN, ReLU), `classifier`; `ptl.*`. With PTL, the input of `fc` is
//! `[backbone, cell]`, so its weight is longer.

use super::{
    BatchNorm2d, Conv2d, DepthwiseConv2d, GlobalPool, Head, Init, Linear, Network, Outputs, Pool, PtlBranch,
    PtlOptions, Scope, StagedBackbone, Stem, StemKind,
};
use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::op;
use crate::engine::store::{Group, Layout, Store};
use crate::io::checkpoint::TensorNames;

/// Length of the embedding as published, at every width of the network.
const EMBEDDING: usize = 512;
/// Channels at the ends of the stages, in multiples of the stem's.
pub(super) const STAGES: [usize; 3] = [4, 6, 8];

/// Returns the stride from images to the feature map: the first two stages end by halving it.
pub(super) fn total_stride(stem: StemKind) -> usize {
    stem.stride() * 4
}

/// Configuration of an OSNet.
#[derive(Clone, Debug)]
pub struct OsNetConfig {
    /// Channels of the stem; as published 64, 48, 32 or 16.
    pub base: usize,
    /// How images enter it.
    pub stem: StemKind,
    /// Length of the embedding; 0 for 512 as published.
    pub embedding: usize,
    /// How the feature map becomes a vector; by its mean as published.
    pub pool: Pool,
    /// The PTL branch, if any.
    pub ptl: Option<PtlOptions>,
    /// Number of training identities, or of classes.
    pub classes: usize,
    /// The factor of the cosines, if logits are cosines ([`Head`]).
    pub logit_scale: Option<f32>,
    /// Whether the embedding is trained by triplet losses too, for re-identification.
    pub triplets: bool,
}

/// A 1x1 convolution and its BN; a ReLU follows, unless it is linear.
#[derive(Clone, Debug)]
struct Conv1x1 {
    conv: Conv2d,
    bn: BatchNorm2d,
}

impl Conv1x1 {
    fn new(scope: &mut Scope<'_>, sizes: [usize; 2]) -> Conv1x1 {
        let conv = Conv2d::new(&mut scope.child("conv"), sizes, 1, 1, 0, Init::KaimingFanOut);
        Conv1x1 { conv, bn: BatchNorm2d::new(&mut scope.child("bn"), sizes[1]) }
    }

    fn forward_relu(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        let x = self.conv.forward(g, store, x)?;
        self.bn.forward_relu(g, store, x)
    }

    fn forward_linear(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        let x = self.conv.forward(g, store, x)?;
        self.bn.forward(g, store, x)
    }
}

/// A 1x1 and a depthwise 3x3 convolution in the place of a full 3x3 one, then BN and ReLU.
#[derive(Clone, Debug)]
struct LightConv3x3 {
    conv1: Conv2d,
    conv2: DepthwiseConv2d,
    bn: BatchNorm2d,
}

impl LightConv3x3 {
    fn new(scope: &mut Scope<'_>, channels: usize) -> LightConv3x3 {
        let conv1 = Conv2d::new(&mut scope.child("conv1"), [channels; 2], 1, 1, 0, Init::KaimingFanOut);
        let conv2 = DepthwiseConv2d::new(&mut scope.child("conv2"), channels, Init::KaimingFanOut);
        LightConv3x3 { conv1, conv2, bn: BatchNorm2d::new(&mut scope.child("bn"), channels) }
    }

    fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        let x = self.conv1.forward(g, store, x)?;
        let x = self.conv2.forward(g, store, x)?;
        self.bn.forward_relu(g, store, x)
    }
}

/// Multiplies each channel by a gate that follows from the means of all channels.
#[derive(Clone, Debug)]
struct ChannelGate {
    fc1: Conv2d,
    fc2: Conv2d,
}

impl ChannelGate {
    fn new(scope: &mut Scope<'_>, channels: usize) -> ChannelGate {
        let hidden = (channels / 16).max(1);
        let mut fc = |name: &str, sizes: [usize; 2]| {
            let mut scope = scope.child(name);
            let mut conv = Conv2d::new(&mut scope, sizes, 1, 1, 0, Init::KaimingFanOut);
            conv.bias = Some(scope.param("bias", &[sizes[1]], Layout::Plain, Init::Constant(0.0)));
            conv
        };
        ChannelGate { fc1: fc("fc1", [channels, hidden]), fc2: fc("fc2", [hidden, channels]) }
    }

    fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        let means = op::global_avg_pool(g, x)?;
        let hidden = self.fc1.forward(g, store, means)?;
        let hidden = op::relu(g, hidden)?;
        let gates = self.fc2.forward(g, store, hidden)?;
        op::channel_gate(g, x, gates)
    }
}

/// A residual block.
#[derive(Clone, Debug)]
struct OsBlock {
    conv1: Conv1x1,
    /// conv2a to conv2d: 1 to 4 light convolutions.
    streams: Vec<Vec<LightConv3x3>>,
    gate: ChannelGate,
    conv3: Conv1x1,
    downsample: Option<Conv1x1>,
}

impl OsBlock {
    /// Registers a block; `sizes` are input and output channels.
    fn new(scope: &mut Scope<'_>, sizes: [usize; 2]) -> OsBlock {
        let [input, output] = sizes;
        let width = (output / 4).max(1);
        let conv1 = Conv1x1::new(&mut scope.child("conv1"), [input, width]);
        let stream = |(i, name): (usize, &str)| match i {
            // The first stream is no list.
            0 => vec![LightConv3x3::new(&mut scope.child(name), width)],
            _ => (0..=i).map(|n| LightConv3x3::new(&mut scope.child(format!("{name}.{n}")), width)).collect(),
        };
        let streams = ["conv2a", "conv2b", "conv2c", "conv2d"].into_iter().enumerate().map(stream).collect();
        let gate = ChannelGate::new(&mut scope.child("gate"), width);
        let conv3 = Conv1x1::new(&mut scope.child("conv3"), [width, output]);
        let downsample = (input != output).then(|| Conv1x1::new(&mut scope.child("downsample"), sizes));
        OsBlock { conv1, streams, gate, conv3, downsample }
    }

    fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        let shared = self.conv1.forward_relu(g, store, x)?;
        let mut sum = None;
        for stream in &self.streams {
            let y = stream.iter().try_fold(shared, |y, conv| conv.forward(g, store, y))?;
            let y = self.gate.forward(g, store, y)?;
            sum = Some(match sum {
                Some(sum) => op::add(g, sum, y)?,
                None => y,
            });
        }
        let y = self.conv3.conv.forward(g, store, sum.expect("four streams"))?;
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward_linear(g, store, x)?,
            None => x,
        };
        self.conv3.bn.forward_residual_relu(g, store, y, shortcut)
    }
}

/// conv2, conv3 or conv4: two blocks and what follows them.
#[derive(Clone, Debug)]
struct Stage {
    blocks: [OsBlock; 2],
    /// The convolution before the average pooling that ends the first two stages, or conv5, which follows the last one.
    last: Conv1x1,
    halves: bool,
}

/// What images pass before pooling.
#[derive(Clone, Debug)]
struct OsNetBackbone {
    base: usize,
    stem_kind: StemKind,
    stem: Stem,
    stages: Vec<Stage>,
}

impl OsNetBackbone {
    fn new(scope: Scope<'_>, base: usize, stem: StemKind) -> OsNetBackbone {
        let mut scope = scope.in_group(Group::Backbone);
        let stem_kind = stem;
        let stem = Stem::new(&mut scope, ["conv1.conv", "conv1.bn"], stem_kind, base, None);
        let mut input = base;
        let mut stages = Vec::new();
        for (i, multiple) in STAGES.into_iter().enumerate() {
            let (output, halves) = (base * multiple, i < 2);
            let name = |part: usize| format!("conv{}.{part}", i + 2);
            let mut block =
                |part: usize, input: usize| OsBlock::new(&mut scope.child(name(part)).at_stage(i + 1), [input, output]);
            let blocks = [block(0, input), block(1, output)];
            let last = if halves { name(2) + ".0" } else { "conv5".into() };
            let last = Conv1x1::new(&mut scope.child(last).at_stage(i + 1), [output; 2]);
            stages.push(Stage { blocks, last, halves });
            input = output;
        }
        OsNetBackbone { base, stem_kind, stem, stages }
    }
}

impl StagedBackbone for OsNetBackbone {
    fn stages(&self) -> usize {
        STAGES.len()
    }

    fn stem_channels(&self) -> usize {
        self.base
    }

    fn stem_stride(&self) -> usize {
        self.stem_kind.stride()
    }

    fn stage_channels(&self, stage: usize) -> usize {
        self.base * STAGES[stage - 1]
    }

    fn stage_stride(&self, stage: usize) -> usize {
        if self.stages[stage - 1].halves { 2 } else { 1 }
    }

    fn cell_widths(&self) -> &'static [usize] {
        &[32, 48, 48]
    }

    fn stem(&self, g: &mut Graph, store: &Store, images: Var) -> Result<Var> {
        self.stem.forward(g, store, images)
    }

    fn stage(&self, stage: usize, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        let Stage { blocks, last, halves } = &self.stages[stage - 1];
        let x = blocks.iter().try_fold(x, |x, block| block.forward(g, store, x))?;
        let x = last.forward_relu(g, store, x)?;
        if *halves { op::avg_pool2d(g, x, [2, 2], [2, 2], [0, 0]) } else { Ok(x) }
    }
}

/// The modules of an OSNet.
#[derive(Clone, Debug)]
pub struct OsNet {
    backbone: OsNetBackbone,
    ptl: Option<PtlBranch>,
    fc: (Linear, BatchNorm2d),
    classifier: Head,
    pool: GlobalPool,
    triplets: bool,
}

impl OsNet {
    /// Registers the network in `store` with initial values drawn from `seed`.
    ///
    /// # Errors
    /// The settings of the PTL branch do not fit the three stages.
    pub fn new(store: &mut Store, config: &OsNetConfig, seed: u64) -> Result<OsNet> {
        let backbone = OsNetBackbone::new(Scope::root(store, seed), config.base, config.stem);
        let mut root = Scope::root(store, seed);
        let ptl = config.ptl.as_ref().map(|ptl| PtlBranch::new(root.child("ptl"), &backbone, ptl, config.pool));
        let ptl = ptl.transpose()?;
        let pool = GlobalPool::new(&mut root.child("pool"), config.pool);
        let pooled = backbone.stage_channels(STAGES.len()) + ptl.as_ref().map_or(0, PtlBranch::out_channels);
        let dim = if config.embedding == 0 { EMBEDDING } else { config.embedding };
        let init = Init::Normal { mean: 0.0, std: 0.01 };
        let linear = Linear::new(&mut root.child("fc.0"), [pooled, dim], true, init);
        let fc = (linear, BatchNorm2d::new(&mut root.child("fc.1"), dim));
        let sizes = [dim, config.classes];
        let classifier = Head::new(&mut root.child("classifier"), sizes, true, init, config.logit_scale);
        Ok(OsNet { backbone, ptl, fc, classifier, pool, triplets: config.triplets })
    }
}

impl Network for OsNet {
    fn forward(&self, g: &mut Graph, store: &Store, images: Var) -> Result<Outputs> {
        let pooled = super::ptl::pooled(&self.backbone, self.ptl.as_ref(), &self.pool, g, store, images)?;
        let embedding = self.fc.0.forward(g, store, pooled)?;
        let feature = self.fc.1.forward_relu(g, store, embedding)?;
        let logits = self.classifier.forward(g, store, feature)?;
        let embeddings = if self.triplets { vec![feature] } else { Vec::new() };
        Ok(Outputs { embeddings, logits: vec![logits], feature })
    }
}

impl TensorNames for OsNet {
    fn pretrained_names(&self, name: &str) -> Vec<String> {
        vec![name.into()]
    }

    fn is_backbone(&self, name: &str) -> bool {
        name.starts_with("conv")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the parameters of a network without those of its classifier.
    fn parameters(base: usize) -> usize {
        let (stem, pool) = (StemKind::Imagenet, Pool::Avg);
        let (ptl, logit_scale, triplets) = (None, None, true);
        let config = OsNetConfig { base, stem, embedding: 0, pool, ptl, classes: 751, logit_scale, triplets };
        let mut store = Store::of_shapes();
        OsNet::new(&mut store, &config, 0).unwrap();
        let own = store.params.iter().filter(|param| !param.name.starts_with("classifier."));
        own.map(|param| param.range.len()).sum()
    }

    /// As torchreid's four networks have them. Its own count for the first is 2,193,616, because it counts a block's gate once for each of the
    /// four streams.
    #[test]
    fn the_published_widths_have_the_published_parameters() {
        let counts = [64, 48, 32, 16].map(parameters);
        assert_eq!(counts, [2_169_508, 1_285_754, 630_034, 201_864]);
        let gate = |width: usize| 2 * width * (width / 16) + width / 16 + width;
        let counted_again: usize = [64, 96, 128].map(|width| 2 * 3 * gate(width)).iter().sum();
        assert_eq!(counts[0] + counted_again, 2_193_616);
    }
}
