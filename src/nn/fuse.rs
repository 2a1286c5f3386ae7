//! The fuse module, which joins a PTL branch with the backbone: concatenation, 1x1 convolution with bias, BN and ReLU.

use super::{BatchNorm2d, Conv2d, Init, Scope};
use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::op;
use crate::engine::store::Store;

/// `relu(bn(conv([parts])))`, named `0` (the convolution) and `1` (the BN).
#[derive(Clone, Debug)]
pub(super) struct Fuse {
    conv: Conv2d,
    bn: BatchNorm2d,
}

impl Fuse {
    pub(super) fn new(scope: &mut Scope<'_>, sizes: [usize; 2]) -> Fuse {
        let mut conv_scope = scope.child(0);
        let conv =
            Conv2d::new(&mut conv_scope, sizes, 1, 1, 0, Init::KaimingFanIn).with_bias(&mut conv_scope, sizes, 1);
        Fuse { conv, bn: BatchNorm2d::new(&mut scope.child(1), sizes[1]) }
    }

    /// Concatenates `parts` along the channels, in this order.
    pub(super) fn forward(&self, g: &mut Graph, store: &Store, parts: &[Var]) -> Result<Var> {
        let x = op::concat(g, parts)?;
        let x = self.conv.forward(g, store, x)?;
        self.bn.forward_relu(g, store, x)
    }
}
