//! Neural network modules. Each has the ids of its parameters, which have torch's names, and records its operations into a graph.

mod arch;
mod baseline;
mod bconv_cell;
mod classifier;
mod fuse;
mod head;
mod ibn;
mod init;
mod layers;
mod mgn;
mod mgn_ptl;
mod network;
mod osnet;
mod pool;
mod ptl;
mod residual_block;
mod resnet;
mod staged;
mod task;

pub use arch::{Arch, Backbone, DEFAULT_ARCH, Family, ModelOptions, NetworkConfig, check_image_size};
pub use baseline::{Baseline, BaselineConfig};
pub use bconv_cell::BConvCell;
pub use classifier::{Classifier, ClassifierConfig};
use fuse::Fuse;
pub use head::{Head, HeadKind};
use ibn::FirstNorm;
pub use ibn::Ibn;
pub use init::{Init, Scope};
pub use layers::{BatchNorm2d, Conv2d, DepthwiseConv2d, InstanceNorm2d, Linear};
pub use mgn::{Mgn, MgnConfig};
pub use mgn_ptl::MgnCells;
pub use network::{Network, Outputs};
pub use osnet::{OsNet, OsNetConfig};
use pool::GlobalPool;
pub use pool::Pool;
pub use ptl::{BranchBlock, PtlBranch, PtlOptions};
pub use residual_block::ResidualBlock;
pub use resnet::{Architecture, Block, ResNet, ResNetConfig, Stage, Stem, StemKind};
pub use staged::StagedBackbone;
pub use task::TaskKind;

#[cfg(test)]
mod tests;
