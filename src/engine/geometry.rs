//! The sizes of a convolution, and which input pixel each position in the kernel (a tap) reads.

use crate::{Error, Result};

/// The most multiplications of a convolution. With more, products of its sizes could overflow.
const LARGEST: f64 = (1u64 << 60) as f64;

/// The sizes of a convolution. [`Conv2dGeometry::new`] checks them. Code outside of the crate cannot change them afterwards, because kernels
/// trust them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dGeometry {
    /// Number of images.
    pub(crate) batch: usize,
    /// Height of the input, pixels.
    pub(crate) in_h: usize,
    /// Width of the input, pixels.
    pub(crate) in_w: usize,
    /// Channels of the input.
    pub(crate) in_c: usize,
    /// Channels of the output.
    pub(crate) out_c: usize,
    /// Height and width of the kernel.
    pub(crate) kernel: [usize; 2],
    /// Input rows and columns between neighbouring outputs.
    pub(crate) stride: [usize; 2],
    /// Rows of zeros above and below, and columns of zeros left and right.
    pub(crate) padding: [usize; 2],
}

impl Conv2dGeometry {
    /// Returns the sizes if the kernel fits the image.
    ///
    /// # Errors
    /// A size is 0, the kernel is larger than the padded image, or the convolution takes more than 2^60 multiplications.
    pub fn new(
        batch: usize,
        [in_h, in_w]: [usize; 2],
        in_c: usize,
        out_c: usize,
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> Result<Conv2dGeometry> {
        let sizes = [batch, in_h, in_w, in_c, out_c, kernel[0], kernel[1], stride[0], stride[1]];
        let padded = |side: usize, padding: usize| padding.saturating_mul(2).saturating_add(side);
        let [height, width] = [padded(in_h, padding[0]), padded(in_w, padding[1])];
        let fits = height >= kernel[0] && width >= kernel[1];
        if sizes.contains(&0) || !fits {
            return Err(Error::Shape {
                op: "conv2d",
                detail: format!(
                    "kernel {kernel:?}, stride {stride:?}, padding {padding:?} do not fit [{batch}, {in_h}, {in_w}, {in_c}]: \
                     use larger images or fewer strides"
                ),
            });
        }
        // As if there were an output for each padded pixel. No tensor of the three passes has more elements.
        let factors = [batch, height, width, kernel[0], kernel[1], in_c, out_c].map(|size| size as f64);
        if factors.iter().product::<f64>() > LARGEST {
            let images = format!("images [{batch}, {in_h}, {in_w}, {in_c}] with padding {padding:?}");
            let detail = format!("{images} to {out_c} channels are too large: use smaller images or batches");
            return Err(Error::Shape { op: "conv2d", detail });
        }
        Ok(Conv2dGeometry { batch, in_h, in_w, in_c, out_c, kernel, stride, padding })
    }

    /// Returns the sizes of the input: images, height, width, channels.
    pub fn input(&self) -> [usize; 4] {
        [self.batch, self.in_h, self.in_w, self.in_c]
    }

    /// Returns the sizes of the output: images, height, width, channels.
    pub fn output(&self) -> [usize; 4] {
        [self.batch, self.out_h(), self.out_w(), self.out_c]
    }

    /// Returns the height and width of the kernel.
    pub fn kernel(&self) -> [usize; 2] {
        self.kernel
    }

    /// Returns the input rows and columns between neighbouring outputs.
    pub fn stride(&self) -> [usize; 2] {
        self.stride
    }

    /// Returns the height of the output, pixels.
    pub fn out_h(&self) -> usize {
        (self.in_h + 2 * self.padding[0] - self.kernel[0]) / self.stride[0] + 1
    }

    /// Returns the width of the output, pixels.
    pub fn out_w(&self) -> usize {
        (self.in_w + 2 * self.padding[1] - self.kernel[1]) / self.stride[1] + 1
    }

    /// Returns the number of rows of the weight matrix, `kh·kw·in_c`.
    pub fn k(&self) -> usize {
        self.taps() * self.in_c
    }

    /// Returns the number of output pixels.
    pub fn pixels(&self) -> usize {
        self.batch * self.out_h() * self.out_w()
    }

    /// Returns the floating-point operations of one pass (forward, or either gradient). A multiplication and its addition count as two.
    pub fn flops(&self) -> u64 {
        2 * (self.pixels() * self.k() * self.out_c) as u64
    }

    /// Returns the number of positions in the kernel.
    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Returns the input coordinate that output coordinate `o` reads at kernel offset `k`, or `None` in the padding.
    pub(super) fn source(&self, axis: usize, o: usize, k: usize) -> Option<usize> {
        let size = [self.in_h, self.in_w][axis];
        (o * self.stride[axis] + k).checked_sub(self.padding[axis]).filter(|&i| i < size)
    }

    /// Returns the image and the coordinates of output pixel `row`.
    pub(super) fn pixel(&self, row: usize) -> (usize, usize, usize) {
        let (h, w) = (self.out_h(), self.out_w());
        (row / (h * w), row / w % h, row % w)
    }
}
