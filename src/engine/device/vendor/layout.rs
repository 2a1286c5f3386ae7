//! The sizes and strides of the engine's tensors for cuDNN and cuBLASLt. There are no calls here, so that tests can check them without a
//! GPU.

use super::Pass;
use crate::engine::geometry::Conv2dGeometry;
use crate::{Error, Result};

/// A tensor in cuDNN's order of dimensions: n, c, h, w.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::device) struct Tensor4d {
    pub sizes: [i32; 4],
    /// In elements.
    pub strides: [i32; 4],
}

/// A convolution in the terms of cuDNN's descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::device) struct Descriptors {
    pub x: Tensor4d,
    pub y: Tensor4d,
    /// k, c, h, w: outputs, inputs, height, width. In memory `[k, h, w, c]`, which cuDNN calls NHWC.
    pub filter: [i32; 4],
    pub padding: [i32; 2],
    pub stride: [i32; 2],
}

impl Descriptors {
    /// Returns the descriptors of a convolution.
    ///
    /// # Errors
    /// [`Error::Shape`] for a tensor of 2³¹ elements or more.
    pub(in crate::engine::device) fn new(g: &Conv2dGeometry) -> Result<Descriptors> {
        let too_large = || Error::Shape {
            op: "conv2d",
            detail: format!("{g:?} has a tensor of 2³¹ elements or more: use smaller batches"),
        };
        let narrow = |size: usize| i32::try_from(size).map_err(|_| too_large());
        // Memory is [n, h, w, c].
        let tensor = |[n, c, h, w]: [usize; 4]| {
            [n, c, h, w].iter().try_fold(1_usize, |product, &size| product.checked_mul(size)).map_or_else(
                || Err(too_large()),
                |elements| {
                    narrow(elements)?;
                    let strides = [h * w * c, 1, w * c, c];
                    Ok(Tensor4d { sizes: narrow_all([n, c, h, w]), strides: narrow_all(strides) })
                },
            )
        };
        let [kh, kw] = g.kernel;
        narrow(g.k() * g.out_c)?;
        Ok(Descriptors {
            x: tensor([g.batch, g.in_c, g.in_h, g.in_w])?,
            y: tensor([g.batch, g.out_c, g.out_h(), g.out_w()])?,
            filter: narrow_all([g.out_c, g.in_c, kh, kw]),
            padding: [narrow(g.padding[0])?, narrow(g.padding[1])?],
            stride: [narrow(g.stride[0])?, narrow(g.stride[1])?],
        })
    }
}

/// Converts a size to i32; callers have checked that it fits.
fn narrow_all<const N: usize>(sizes: [usize; N]) -> [i32; N] {
    sizes.map(|size| size as i32)
}

/// A column-major matrix, as cuBLASLt takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::device) struct Matrix {
    pub rows: usize,
    pub columns: usize,
    /// How many elements there are from one column to the next.
    pub leading: usize,
    pub transposed: bool,
}

/// `c = op(a) · op(b)` in cuBLASLt's column-major matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::device) struct Product {
    pub a: Matrix,
    pub b: Matrix,
    pub c: Matrix,
}

impl Product {
    /// Returns whether a convolution is a matrix product without any reordering.
    pub(in crate::engine::device) fn is(g: &Conv2dGeometry) -> bool {
        g.kernel == [1, 1] && g.stride == [1, 1] && g.padding == [0, 0]
    }

    /// Returns the product of a pass of such a convolution; [`Product::operands`] says which tensor is which operand.
    ///
    /// With P pixels, I inputs and O outputs, memory holds x `[P, I]`, w `[O, I]` and y `[P, O]`, all row-major. A row-major matrix `[R,
    /// C]` is the column-major C x R with leading dimension C, its transpose. X, W and Y are these transposes: X is I x P, W is I x O, Y is
    /// O x P.
    ///
    /// ```text
    /// forward           y  = x wᵀ   (row-major)    Y  = yᵀ  = w xᵀ  = Wᵀ X     O x P, over I
    /// gradient of x     dx = dy w                  dX = dxᵀ = wᵀ dyᵀ = W dY    I x P, over O
    /// gradient of w     dw = dyᵀ x                 dW = dwᵀ = xᵀ dy  = X dYᵀ   I x O, over P
    /// ```
    pub(in crate::engine::device) fn new(g: &Conv2dGeometry, pass: Pass) -> Product {
        let (p, i, o) = (g.pixels(), g.in_c, g.out_c);
        let matrix = |rows, columns, transposed| Matrix { rows, columns, leading: rows, transposed };
        let (x, w, y) = (matrix(i, p, false), matrix(i, o, false), matrix(o, p, false));
        let transposed = |matrix| Matrix { transposed: true, ..matrix };
        match pass {
            Pass::Forward => Product { a: transposed(w), b: x, c: y },
            Pass::BackwardData => Product { a: w, b: y, c: x },
            Pass::BackwardWeight => Product { a: x, b: transposed(y), c: w },
        }
    }

    /// Returns the operands a and b and the result c of a pass, chosen from x, w and y, or their gradients.
    pub(in crate::engine::device) fn operands<T>(pass: Pass, x: T, w: T, y: T) -> [T; 3] {
        match pass {
            Pass::Forward => [w, x, y],
            Pass::BackwardData => [w, y, x],
            Pass::BackwardWeight => [x, y, w],
        }
    }
}
