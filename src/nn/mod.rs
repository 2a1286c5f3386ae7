//! Modules: each owns ids of its parameters under torch's names and records itself into a graph.

mod bconv_cell;
mod init;
mod layers;
mod ptl;
mod reid;
mod resnet;

pub use bconv_cell::BConvCell;
pub use init::{Init, Scope};
pub use layers::{BatchNorm2d, Conv2d, Linear};
pub use ptl::{PtlBranch, PtlConfig};
pub use reid::{Pool, ReidConfig, ReidModel, ReidOutput, check_image_size};
pub use resnet::{Architecture, Block, ResNet, ResNetConfig, Stage};
