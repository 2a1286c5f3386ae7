//! Measures a pass of a convolution by the crate's own kernels and by the vendor's libraries.

use super::conv_launch::{ConvLaunch, Weight};
use super::workspace::{Part, Parts};
use crate::Result;
use crate::engine::device::{Pass, Ptr, Times, Untyped, Vendor};
use crate::engine::graph::GpuGrad;

/// The operands of a convolution in memory for a measurement.
pub(super) struct Operands {
    x: Part<Untyped>,
    own: Part<f32>,
    turned: Part<Untyped>,
    y: Part<Untyped>,
    workspace: Part<Untyped>,
    /// All of them; more may be added.
    pub parts: Parts,
}

/// The addresses of [`Operands`].
#[derive(Clone, Copy)]
pub(super) struct Placed {
    pub x: Ptr,
    pub weight: Weight,
    pub y: Ptr,
    pub workspace: Ptr,
}

impl Operands {
    /// Returns the operands of `conv` with `workspace` words.
    pub(super) fn new(conv: &ConvLaunch<'_>, workspace: usize) -> Operands {
        let (g, element) = (conv.geometry, conv.gpu.activation_bytes());
        let mut parts = Parts::default();
        Operands {
            x: parts.add_bytes(g.batch * g.in_h * g.in_w * g.in_c * element),
            own: parts.add(g.k() * g.out_c),
            turned: parts.add_bytes(g.k() * g.out_c * element),
            y: parts.add_bytes(g.pixels() * g.out_c * element),
            workspace: parts.add_bytes(4 * workspace),
            parts,
        }
    }

    /// Returns the addresses in memory that begins at `base`.
    pub(super) fn at(&self, base: Ptr) -> Placed {
        let weight = Weight { own: self.own.of(base), turned: self.turned.of(base) };
        Placed { x: self.x.of(base), weight, y: self.y.of(base), workspace: self.workspace.of(base) }
    }
}

/// Measures a pass of `conv`, which `vendor` takes with `bytes` bytes of workspace. The turning of weights and gradients is not counted,
/// because one launch does it for all nodes; nor is a bias.
///
/// # Errors
/// [`Error::DeviceMemory`](crate::Error::DeviceMemory) if the operands do not fit; the device or a library fails.
pub(super) fn measure(conv: &ConvLaunch<'_>, vendor: &Vendor, pass: Pass, bytes: usize) -> Result<Times> {
    let own = ConvLaunch { vendor: None, ..*conv };
    let words = match pass {
        Pass::Forward => own.forward_workspace()?,
        Pass::BackwardData | Pass::BackwardWeight => own.backward_workspace()?,
    };
    let operands = Operands::new(conv, words.max(bytes.div_ceil(4)));
    let memory = 4 * operands.parts.words();
    let by_own = |base| {
        let Placed { x, weight, y, workspace } = operands.at(base);
        match pass {
            Pass::Forward => own.forward(x, weight, Ptr::NULL, y, workspace),
            Pass::BackwardData => own.backward_data(y, weight, GpuGrad { data: x, accumulate: false }, workspace),
            Pass::BackwardWeight => {
                own.backward_weight(x, y, GpuGrad { data: weight.own, accumulate: false }, None, workspace)
            }
        }
    };
    let by_library = |base| {
        let Placed { x, weight, y, workspace } = operands.at(base);
        let operands = [x, weight.turned, y].map(Ptr::address);
        // SAFETY: the operands have the sizes of the convolution, and the workspace has the bytes that the library asked for.
        unsafe { vendor.run(conv.call(pass), operands, false, workspace.address()) }
    };
    conv.gpu.measure(memory, by_own, by_library)
}
