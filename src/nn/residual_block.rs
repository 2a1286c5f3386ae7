//! A residual block with as many operations as a BConv-Cell: what a PTL branch is compared with.

use super::{BatchNorm2d, Conv2d, Init, Scope};
use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::store::Store;

/// `relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))` with 3x3 convolutions, as ResNet's basic block. Its middle channels are such that it
/// has about the operations of a cell: `in·out·4·9` products for each output pixel.
#[derive(Clone, Debug)]
pub struct ResidualBlock {
    /// Channels of the output.
    pub out_channels: usize,
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    /// `downsample.0` and `downsample.1`: a 1x1 convolution and a BN, where input and output have other shapes.
    downsample: Option<(Conv2d, BatchNorm2d)>,
}

impl ResidualBlock {
    /// Registers a block; `sizes` are input and output channels.
    pub fn new(scope: &mut Scope<'_>, sizes: [usize; 2], stride: usize) -> ResidualBlock {
        let [input, output] = sizes;
        let changes = input != output || stride != 1;
        // 9·middle·(input + output) products, and those of the shortcut, for 36·input·output.
        let products = (36 - usize::from(changes)) * input * output;
        let middle = (products as f64 / (9 * (input + output)) as f64).round().max(1.0) as usize;
        let mut conv = |name: &str, sizes, k, stride| {
            Conv2d::new(&mut scope.child(name), sizes, k, stride, k / 2, Init::KaimingFanIn)
        };
        let conv1 = conv("conv1", [input, middle], 3, stride);
        let conv2 = conv("conv2", [middle, output], 3, 1);
        let (bn1, bn2) =
            (BatchNorm2d::new(&mut scope.child("bn1"), middle), BatchNorm2d::new(&mut scope.child("bn2"), output));
        let downsample = changes.then(|| {
            let mut scope = scope.child("downsample");
            let conv = Conv2d::new(&mut scope.child(0), sizes, 1, stride, 0, Init::KaimingFanIn);
            (conv, BatchNorm2d::new(&mut scope.child(1), output))
        });
        ResidualBlock { out_channels: output, conv1, bn1, conv2, bn2, downsample }
    }

    /// Records the block on `x`; the result has `out_channels` channels.
    ///
    /// # Errors
    /// `x` has other channels than the first weight, or the kernel does not fit.
    pub fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        let y = self.conv1.forward(g, store, x)?;
        let y = self.bn1.forward_relu(g, store, y)?;
        let y = self.conv2.forward(g, store, y)?;
        let shortcut = match &self.downsample {
            None => x,
            Some((conv, bn)) => {
                let shortcut = conv.forward(g, store, x)?;
                bn.forward(g, store, shortcut)?
            }
        };
        self.bn2.forward_residual_relu(g, store, y, shortcut)
    }
}
