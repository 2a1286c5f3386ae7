//! ResNet-18/34/50/101 (He et al., 2016) with torchvision's names and its stride on the bottleneck's 3x3, and the same authors'
//! ResNet-20/32/56 for CIFAR under the same names (a 1x1 convolution where a shortcut changes its shape); the former also as [`Ibn`]-Nets.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::{BatchNorm2d, Conv2d, FirstNorm, Ibn, Init, InstanceNorm2d, Linear, Scope, StagedBackbone};
use crate::base::settings::choice;
use crate::engine::graph::{Graph, Var};
use crate::engine::op;
use crate::engine::store::{Group, Store};
use crate::{Error, Result};

/// The ResNets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// ResNet-18: 4 stages of 2 basic blocks each.
    ResNet18,
    /// ResNet-34: 4 stages of 3, 4, 6 and 3 basic blocks.
    ResNet34,
    /// ResNet-50: 4 stages of 3, 4, 6 and 3 bottlenecks.
    ResNet50,
    /// ResNet-101: 4 stages of 3, 4, 23 and 3 bottlenecks.
    ResNet101,
    /// ResNet-20 for images of 32x32 pixels: 3 stages of 3 basic blocks each.
    CifarResNet20,
    /// ResNet-32 for images of 32x32 pixels: 3 stages of 5 basic blocks each.
    CifarResNet32,
    /// ResNet-56 for images of 32x32 pixels: 3 stages of 9 basic blocks each.
    CifarResNet56,
}

impl Architecture {
    /// All ResNets.
    pub const ALL: [Architecture; 7] = [
        Architecture::ResNet18,
        Architecture::ResNet34,
        Architecture::ResNet50,
        Architecture::ResNet101,
        Architecture::CifarResNet20,
        Architecture::CifarResNet32,
        Architecture::CifarResNet56,
    ];

    /// Returns the number of blocks in each stage.
    pub fn blocks(self) -> &'static [usize] {
        match self {
            Architecture::ResNet18 => &[2, 2, 2, 2],
            Architecture::ResNet34 | Architecture::ResNet50 => &[3, 4, 6, 3],
            Architecture::ResNet101 => &[3, 4, 23, 3],
            Architecture::CifarResNet20 => &[3, 3, 3],
            Architecture::CifarResNet32 => &[5, 5, 5],
            Architecture::CifarResNet56 => &[9, 9, 9],
        }
    }

    /// Returns the number of stages: 4, or 3 for CIFAR.
    pub fn stages(self) -> usize {
        self.blocks().len()
    }

    /// Returns the channels of the stem as published.
    pub fn base(self) -> usize {
        if self.for_small_images() { 16 } else { 64 }
    }

    /// Returns whether it is made for images of 32x32 pixels.
    pub(crate) fn for_small_images(self) -> bool {
        self.stages() == 3
    }

    /// Returns whether it has 1x1-3x3-1x1 blocks, with four times the channels at their end.
    pub fn bottleneck(self) -> bool {
        matches!(self, Architecture::ResNet50 | Architecture::ResNet101)
    }

    /// Returns the name, such as `resnet50`.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::ResNet18 => "resnet18",
            Architecture::ResNet34 => "resnet34",
            Architecture::ResNet50 => "resnet50",
            Architecture::ResNet101 => "resnet101",
            Architecture::CifarResNet20 => "cifar-resnet20",
            Architecture::CifarResNet32 => "cifar-resnet32",
            Architecture::CifarResNet56 => "cifar-resnet56",
        }
    }
}

choice! {
    /// How images enter a ResNet.
    pub enum StemKind {
        /// 7x7 convolution of stride 2, 3x3 max pool of stride 2.
        #[default]
        Imagenet = "imagenet",
        /// 3x3 convolution of stride 1.
        Cifar = "cifar",
    }
}

impl StemKind {
    /// Returns the stride from images to the first stage.
    pub fn stride(self) -> usize {
        match self {
            StemKind::Imagenet => 4,
            StemKind::Cifar => 1,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Architecture {
    type Err = Error;

    fn from_str(name: &str) -> Result<Architecture> {
        let found = Architecture::ALL.into_iter().find(|a| a.name() == name);
        found.ok_or_else(|| Error::Setting {
            setting: "model.arch".into(),
            value: name.into(),
            reason: "no ResNet of that name".into(),
        })
    }
}

/// Geometry of a ResNet.
#[derive(Clone, Copy, Debug)]
pub struct ResNetConfig {
    /// Which ResNet.
    pub architecture: Architecture,
    /// Where it normalises by image, if it does.
    pub ibn: Option<Ibn>,
    /// Channels of the stem: as published 64, or 16 for CIFAR. The stages have 1, 2, 4 and 8 times as many; bottlenecks end with four times
    /// these.
    pub base: usize,
    /// How images enter it.
    pub stem: StemKind,
    /// Stride of the last stage: 2 as published, 1 keeps a larger map, as is usual in re-identification.
    pub last_stride: usize,
    /// Outputs of a classifier `fc`, which checkpoints contain but nothing uses; `None` for no `fc`.
    pub classes: Option<usize>,
}

impl ResNetConfig {
    /// Returns the channels of the feature map.
    pub fn out_channels(&self) -> usize {
        self.stage_channels(self.architecture.stages())
    }

    /// Returns the channels at the end of a stage (`stage` counts from 1).
    pub(crate) fn stage_channels(&self, stage: usize) -> usize {
        (self.base << (stage - 1)) * if self.architecture.bottleneck() { 4 } else { 1 }
    }

    /// Returns the input channels of a stage.
    pub(crate) fn stage_input(&self, stage: usize) -> usize {
        if stage == 1 { self.base } else { self.stage_channels(stage - 1) }
    }

    /// Returns the stride of a stage.
    pub(crate) fn stage_stride(&self, stage: usize) -> usize {
        match stage {
            1 => 1,
            last if last == self.architecture.stages() => self.last_stride,
            _ => 2,
        }
    }

    /// Returns the stride from images to the feature map.
    pub(crate) fn total_stride(&self) -> usize {
        self.stem.stride() * (1..=self.architecture.stages()).map(|s| self.stage_stride(s)).product::<usize>()
    }
}

/// A residual block: `BasicBlock` or `Bottleneck` of torchvision.
#[derive(Clone, Debug)]
pub struct Block {
    first: (Conv2d, FirstNorm),
    /// conv2 and, in a bottleneck, conv3; each with its BN.
    others: Vec<(Conv2d, BatchNorm2d)>,
    /// The normalisation of the sum with the shortcut, in an IBN-b.
    instance: Option<InstanceNorm2d>,
    downsample: Option<(Conv2d, BatchNorm2d)>,
}

impl Block {
    /// Registers a block; `sizes` are input channels and width (a bottleneck has four times the width at its end). `ibn` is the kind
    /// of IBN-Net that the block itself belongs to.
    pub fn new(scope: &mut Scope<'_>, bottleneck: bool, sizes: [usize; 2], stride: usize, ibn: Option<Ibn>) -> Block {
        let [input, width] = sizes;
        let output = if bottleneck { 4 * width } else { width };
        let conv = |scope: &mut Scope<'_>, number: usize, sizes, k, stride| {
            Conv2d::new(&mut scope.child(format!("conv{number}")), sizes, k, stride, k / 2, Init::KaimingFanOut)
        };
        let conv1 = match bottleneck {
            true => conv(scope, 1, [input, width], 1, 1),
            false => conv(scope, 1, [input, width], 3, stride),
        };
        let first = (conv1, FirstNorm::of_block(&mut scope.child("bn1"), ibn, width));
        // (output, kernel, stride)
        let plan: &[(usize, usize, usize)] =
            if bottleneck { &[(width, 3, stride), (output, 1, 1)] } else { &[(width, 3, 1)] };
        let other = |(i, &(to, k, stride)): (usize, &(usize, usize, usize))| {
            let number = i + 2;
            let conv = conv(scope, number, [width, to], k, stride);
            (conv, BatchNorm2d::new(&mut scope.child(format!("bn{number}")), to))
        };
        let others = plan.iter().enumerate().map(other).collect();
        let instance = (ibn == Some(Ibn::B)).then(|| InstanceNorm2d::new(&mut scope.child("IN"), output));
        let downsample = (stride != 1 || input != output).then(|| {
            let mut scope = scope.child("downsample");
            let conv = Conv2d::new(&mut scope.child(0), [input, output], 1, stride, 0, Init::KaimingFanOut);
            (conv, BatchNorm2d::new(&mut scope.child(1), output))
        });
        Block { first, others, instance, downsample }
    }

    /// Records the block on `x` `[n, h, w, in]`.
    ///
    /// # Errors
    /// `x` has other channels than the weights, a batch normalisation has a single value per channel in training, or an instance normalisation
    /// has one per channel and image.
    pub fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        let shortcut = match &self.downsample {
            Some((conv, bn)) => {
                let y = conv.forward(g, store, x)?;
                bn.forward(g, store, y)?
            }
            None => x,
        };
        let (conv, norm) = &self.first;
        let y = conv.forward(g, store, x)?;
        let mut y = norm.forward_relu(g, store, y)?;
        for (i, (conv, bn)) in self.others.iter().enumerate() {
            y = conv.forward(g, store, y)?;
            let is_last = i + 1 == self.others.len();
            y = match &self.instance {
                _ if !is_last => bn.forward_relu(g, store, y)?,
                None => bn.forward_residual_relu(g, store, y, shortcut)?,
                Some(norm) => {
                    let sum = bn.forward_residual(g, store, y, shortcut)?;
                    norm.forward_relu(g, store, sum)?
                }
            };
        }
        Ok(y)
    }
}

/// One of `layer1` to `layer4`, or a part of it.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its blocks, in the order in which they run.
    pub blocks: Vec<Block>,
}

impl Stage {
    /// Registers the blocks `range` of stage `number` (from 1), named from 0 on.
    pub fn new(scope: &mut Scope<'_>, config: &ResNetConfig, number: usize, range: Range<usize>) -> Stage {
        let width = config.base << (number - 1);
        let first = range.start;
        let block = |b: usize| {
            let (input, stride) = match b {
                0 => (config.stage_input(number), config.stage_stride(number)),
                _ => (config.stage_channels(number), 1),
            };
            let mut scope = scope.child(b - first).at_stage(number);
            let blocks = config.architecture.blocks()[number - 1];
            let ibn = config.ibn.filter(|ibn| ibn.is_in(number, b, blocks));
            Block::new(&mut scope, config.architecture.bottleneck(), [input, width], stride, ibn)
        };
        Stage { blocks: range.map(block).collect() }
    }

    /// Records all blocks on `x` `[n, h, w, in]`.
    ///
    /// # Errors
    /// As [`Block::forward`].
    pub fn forward(&self, g: &mut Graph, store: &Store, mut x: Var) -> Result<Var> {
        for block in &self.blocks {
            x = block.forward(g, store, x)?;
        }
        Ok(x)
    }
}

/// conv1, BN, ReLU and, for large images, max pool: `[n, h, w, 3]` to `[n, h/s, w/s, base]`, s its stride.
#[derive(Clone, Debug)]
pub struct Stem {
    kind: StemKind,
    conv1: Conv2d,
    bn1: FirstNorm,
}

impl Stem {
    /// Registers the stem with `base` channels; `names` are those of the convolution and its normalisation.
    pub fn new(scope: &mut Scope<'_>, names: [&str; 2], kind: StemKind, base: usize, ibn: Option<Ibn>) -> Stem {
        let (k, stride) = match kind {
            StemKind::Imagenet => (7, 2),
            StemKind::Cifar => (3, 1),
        };
        let conv1 = Conv2d::new(&mut scope.child(names[0]), [3, base], k, stride, k / 2, Init::KaimingFanOut);
        Stem { kind, conv1, bn1: FirstNorm::of_stem(&mut scope.child(names[1]), ibn, base) }
    }

    /// Records the stem on `images` `[n, h, w, 3]`; the result has the sides divided by [`StemKind::stride`], rounded up.
    ///
    /// # Errors
    /// `images` do not have 3 channels, or the batch normalisation has a single value per channel in training.
    pub fn forward(&self, g: &mut Graph, store: &Store, images: Var) -> Result<Var> {
        let x = self.conv1.forward(g, store, images)?;
        let x = self.bn1.forward_relu(g, store, x)?;
        match self.kind {
            StemKind::Imagenet => op::max_pool2d(g, x, [3, 3], [2, 2], [1, 1]),
            StemKind::Cifar => Ok(x),
        }
    }
}

/// A ResNet whose stages can be run one by one, so that a PTL branch can run beside them.
#[derive(Clone, Debug)]
pub struct ResNet {
    /// Its geometry.
    pub config: ResNetConfig,
    /// What images pass before the stages.
    pub stem: Stem,
    /// `layer1` and so on.
    pub layers: Vec<Stage>,
}

impl ResNet {
    /// Registers the network; all parameters, including `fc`, belong to the group [`Group::Backbone`].
    pub fn new(scope: Scope<'_>, config: ResNetConfig) -> ResNet {
        let mut scope = scope.in_group(Group::Backbone);
        let stem = Stem::new(&mut scope, ["conv1", "bn1"], config.stem, config.base, config.ibn);
        let blocks = config.architecture.blocks();
        let layer = |(i, &count): (usize, &usize)| {
            Stage::new(&mut scope.child(format!("layer{}", i + 1)), &config, i + 1, 0..count)
        };
        let layers = blocks.iter().enumerate().map(layer).collect();
        if let Some(classes) = config.classes {
            let input = config.out_channels();
            let init = Init::Normal { mean: 0.0, std: 1.0 / (input as f32).sqrt() };
            Linear::new(&mut scope.child("fc"), [input, classes], true, init);
        }
        ResNet { config, stem, layers }
    }
}

impl StagedBackbone for ResNet {
    fn stages(&self) -> usize {
        self.layers.len()
    }

    fn stem_channels(&self) -> usize {
        self.config.base
    }

    fn stem_stride(&self) -> usize {
        self.config.stem.stride()
    }

    fn stage_channels(&self, stage: usize) -> usize {
        self.config.stage_channels(stage)
    }

    fn stage_stride(&self, stage: usize) -> usize {
        self.config.stage_stride(stage)
    }

    fn cell_widths(&self) -> &'static [usize] {
        match self.config.architecture {
            Architecture::CifarResNet20 => &[32, 64, 72],
            Architecture::CifarResNet32 => &[32, 64, 96],
            _ => &[32, 64, 128, 128],
        }
    }

    fn stem(&self, g: &mut Graph, store: &Store, images: Var) -> Result<Var> {
        self.stem.forward(g, store, images)
    }

    fn stage(&self, stage: usize, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        self.layers[stage - 1].forward(g, store, x)
    }
}
