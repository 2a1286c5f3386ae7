//! The eight BConv-Cells of MGN_PTL beside its trunk (Yu et al., 2019, fig. 3).
//!
//! ```text
//! b1 = bconv1(image)   b2 = bconv2(b1)   z0 = fuse1([b2, x1])
//! b3 = bconv3(z0)                        z1 = fuse2([x2, b3])
//! b4 = bconv4(z1)                        z2 = fuse3([x3, b4])
//! b5 = bconv5(z2)                        z3 = fuse4([x4, b5])
//! b6, b7, b8 = bconv6(z3), bconv7(z3), bconv8(z3): beside p1, p2 and p3
//! ```
//! x1 to x4 are the trunk's maps after stem, layer1, layer2 and layer3[0]; brackets concatenate channels in that order.

use super::{BConvCell, Fuse, ResNetConfig, Scope};
use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::store::{Group, Store};

/// Output channels of the cells and their strides, at the published width.
const CELLS: [(usize, usize); 8] = [(16, 2), (32, 2), (64, 1), (256, 2), (512, 2), (128, 2), (128, 1), (128, 1)];
/// Output channels of fuse1 to fuse4, at the published width.
const FUSES: [usize; 4] = [64, 128, 256, 512];

/// The cells and fuse modules.
#[derive(Clone, Debug)]
pub struct MgnCells {
    /// bconv1 to bconv8.
    bconv: Vec<BConvCell>,
    /// fuse1 to fuse4.
    fuse: Vec<Fuse>,
}

impl MgnCells {
    /// Registers the branch beside a trunk of the given geometry; `width` is relative to the published cells. Parameters belong to the group
    /// [`Group::Ptl`].
    pub fn new(scope: Scope<'_>, trunk: &ResNetConfig, width: f32) -> MgnCells {
        let mut scope = scope.in_group(Group::Ptl);
        // As published for a stem of 64 channels, and proportional to it otherwise.
        let channels = |published: usize| {
            let exact = (trunk.base * published) as f32 / 64.0 * width;
            (exact.round() as usize).max(1)
        };
        let cell_out = CELLS.map(|(published, _)| channels(published));
        let fuse_out = FUSES.map(channels);
        let [z0, z1, z2, z3] = fuse_out;
        let cell_in = [3, cell_out[0], z0, z1, z2, z3, z3, z3];
        let bconv = (0..CELLS.len())
            .map(|i| {
                let mut scope = scope.child(format!("bconv{}", i + 1));
                BConvCell::new(&mut scope, [cell_in[i], cell_out[i]], 3, CELLS[i].1, 1)
            })
            .collect();
        let stage = |number| trunk.stage_channels(number);
        let fuse_in =
            [cell_out[1] + trunk.base, stage(1) + cell_out[2], stage(2) + cell_out[3], stage(3) + cell_out[4]];
        let fuse = (0..FUSES.len())
            .map(|i| Fuse::new(&mut scope.child(format!("fuse{}", i + 1)), [fuse_in[i], fuse_out[i]]))
            .collect();
        MgnCells { bconv, fuse }
    }

    /// Returns the channels of each of the last three cells.
    pub fn out_channels(&self) -> usize {
        self.bconv[7].out_channels
    }

    /// Records the branch on the images and the trunk's four maps, and returns the outputs of the last three cells.
    ///
    /// # Errors
    /// The image size does not fit.
    pub fn forward(&self, g: &mut Graph, store: &Store, images: Var, maps: [Var; 4]) -> Result<[Var; 3]> {
        let [x1, x2, x3, x4] = maps;
        let cell = |g: &mut Graph, number: usize, x: Var| self.bconv[number - 1].forward(g, store, x);
        let fuse = |g: &mut Graph, number: usize, parts: [Var; 2]| self.fuse[number - 1].forward(g, store, &parts);
        let b1 = cell(g, 1, images)?;
        let b2 = cell(g, 2, b1)?;
        let z0 = fuse(g, 1, [b2, x1])?;
        let b3 = cell(g, 3, z0)?;
        let z1 = fuse(g, 2, [x2, b3])?;
        let b4 = cell(g, 4, z1)?;
        let z2 = fuse(g, 3, [x3, b4])?;
        let b5 = cell(g, 5, z2)?;
        let z3 = fuse(g, 4, [x4, b5])?;
        Ok([cell(g, 6, z3)?, cell(g, 7, z3)?, cell(g, 8, z3)?])
    }
}
