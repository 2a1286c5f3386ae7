//! 3x3 convolutions with stride 1 by Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, 2016): a tile of 4x4 outputs takes 36
//! products for each pair of channels instead of 144.
//!
//! Each of the 36 products of all tiles is a matrix product, `[tiles, in] · [in, out]`. The gradient of the input is the same with the
//! weight turned around. The gradient of the weight is a product over tiles, `[in, tiles] · [tiles, out]`.

mod transform;
mod weight;

use rayon::prelude::*;

pub(in crate::engine::cpu) use self::transform::PIXELS;
use self::transform::{OUT, PRODUCTS, SIDE, transforms};
pub(super) use self::weight::{weight_gradient, weight_gradient_workspace};
use crate::engine::cpu::gemm::{RightMatrix, Shared, depth_blocks};
use crate::engine::cpu::microkernel::{Isa, MR, Tile};
use crate::engine::cpu::scratch::with_scratch;
use crate::engine::geometry::Conv2dGeometry;

/// Channels come in multiples of this, so that every instruction set has whole vectors.
pub(in crate::engine::cpu) const CHANNELS: usize = 16;
/// Tiles of a task. Their transform stays in the second cache level, and each panel of the weight is used for all of them.
const TASK_TILES: usize = 8 * MR;
/// Columns of the products that are computed before their outputs are.
const CHUNK: usize = 128;
/// A convolution is split into at least this many tasks, by columns too if its tiles give fewer.
const MIN_TASKS: usize = 16;
/// Added to the length of a plane, so that the planes of one number are in different sets of the caches.
const SKEW: usize = 16;

/// Returns whether this method computes the convolution. The answer does not depend on the batch, so that the result for an image does not
/// either.
pub(in crate::engine::cpu) fn applies(g: &Conv2dGeometry) -> bool {
    let channels = g.in_c.is_multiple_of(CHANNELS) && g.out_c.is_multiple_of(CHANNELS);
    g.kernel == [3, 3] && g.stride == [1, 1] && g.padding.iter().all(|p| *p <= 2) && channels
}

/// The tiles of an image of `size` output pixels.
#[derive(Clone, Copy)]
struct Tiles {
    size: [usize; 2],
    /// Input pixel that the first output pixel starts to read: minus the padding.
    padding: [usize; 2],
    input: [usize; 2],
    counts: [usize; 2],
    batch: usize,
}

impl Tiles {
    fn new(g: &Conv2dGeometry) -> Tiles {
        let size = [g.out_h(), g.out_w()];
        let counts = size.map(|side| side.div_ceil(OUT));
        Tiles { size, padding: g.padding, input: [g.in_h, g.in_w], counts, batch: g.batch }
    }

    fn count(&self) -> usize {
        self.batch * self.counts[0] * self.counts[1]
    }

    /// Returns the image and the first output pixel of a tile.
    fn place(&self, tile: usize) -> (usize, [usize; 2]) {
        let [h, w] = self.counts;
        (tile / (h * w), [tile / w % h * OUT, tile % w * OUT])
    }

    /// Returns the pixel numbers of a tile's outputs, `None` outside the image.
    fn outputs(&self, tile: usize) -> [Option<usize>; PIXELS] {
        let (n, [y, x]) = self.place(tile);
        let [h, w] = self.size;
        std::array::from_fn(|i| {
            let (y, x) = (y + i / OUT, x + i % OUT);
            (y < h && x < w).then_some((n * h + y) * w + x)
        })
    }

    /// Returns the pixel numbers of a tile's inputs, `None` in the padding.
    fn inputs(&self, tile: usize) -> [Option<usize>; PRODUCTS] {
        let (n, [y, x]) = self.place(tile);
        let [h, w] = self.input;
        let inside = |at: usize, padding: usize, size: usize| at.checked_sub(padding).filter(|&at| at < size);
        std::array::from_fn(|i| {
            let y = inside(y + i / SIDE, self.padding[0], h)?;
            let x = inside(x + i % SIDE, self.padding[1], w)?;
            Some((n * h + y) * w + x)
        })
    }
}

/// Returns pointers to the pixels, each of `channels` numbers, and to `zeros` for those outside.
fn pointers<const N: usize>(pixels: [Option<usize>; N], data: &[f32], zeros: &[f32]) -> [*const f32; N] {
    let channels = zeros.len();
    pixels.map(|pixel| pixel.map_or(zeros, |pixel| &data[pixel * channels..][..channels]).as_ptr())
}

/// The transformed weight, in panels: `[36][panels][depth][nr]`, planes `plane` apart.
pub(in crate::engine::cpu) struct Weight<'a> {
    isa: Isa,
    packed: &'a [f32],
    plane: usize,
    depth: usize,
    nr: usize,
    panels: usize,
}

/// Returns the length of a transformed weight with `columns` columns in panels of `nr`.
pub(in crate::engine::cpu) fn packed_len(depth: usize, columns: usize, nr: usize) -> usize {
    PRODUCTS * plane_len(depth, columns, nr)
}

fn plane_len(depth: usize, columns: usize, nr: usize) -> usize {
    RightMatrix::packed_len(depth, columns, nr) + SKEW
}

impl<'a> Weight<'a> {
    /// Transforms a weight `[9, depth, out]` into panels of `nr` columns. `source(column)` is the output channel where the vector of columns
    /// that starts at `column` comes from, or `None` in the padding.
    pub(in crate::engine::cpu) fn new(
        isa: Isa,
        weight: &[f32],
        [depth, out]: [usize; 2],
        (columns, nr): (usize, usize),
        source: impl Fn(usize) -> Option<usize> + Sync,
        packed: &'a mut [f32],
    ) -> Weight<'a> {
        assert_eq!(weight.len(), 9 * depth * out, "a 3x3 weight");
        let plane = plane_len(depth, columns, nr);
        let packed = &mut packed[..PRODUCTS * plane];
        let panels = columns.div_ceil(nr);
        let to = Shared(packed.as_mut_ptr());
        let map = transforms(isa.set).weight;
        (0..panels * depth).into_par_iter().with_min_len(64).for_each(|i| {
            let (panel, row) = (i / depth, i % depth);
            for v in (0..nr).step_by(isa.lanes) {
                let at = i * nr + v;
                match source(panel * nr + v).filter(|source| source + isa.lanes <= out) {
                    // SAFETY: the vector is in row `row` of all nine taps, and has a place in each plane of its own.
                    Some(source) => unsafe {
                        map(weight[row * out + source..].as_ptr(), depth * out, to.get().add(at), plane);
                    },
                    None => (0..PRODUCTS).for_each(|p| {
                        // SAFETY: as above, this place is nobody else's.
                        unsafe { std::slice::from_raw_parts_mut(to.get().add(p * plane + at), isa.lanes) }.fill(0.0);
                    }),
                }
            }
        });
        Weight { isa, packed, plane, depth, nr, panels }
    }
}

/// A convolution whose weight was transformed.
pub(in crate::engine::cpu) struct Product<'a> {
    pub weight: Weight<'a>,
    tiles: Tiles,
    x: &'a [f32],
    zeros: Vec<f32>,
}

/// What a task computed: sums for some tiles and columns, before the output's transform.
pub(in crate::engine::cpu) struct Sums<'a> {
    product: &'a Product<'a>,
    /// The tiles.
    pub tiles: std::ops::Range<usize>,
    /// The first column.
    pub column: usize,
    sums: *const f32,
    plane: usize,
    row: usize,
}

impl Sums<'_> {
    /// Returns the pixel numbers of a tile's outputs, `None` outside the image.
    pub(in crate::engine::cpu) fn outputs(&self, tile: usize) -> [Option<usize>; PIXELS] {
        self.product.tiles.outputs(tile)
    }

    /// Writes `count` columns of the outputs of a tile to 16 places, or adds them. Skips null pointers.
    ///
    /// # Safety
    /// The pointers must be valid for `count` numbers each, which nobody else uses. `count` is a multiple of the lanes, and within the
    /// columns that were computed.
    pub(in crate::engine::cpu) unsafe fn write(
        &self,
        tile: usize,
        count: usize,
        pixels: &[*mut f32; PIXELS],
        accumulate: bool,
    ) {
        let map = transforms(self.product.weight.isa.set).output;
        // SAFETY: the row of this tile in each plane has the columns; the rest is the caller's promise.
        unsafe { map(self.sums.add((tile - self.tiles.start) * self.row), self.plane, count, pixels, accumulate) }
    }
}

impl<'a> Product<'a> {
    /// Returns the convolution of `x` `[batch, in_h, in_w, in_c]`.
    pub(in crate::engine::cpu) fn new(g: &Conv2dGeometry, x: &'a [f32], weight: Weight<'a>) -> Product<'a> {
        assert_eq!(x.len(), g.batch * g.in_h * g.in_w * g.in_c, "the input of a convolution");
        Product { weight, tiles: Tiles::new(g), x, zeros: vec![0.0; g.in_c] }
    }

    /// Computes everything in tasks, `chunk` panels of columns at a time, and hands each part to `finish`.
    pub(in crate::engine::cpu) fn run(&self, chunk: usize, finish: impl Fn(&Sums<'_>) + Sync) {
        let count = self.tiles.count();
        let chunks = self.weight.panels.div_ceil(chunk);
        let blocks = count.div_ceil(TASK_TILES);
        // Equal blocks: the last one would otherwise be small.
        let block = count.div_ceil(blocks).next_multiple_of(MR);
        let blocks = count.div_ceil(block);
        let column_tasks = MIN_TASKS.div_ceil(blocks).min(chunks);
        let chunks_each = chunks.div_ceil(column_tasks);
        (0..blocks * column_tasks).into_par_iter().for_each(|task| {
            let first = task / column_tasks * block;
            let chunks = task % column_tasks * chunks_each..((task % column_tasks + 1) * chunks_each).min(chunks);
            self.task(first..(first + block).min(count), chunks, chunk, &finish);
        });
    }

    fn task(
        &self,
        tiles: std::ops::Range<usize>,
        chunks: std::ops::Range<usize>,
        chunk: usize,
        finish: &impl Fn(&Sums<'_>),
    ) {
        let Weight { isa, packed, plane: weight_plane, depth, nr, panels } = self.weight;
        let rows = tiles.len().next_multiple_of(MR);
        let (image_plane, sum_plane) = (rows * depth + SKEW, rows * chunk * nr + SKEW);
        let image = transforms(isa.set).image;
        with_scratch(PRODUCTS * (image_plane + sum_plane), |scratch| {
            let (images, sums) = scratch.split_at_mut(PRODUCTS * image_plane);
            for (i, tile) in tiles.clone().enumerate() {
                let pixels = pointers(self.tiles.inputs(tile), self.x, &self.zeros);
                // SAFETY: each pixel has `depth` numbers, and so has row `i` of each plane.
                unsafe { image(&pixels, depth, images[i * depth..].as_mut_ptr(), image_plane) };
            }
            for plane in images.chunks_exact_mut(image_plane) {
                plane[tiles.len() * depth..rows * depth].fill(0.0);
            }
            let (images, sums) = (&*images, sums.as_mut_ptr());
            for c in chunks {
                let own = c * chunk..((c + 1) * chunk).min(panels);
                for p in 0..PRODUCTS {
                    let image = images[p * image_plane..].as_ptr();
                    for panel in own.clone() {
                        for (_, _, from, len) in depth_blocks(1, depth) {
                            let b = packed[p * weight_plane + (panel * depth + from) * nr..][..len * nr].as_ptr();
                            for row in (0..rows).step_by(MR) {
                                // SAFETY: rows of the plane of `image`, and of that of `sums`.
                                let (segment, c) = unsafe {
                                    let segment: [*const f32; MR] =
                                        std::array::from_fn(|r| image.add((row + r) * depth));
                                    let sums = sums.add(p * sum_plane + (panel - own.start) * nr);
                                    (segment, std::array::from_fn(|r| sums.add((row + r) * chunk * nr)))
                                };
                                let segments = &raw const segment;
                                let accumulate = from > 0;
                                let tile = Tile {
                                    segments,
                                    segment_count: 1,
                                    segment_len: len,
                                    offset: from,
                                    b,
                                    c,
                                    accumulate,
                                };
                                // SAFETY: `b` was sliced to what the tile reads, its rows are within their planes (above), and
                                // the instruction set was detected.
                                unsafe { isa.rows(nr)(&tile) };
                            }
                        }
                    }
                }
                let column = own.start * nr;
                finish(&Sums { product: self, tiles: tiles.clone(), column, sums, plane: sum_plane, row: chunk * nr });
            }
        });
    }
}

/// Returns the panels of a chunk for plain outputs.
fn chunk_panels(nr: usize) -> usize {
    (CHUNK / nr).max(1)
}

/// Returns the workspace of [`convolve`], in f32.
pub(super) fn workspace(isa: Isa, g: &Conv2dGeometry) -> usize {
    packed_len(g.in_c, g.out_c, isa.nr(g.out_c))
}

/// Computes `y (+)= conv(x, weight)`. Shapes are those of `conv2d_forward`.
pub(super) fn convolve(
    isa: Isa,
    g: &Conv2dGeometry,
    x: &[f32],
    weight: &[f32],
    y: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    let (depth, out, nr) = (g.in_c, g.out_c, isa.nr(g.out_c));
    assert_eq!(y.len(), g.pixels() * out, "the output of a convolution");
    let weight = Weight::new(isa, weight, [depth, out], (out, nr), Some, workspace);
    let to = Shared(y.as_mut_ptr());
    let chunk = chunk_panels(nr);
    Product::new(g, x, weight).run(chunk, |sums| {
        let count = (chunk * nr).min(out - sums.column);
        for tile in sums.tiles.clone() {
            let places = sums.outputs(tile).map(|pixel| {
                // SAFETY: a pixel of `y`, which has `out` numbers.
                pixel.map_or(std::ptr::null_mut(), |pixel| unsafe { to.get().add(pixel * out + sums.column) })
            });
            // SAFETY: only this task has these pixels and columns; the columns are whole vectors (`applies`).
            unsafe { sums.write(tile, count, &places, accumulate) };
        }
    });
}

/// Returns the workspace of [`input_gradient`], in f32.
pub(super) fn input_gradient_workspace(isa: Isa, g: &Conv2dGeometry) -> usize {
    let g = &transposed(g);
    workspace(isa, g) + g.k() * g.out_c
}

/// Returns the convolution that computes the gradient of the input from that of the output.
fn transposed(g: &Conv2dGeometry) -> Conv2dGeometry {
    let padding = g.padding.map(|p| 2 - p);
    Conv2dGeometry { in_h: g.out_h(), in_w: g.out_w(), in_c: g.out_c, out_c: g.in_c, padding, ..*g }
}

/// Computes `grad_x (+)= convᵀ(grad_y, weight)`. Shapes are those of `conv2d_backward_data`.
pub(super) fn input_gradient(
    isa: Isa,
    g: &Conv2dGeometry,
    grad_y: &[f32],
    weight: &[f32],
    grad_x: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    let (turned, rest) = workspace.split_at_mut(g.k() * g.out_c);
    turn(g, weight, turned);
    convolve(isa, &transposed(g), grad_y, turned, grad_x, accumulate, rest);
}

/// Writes a weight `[9, in, out]` with its taps in reverse as `[9, out, in]`.
fn turn(g: &Conv2dGeometry, weight: &[f32], turned: &mut [f32]) {
    let (rows, columns) = (g.in_c, g.out_c);
    // Blocks of CHANNELS rows of the result.
    turned.par_chunks_mut(CHANNELS * rows).enumerate().for_each(|(i, block)| {
        let (tap, first) = (8 - i * CHANNELS / columns, i * CHANNELS % columns);
        let from = &weight[tap * rows * columns + first..];
        for start in (0..rows).step_by(CHANNELS) {
            for r in start..start + CHANNELS {
                let values: &[f32; CHANNELS] = from[r * columns..][..CHANNELS].try_into().expect("a block");
                for (j, v) in values.iter().enumerate() {
                    block[j * rows + r] = *v;
                }
            }
        }
    });
}
