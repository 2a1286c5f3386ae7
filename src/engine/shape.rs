//! Shapes of activations: always `[n, h, w, c]`, with the channels next to each other in memory.

use std::fmt;

/// An NHWC shape; a vector per image is `[n, 1, 1, c]`, a scalar `[1, 1, 1, 1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Number of images.
    pub n: usize,
    /// Height, pixels.
    pub h: usize,
    /// Width, pixels.
    pub w: usize,
    /// Number of channels.
    pub c: usize,
}

impl Shape {
    /// One number, e.g. a loss.
    pub(crate) const SCALAR: Shape = Shape { n: 1, h: 1, w: 1, c: 1 };

    /// Returns the shape `[n, h, w, c]`.
    pub const fn new(n: usize, h: usize, w: usize, c: usize) -> Shape {
        Shape { n, h, w, c }
    }

    /// Returns the shape of one vector of `c` numbers for each of `n` images.
    pub const fn vectors(n: usize, c: usize) -> Shape {
        Shape { n, h: 1, w: 1, c }
    }

    /// Returns the number of elements.
    pub const fn len(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// Returns true if one of the sizes is 0.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of pixels, `n·h·w`. In memory the tensor is a matrix `[rows, c]`.
    pub const fn rows(&self) -> usize {
        self.n * self.h * self.w
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}, {}, {}]", self.n, self.h, self.w, self.c)
    }
}
