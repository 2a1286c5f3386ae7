//! IBN-Net (Pan et al., ECCV 2018): ResNets that normalise a part of their values by image, with the names of the authors' public code
//! (github.com/XingangPan/IBN-Net, `resnet_ibn.py`), which differs from the paper in the stem of IBN-b.
//!
//! - IBN-a: in each block of the first three stages, `bn1` normalises the first half of its channels by image (`bn1.IN`), and the others over the
//!   batch (`bn1.BN`).
//! - IBN-b: the last block of each of the first two stages normalises its sum by image before the last ReLU (`IN`), and so does the stem its
//!   convolution (`bn1`).

use super::{BatchNorm2d, InstanceNorm2d, Scope};
use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::op;
use crate::engine::store::Store;

/// A kind of IBN-Net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ibn {
    /// Half of the channels of many layers.
    A,
    /// All channels of few layers.
    B,
}

impl Ibn {
    /// Both kinds.
    pub const ALL: [Ibn; 2] = [Ibn::A, Ibn::B];

    /// Returns what the name of a network with it has after the ResNet's.
    pub fn suffix(self) -> &'static str {
        match self {
            Ibn::A => "-ibn-a",
            Ibn::B => "-ibn-b",
        }
    }

    /// Returns whether a block has it: its number and that of all blocks of its stage, which counts from 1.
    pub(super) fn is_in(self, stage: usize, block: usize, blocks: usize) -> bool {
        match self {
            Ibn::A => stage <= 3,
            Ibn::B => stage <= 2 && block + 1 == blocks,
        }
    }
}

/// The normalisation `bn1` of a stem or a block, with the ReLU after it.
#[derive(Clone, Debug)]
pub(super) enum FirstNorm {
    Batch(BatchNorm2d),
    Instance(InstanceNorm2d),
    /// The first `half` of `channels` by image, the others over the batch.
    Halves {
        half: usize,
        channels: usize,
        instance: InstanceNorm2d,
        batch: BatchNorm2d,
    },
}

impl FirstNorm {
    /// Registers that of a stem.
    pub(super) fn of_stem(scope: &mut Scope<'_>, ibn: Option<Ibn>, channels: usize) -> FirstNorm {
        match ibn {
            Some(Ibn::B) => FirstNorm::Instance(InstanceNorm2d::new(scope, channels)),
            Some(Ibn::A) | None => FirstNorm::Batch(BatchNorm2d::new(scope, channels)),
        }
    }

    /// Registers that of a block which has `ibn`. Halves need two channels.
    pub(super) fn of_block(scope: &mut Scope<'_>, ibn: Option<Ibn>, channels: usize) -> FirstNorm {
        match ibn {
            Some(Ibn::A) => {
                let half = channels / 2;
                let instance = InstanceNorm2d::new(&mut scope.child("IN"), half);
                let batch = BatchNorm2d::new(&mut scope.child("BN"), channels - half);
                FirstNorm::Halves { half, channels, instance, batch }
            }
            Some(Ibn::B) | None => FirstNorm::Batch(BatchNorm2d::new(scope, channels)),
        }
    }

    /// Records the normalisation and ReLU. Halves are copied apart and together again, about four more passes over these values, which are those
    /// of a block's narrow part.
    pub(super) fn forward_relu(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        match self {
            FirstNorm::Batch(norm) => norm.forward_relu(g, store, x),
            FirstNorm::Instance(norm) => norm.forward_relu(g, store, x),
            FirstNorm::Halves { half, channels, instance, batch } => {
                let [first, second] = [0..*half, *half..*channels].map(|part| op::narrow_channels(g, x, part));
                let (first, second) =
                    (instance.forward_relu(g, store, first?)?, batch.forward_relu(g, store, second?)?);
                op::concat(g, &[first, second])
            }
        }
    }
}
