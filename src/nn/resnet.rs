//! ResNet-18/34/50/101 (He et al., 2016) with torchvision's names and its stride on the bottleneck's 3x3.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::{BatchNorm2d, Conv2d, Init, Linear, Scope};
use crate::graph::{Graph, Var};
use crate::op;
use crate::store::{Group, Store};
use crate::{Error, Result};

/// Which ResNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
}

impl Architecture {
    pub const ALL: [Architecture; 4] =
        [Architecture::ResNet18, Architecture::ResNet34, Architecture::ResNet50, Architecture::ResNet101];

    /// Blocks in each stage.
    pub fn blocks(self) -> [usize; 4] {
        match self {
            Architecture::ResNet18 => [2, 2, 2, 2],
            Architecture::ResNet34 | Architecture::ResNet50 => [3, 4, 6, 3],
            Architecture::ResNet101 => [3, 4, 23, 3],
        }
    }

    /// True for 1x1-3x3-1x1 blocks with four times the channels at their end.
    pub fn bottleneck(self) -> bool {
        matches!(self, Architecture::ResNet50 | Architecture::ResNet101)
    }

    pub fn name(self) -> &'static str {
        match self {
            Architecture::ResNet18 => "resnet18",
            Architecture::ResNet34 => "resnet34",
            Architecture::ResNet50 => "resnet50",
            Architecture::ResNet101 => "resnet101",
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
    pub architecture: Architecture,
    /// Channels of the stem; 64 as published, the stages follow (×1, 2, 4, 8).
    pub base: usize,
    /// Stride of the last stage: 2 as published, 1 keeps a larger map, as is usual in re-identification.
    pub last_stride: usize,
    /// A classifier `fc` with this many outputs.
    pub classes: Option<usize>,
}

impl ResNetConfig {
    /// Channels at the end of stage 1 to 4 (`stage` counts from 1).
    pub fn stage_channels(&self, stage: usize) -> usize {
        (self.base << (stage - 1)) * if self.architecture.bottleneck() { 4 } else { 1 }
    }

    /// Channels that stage 1 to 4 starts from.
    pub fn stage_input(&self, stage: usize) -> usize {
        if stage == 1 { self.base } else { self.stage_channels(stage - 1) }
    }

    /// Stride of stage 1 to 4.
    pub fn stage_stride(&self, stage: usize) -> usize {
        match stage {
            1 => 1,
            4 => self.last_stride,
            _ => 2,
        }
    }
}

/// A residual block: `BasicBlock` or `Bottleneck` of torchvision.
#[derive(Clone, Debug)]
pub struct Block {
    /// conv1, conv2 and, in a bottleneck, conv3; each with its BN.
    convs: Vec<(Conv2d, BatchNorm2d)>,
    downsample: Option<(Conv2d, BatchNorm2d)>,
}

impl Block {
    /// `sizes` = input channels and width (a bottleneck has four times the width at its end).
    pub fn new(scope: &mut Scope<'_>, bottleneck: bool, sizes: [usize; 2], stride: usize) -> Block {
        let [input, width] = sizes;
        let output = if bottleneck { 4 * width } else { width };
        // (input, output, kernel, stride)
        let plan: &[(usize, usize, usize, usize)] = if bottleneck {
            &[(input, width, 1, 1), (width, width, 3, stride), (width, output, 1, 1)]
        } else {
            &[(input, width, 3, stride), (width, width, 3, 1)]
        };
        let convs = plan
            .iter()
            .enumerate()
            .map(|(i, &(from, to, k, s))| {
                let conv = Conv2d::new(
                    &mut scope.child(format!("conv{}", i + 1)),
                    [from, to],
                    k,
                    s,
                    k / 2,
                    Init::KaimingFanOut,
                );
                (conv, BatchNorm2d::new(&mut scope.child(format!("bn{}", i + 1)), to))
            })
            .collect();
        let downsample = (stride != 1 || input != output).then(|| {
            let mut scope = scope.child("downsample");
            let conv = Conv2d::new(&mut scope.child(0), [input, output], 1, stride, 0, Init::KaimingFanOut);
            (conv, BatchNorm2d::new(&mut scope.child(1), output))
        });
        Block { convs, downsample }
    }

    pub fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        let shortcut = match &self.downsample {
            Some((conv, bn)) => {
                let y = conv.forward(g, store, x)?;
                bn.forward(g, store, y)?
            }
            None => x,
        };
        let mut y = x;
        for (i, (conv, bn)) in self.convs.iter().enumerate() {
            y = conv.forward(g, store, y)?;
            y = if i + 1 < self.convs.len() {
                bn.forward_relu(g, store, y)?
            } else {
                bn.forward_residual_relu(g, store, y, shortcut)?
            };
        }
        Ok(y)
    }
}

/// One of `layer1` to `layer4`, or a part of it.
#[derive(Clone, Debug)]
pub struct Stage {
    pub blocks: Vec<Block>,
}

impl Stage {
    /// The blocks `range` of stage `number` (from 1), named from 0 on.
    pub fn new(scope: &mut Scope<'_>, config: &ResNetConfig, number: usize, range: Range<usize>) -> Stage {
        let width = config.base << (number - 1);
        let first = range.start;
        let block = |b: usize| {
            let (input, stride) = match b {
                0 => (config.stage_input(number), config.stage_stride(number)),
                _ => (config.stage_channels(number), 1),
            };
            Block::new(&mut scope.child(b - first), config.architecture.bottleneck(), [input, width], stride)
        };
        Stage { blocks: range.map(block).collect() }
    }

    pub fn forward(&self, g: &mut Graph, store: &Store, mut x: Var) -> Result<Var> {
        for block in &self.blocks {
            x = block.forward(g, store, x)?;
        }
        Ok(x)
    }
}

/// conv1, BN, ReLU, max pool: `[n, h, w, 3]` to `[n, h/4, w/4, base]`.
#[derive(Clone, Debug)]
pub struct Stem {
    conv1: Conv2d,
    bn1: BatchNorm2d,
}

impl Stem {
    /// `names` are those of the convolution and its BN.
    pub fn new(scope: &mut Scope<'_>, names: [&str; 2], base: usize) -> Stem {
        let conv1 = Conv2d::new(&mut scope.child(names[0]), [3, base], 7, 2, 3, Init::KaimingFanOut);
        Stem { conv1, bn1: BatchNorm2d::new(&mut scope.child(names[1]), base) }
    }

    pub fn forward(&self, g: &mut Graph, store: &Store, images: Var) -> Result<Var> {
        let x = self.conv1.forward(g, store, images)?;
        let x = self.bn1.forward_relu(g, store, x)?;
        op::max_pool2d(g, x, [3, 3], [2, 2], [1, 1])
    }
}

/// A ResNet whose stages can be run one by one, so that a PTL branch can be put beside them.
#[derive(Clone, Debug)]
pub struct ResNet {
    pub config: ResNetConfig,
    pub stem: Stem,
    /// `layer1` to `layer4`.
    pub layers: Vec<Stage>,
    fc: Option<Linear>,
}

impl ResNet {
    /// Registers the network; parameters are of the group [`Group::Backbone`], `fc` too.
    pub fn new(scope: Scope<'_>, config: ResNetConfig) -> ResNet {
        let mut scope = scope.in_group(Group::Backbone);
        let stem = Stem::new(&mut scope, ["conv1", "bn1"], config.base);
        let blocks = config.architecture.blocks();
        let layer = |(i, &count): (usize, &usize)| {
            Stage::new(&mut scope.child(format!("layer{}", i + 1)), &config, i + 1, 0..count)
        };
        let layers = blocks.iter().enumerate().map(layer).collect();
        let fc = config.classes.map(|classes| {
            let input = config.stage_channels(4);
            let init = Init::Normal { mean: 0.0, std: 1.0 / (input as f32).sqrt() };
            Linear::new(&mut scope.child("fc"), [input, classes], true, init)
        });
        ResNet { config, stem, layers, fc }
    }

    /// Feature map after `layer4`.
    pub fn features(&self, g: &mut Graph, store: &Store, images: Var) -> Result<Var> {
        let mut x = self.stem.forward(g, store, images)?;
        for layer in &self.layers {
            x = layer.forward(g, store, x)?;
        }
        Ok(x)
    }

    /// Class logits, `[n, 1, 1, classes]`.
    ///
    /// # Errors
    /// The network was built without `fc`.
    pub fn logits(&self, g: &mut Graph, store: &Store, images: Var) -> Result<Var> {
        let x = self.features(g, store, images)?;
        let x = op::global_avg_pool(g, x)?;
        let Some(fc) = &self.fc else {
            return Err(Error::Shape { op: "resnet", detail: "the network has no classifier `fc`".into() });
        };
        fc.forward(g, store, x)
    }
}
