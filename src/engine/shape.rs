//! Shapes of activations: always `[n, h, w, c]`, channels fastest.

use std::fmt;

/// An NHWC shape; a vector per image is `[n, 1, 1, c]`, a scalar `[1, 1, 1, 1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
}

impl Shape {
    /// One number, e.g. a loss.
    pub const SCALAR: Shape = Shape { n: 1, h: 1, w: 1, c: 1 };

    pub const fn new(n: usize, h: usize, w: usize, c: usize) -> Shape {
        Shape { n, h, w, c }
    }

    /// One vector of `c` numbers for each of `n` images.
    pub const fn vectors(n: usize, c: usize) -> Shape {
        Shape { n, h: 1, w: 1, c }
    }

    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// True if one of the sizes is 0.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of pixels, `n·h·w`: the rows of the `[rows, c]` matrix that the tensor is in memory.
    pub const fn rows(&self) -> usize {
        self.n * self.h * self.w
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}, {}, {}]", self.n, self.h, self.w, self.c)
    }
}
