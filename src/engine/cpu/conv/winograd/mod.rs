//! 3x3 convolutions with stride 1 or 2 by Winograd's minimal filtering (Lavin and Gray, 2016): a tile of 4x4 outputs takes 36 products for
//! each pair of channels instead of 144, with stride 2 81.
//!
//! Each product of all tiles is a matrix product, `[tiles, in] · [in, out]`. With stride 1, the gradient of the input is the same with the
//! weight turned around; the gradient of the weight is a product over tiles, `[in, tiles] · [tiles, out]`. With stride 2 both gradients are
//! faster as direct sums.

mod transform;
mod weight;

use rayon::prelude::*;

use self::transform::{OUT, Transforms, WEIGHTS, maps, weight_of};
pub(super) use self::weight::{weight_gradient, weight_gradient_workspace};
use crate::engine::cpu::conv::Packed;
use crate::engine::cpu::gemm::{RightMatrix, Shared, for_each_block};
use crate::engine::cpu::microkernel::{Kernels, MR, Strided};
use crate::engine::cpu::normalize::Normalization;
use crate::engine::cpu::scratch::with_scratch;
use crate::engine::geometry::Conv2dGeometry;

/// Channels come in multiples of this, so that every instruction set has whole vectors.
pub(in crate::engine::cpu) const CHANNELS: usize = 16;
/// Output pixels of a tile.
pub(in crate::engine::cpu) const TILE_PIXELS: usize = OUT * OUT;
/// Tiles of a task. Each panel of the weight is used for all of them.
const TASK_TILES: usize = 8 * MR;
/// This many products of channels are summed one after the other; longer sums are sums of such. Most of the rounding error comes from here:
/// with 256 it is twice as large.
const DEPTH: usize = 48;
/// With stride 2 and fewer input channels than this, direct sums are faster.
const STRIDE_2_CHANNELS: usize = 128;
/// With stride 2 and a weight of this many pairs of channels or more, direct sums are faster: the transformed weight, of 36 MB, would come from
/// memory again and again.
const STRIDE_2_WEIGHT: usize = 1 << 18;
/// Columns of the products that are computed before their outputs are.
const CHUNK: usize = 128;
/// Rows of the weight that are transformed before the next panel is begun. So the weight is read nearly in the order of memory, and whole
/// cache lines are written.
const WEIGHT_ROWS: usize = 4;
/// Added to the length of a plane, so that the same place of all planes is in different sets of the caches.
const SKEW: usize = 16;

/// Returns whether this method computes the convolution. The answer does not depend on the batch, so that the result for an image does not
/// either.
pub(in crate::engine::cpu) fn applies(g: &Conv2dGeometry) -> bool {
    let sizes = [g.out_h(), g.out_w()];
    let channels = g.in_c.is_multiple_of(CHANNELS) && g.out_c.is_multiple_of(CHANNELS);
    // With stride 2 there is less to gain, and it is lost where tiles reach beyond the image, or where the weight is used for few of them.
    let whole = sizes.iter().all(|side| side.is_multiple_of(OUT)) && sizes[0] * sizes[1] >= 8 * OUT * OUT;
    let sized = g.in_c >= STRIDE_2_CHANNELS && g.in_c * g.out_c < STRIDE_2_WEIGHT;
    let stride = g.stride == [1, 1] || g.stride == [2, 2] && whole && sized;
    g.kernel == [3, 3] && g.padding.iter().all(|p| *p <= 2) && channels && stride
}

/// Returns whether this method computes the gradients too.
pub(super) fn applies_to_gradients(g: &Conv2dGeometry) -> bool {
    applies(g) && g.stride == [1, 1]
}

/// The tiles of all images, row by row.
#[derive(Clone, Copy)]
struct Tiles {
    batch: usize,
    input: [usize; 2],
    output: [usize; 2],
    padding: [usize; 2],
    /// Tiles of a column and of a row.
    counts: [usize; 2],
    /// Side of a tile of the input, and pixels from one to the next.
    side: usize,
    step: usize,
}

impl Tiles {
    fn new(g: &Conv2dGeometry, maps: &Transforms) -> Tiles {
        let (input, output) = ([g.in_h, g.in_w], [g.out_h(), g.out_w()]);
        let counts = output.map(|side| side.div_ceil(OUT));
        Tiles { batch: g.batch, input, output, padding: g.padding, counts, side: maps.products, step: maps.step }
    }

    fn count(&self) -> usize {
        self.batch * self.counts[0] * self.counts[1]
    }

    /// Returns the image of a tile, and its place in the image.
    fn place(&self, tile: usize) -> (usize, [usize; 2]) {
        let [h, w] = self.counts;
        (tile / (h * w), [tile / w % h, tile % w])
    }

    /// Returns the indices of a tile's input pixels, `None` in the padding.
    fn inputs(&self, tile: usize) -> impl Iterator<Item = Option<usize>> {
        let (n, place) = self.place(tile);
        let Tiles { input: [h, w], padding, side, step, .. } = *self;
        let pixel = move |axis: usize, i: usize, size: usize| {
            (place[axis] * step + i).checked_sub(padding[axis]).filter(|&at| at < size)
        };
        (0..side * side).map(move |i| Some((n * h + pixel(0, i / side, h)?) * w + pixel(1, i % side, w)?))
    }

    /// Returns the indices of a tile's output pixels, `None` outside the image.
    fn outputs(&self, tile: usize) -> impl Iterator<Item = Option<usize>> {
        let (n, [y, x]) = self.place(tile);
        let [h, w] = self.output;
        (0..OUT * OUT).map(move |i| {
            let (y, x) = (y * OUT + i / OUT, x * OUT + i % OUT);
            (y < h && x < w).then_some((n * h + y) * w + x)
        })
    }
}

/// Fills `to` with pointers to pixels, each of `zeros.len()` numbers, and to `zeros` for those outside.
fn point(to: &mut Vec<*const f32>, pixels: impl Iterator<Item = Option<usize>>, data: &[f32], zeros: &[f32]) {
    let channels = zeros.len();
    to.clear();
    to.extend(pixels.map(|pixel| pixel.map_or(zeros, |pixel| &data[pixel * channels..][..channels]).as_ptr()));
}

/// The transformed weight, in panels: `[WEIGHTS²][panels][depth][nr]`, planes `plane` apart.
pub(in crate::engine::cpu) struct Weight<'a> {
    kernels: Kernels,
    packed: &'a [f32],
    plane: usize,
    depth: usize,
    nr: usize,
    panels: usize,
}

/// Returns the length of a transformed weight with `columns` columns in panels of `nr`.
pub(in crate::engine::cpu) fn packed_len(depth: usize, columns: usize, nr: usize) -> usize {
    WEIGHTS * WEIGHTS * plane_len(depth, columns, nr)
}

fn plane_len(depth: usize, columns: usize, nr: usize) -> usize {
    RightMatrix::packed_len(depth, columns, nr) + SKEW
}

impl<'a> Weight<'a> {
    /// Transforms a weight `[9, depth, out]` into panels of `nr` columns, unless that is done. `source(column)` is the output channel where the vector of columns
    /// that starts at `column` comes from, or `None` in the padding.
    pub(in crate::engine::cpu) fn new(
        kernels: Kernels,
        stride: usize,
        weight: &[f32],
        [depth, out]: [usize; 2],
        (columns, nr): (usize, usize),
        source: impl Fn(usize) -> Option<usize> + Sync,
        Packed { memory, ready }: Packed<'a>,
    ) -> Weight<'a> {
        assert_eq!(weight.len(), 9 * depth * out, "a 3x3 weight");
        let plane = plane_len(depth, columns, nr);
        let packed = &mut memory[..WEIGHTS * WEIGHTS * plane];
        let panels = columns.div_ceil(nr);
        let to = Shared(packed.as_mut_ptr());
        let map = maps(kernels.set).weight[stride - 1];
        let blocks = if ready { 0 } else { depth.div_ceil(WEIGHT_ROWS) };
        (0..blocks * panels).into_par_iter().with_min_len(16).for_each(|task| {
            let (panel, first) = (task % panels, task / panels * WEIGHT_ROWS);
            let rows = first..(first + WEIGHT_ROWS).min(depth);
            for (row, v) in rows.flat_map(|row| (0..nr).step_by(kernels.lanes).map(move |v| (row, v))) {
                let at = (panel * depth + row) * nr + v;
                match source(panel * nr + v).filter(|source| source + kernels.lanes <= out) {
                    // SAFETY: the vector is in row `row` of all nine taps, and has a place in each plane of its own.
                    Some(source) => unsafe {
                        let taps: [*const f32; 9] =
                            std::array::from_fn(|tap| weight[(tap * depth + row) * out + source..].as_ptr());
                        map(&taps, kernels.lanes, to.get().add(at), plane);
                    },
                    None => (0..WEIGHTS * WEIGHTS).for_each(|p| {
                        // SAFETY: as above, this place is nobody else's.
                        unsafe { std::slice::from_raw_parts_mut(to.get().add(p * plane + at), kernels.lanes) }
                            .fill(0.0);
                    }),
                }
            }
        });
        Weight { kernels, packed, plane, depth, nr, panels }
    }
}

/// A convolution whose weight was transformed.
pub(in crate::engine::cpu) struct Product<'a> {
    weight: Weight<'a>,
    maps: &'static Transforms,
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
    /// Returns the indices of the pixels of a tile's outputs, `None` outside the image.
    pub(in crate::engine::cpu) fn outputs(&self, tile: usize) -> impl Iterator<Item = Option<usize>> {
        self.product.tiles.outputs(tile)
    }

    /// Writes `count` columns of the outputs of a tile to their places, or adds them. Skips null pointers.
    ///
    /// # Safety
    /// The pointers must be valid for `count` numbers each, which nobody else uses. `count` is a multiple of the lanes, and within the
    /// columns that were computed; `tile` is one of `tiles`.
    pub(in crate::engine::cpu) unsafe fn write(
        &self,
        tile: usize,
        count: usize,
        pixels: &[*mut f32],
        accumulate: bool,
    ) {
        let map = self.product.maps.from_products;
        // SAFETY: the row of this tile in each plane has the columns; the rest is the caller's promise.
        unsafe { map(self.sums.add((tile - self.tiles.start) * self.row), self.plane, count, pixels, accumulate) }
    }
}

impl<'a> Product<'a> {
    /// Returns the convolution of `x` `[batch, in_h, in_w, in_c]`.
    pub(in crate::engine::cpu) fn new(g: &Conv2dGeometry, x: &'a [f32], weight: Weight<'a>) -> Product<'a> {
        assert_eq!(x.len(), g.batch * g.in_h * g.in_w * g.in_c, "the input of a convolution");
        assert!(g.in_c.is_multiple_of(CHANNELS) && weight.depth == g.in_c, "input channels are whole vectors");
        let maps = &maps(weight.kernels.set).forward[g.stride[0] - 1];
        Product { maps, tiles: Tiles::new(g, maps), x, zeros: vec![0.0; g.in_c], weight }
    }

    /// Computes everything in tasks, `chunk` panels of columns at a time, and hands each part to `finish`.
    pub(in crate::engine::cpu) fn run(&self, chunk: usize, finish: impl Fn(&Sums<'_>) + Sync) {
        let count = self.tiles.count();
        let chunks = self.weight.panels.div_ceil(chunk);
        let blocks = count.div_ceil(TASK_TILES);
        // Equal blocks: the last one would otherwise be small.
        let block = count.div_ceil(blocks).next_multiple_of(MR);
        for_each_block(count, block, chunks, |tiles, chunks| self.task(tiles, chunks, chunk, &finish));
    }

    fn task(
        &self,
        tiles: std::ops::Range<usize>,
        chunks: std::ops::Range<usize>,
        chunk: usize,
        finish: &impl Fn(&Sums<'_>),
    ) {
        let Weight { kernels, packed, plane: weight_plane, depth, nr, panels } = self.weight;
        let rows = tiles.len().next_multiple_of(MR);
        let (image_plane, sum_plane) = (rows * depth + SKEW, rows * chunk * nr + SKEW);
        let side = self.maps.products;
        let products = side * side;
        with_scratch(products * (image_plane + sum_plane), |scratch| {
            let (images, sums) = scratch.split_at_mut(products * image_plane);
            let mut pixels = Vec::new();
            for (i, tile) in tiles.clone().enumerate() {
                point(&mut pixels, self.tiles.inputs(tile), self.x, &self.zeros);
                // SAFETY: each pixel has `depth` numbers, and so has row `i` of each plane.
                unsafe { (self.maps.to_products)(&pixels, depth, images[i * depth..].as_mut_ptr(), image_plane) };
            }
            for plane in images.chunks_exact_mut(image_plane) {
                plane[tiles.len() * depth..rows * depth].fill(0.0);
            }
            let (images, sums) = (&*images, sums.as_mut_ptr());
            for c in chunks {
                let own = c * chunk..((c + 1) * chunk).min(panels);
                for p in 0..products {
                    let image = images[p * image_plane..].as_ptr();
                    let packed = &packed[(weight_of(p / side) * WEIGHTS + weight_of(p % side)) * weight_plane..];
                    for panel in own.clone() {
                        for from in (0..depth).step_by(DEPTH) {
                            let len = DEPTH.min(depth - from);
                            let b = packed[(panel * depth + from) * nr..][..len * nr].as_ptr();
                            for row in (0..rows).step_by(MR) {
                                // SAFETY: MR rows of a plane of `images` and of one of `sums`; `b` was sliced to what the tile reads;
                                // the instruction set was detected.
                                unsafe {
                                    let a = image.add(row * depth + from);
                                    let c = sums.add(p * sum_plane + row * chunk * nr + (panel - own.start) * nr);
                                    let (a_step, c_step, accumulate) = (depth, chunk * nr, from > 0);
                                    kernels.tiles.strided_rows(nr)(&Strided {
                                        a,
                                        a_step,
                                        b,
                                        depth: len,
                                        c,
                                        c_step,
                                        accumulate,
                                    });
                                }
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

/// Returns the workspace of [`convolve`], in f32.
pub(super) fn workspace(kernels: Kernels, g: &Conv2dGeometry) -> usize {
    packed_len(g.in_c, g.out_c, kernels.nr(g.out_c))
}

/// Computes `y (+)= conv(x, weight)`, normalised if there is a normalisation. Shapes are those of `conv2d_forward_normalized`.
#[expect(clippy::too_many_arguments, reason = "the operands of a convolution")]
pub(super) fn convolve(
    kernels: Kernels,
    g: &Conv2dGeometry,
    x: &[f32],
    weight: &[f32],
    normalization: Option<&Normalization<'_>>,
    y: &mut [f32],
    accumulate: bool,
    packed: Packed<'_>,
) {
    let (depth, out, nr) = (g.in_c, g.out_c, kernels.nr(g.out_c));
    assert_eq!(y.len(), g.pixels() * out, "the output of a convolution");
    assert!(out.is_multiple_of(CHANNELS), "channels are whole vectors");
    assert!(normalization.is_none_or(|norm| norm.fits(g.pixels(), out)), "sizes of a normalisation");
    let weight = Weight::new(kernels, g.stride[0], weight, [depth, out], (out, nr), Some, packed);
    let to = Shared(y.as_mut_ptr());
    let chunk = (CHUNK / nr).max(1);
    Product::new(g, x, weight).run(chunk, |sums| {
        let count = (chunk * nr).min(out - sums.column);
        for tile in sums.tiles.clone() {
            let place = |pixel: Option<usize>| {
                // SAFETY: a pixel of `y`, which has `out` numbers.
                pixel.map_or(std::ptr::null_mut(), |pixel| unsafe { to.get().add(pixel * out + sums.column) })
            };
            let places: Vec<*mut f32> = sums.outputs(tile).map(place).collect();
            // SAFETY: only this task has these pixels and columns; the columns are whole vectors (asserted).
            unsafe { sums.write(tile, count, &places, accumulate) };
            let Some(normalization) = normalization else { continue };
            for pixel in sums.outputs(tile).flatten() {
                let at = pixel * out + sums.column;
                // SAFETY: as above.
                let values = unsafe { std::slice::from_raw_parts_mut(to.get().add(at), count) };
                normalization.part(at, sums.column, values);
            }
        }
    });
}

/// Returns the workspace of [`input_gradient`], in f32.
pub(super) fn input_gradient_workspace(kernels: Kernels, g: &Conv2dGeometry) -> usize {
    g.k() * g.out_c + packed_len(g.out_c, g.in_c, kernels.nr(g.in_c))
}

/// Computes `grad_x (+)= convᵀ(grad_y, weight)`. Shapes are those of `conv2d_backward_data`.
pub(super) fn input_gradient(
    kernels: Kernels,
    g: &Conv2dGeometry,
    grad_y: &[f32],
    weight: &[f32],
    grad_x: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    let (turned, rest) = workspace.split_at_mut(g.k() * g.out_c);
    turn(g, weight, turned);
    let padding = g.padding.map(|p| 2 - p);
    let back = Conv2dGeometry { in_h: g.out_h(), in_w: g.out_w(), in_c: g.out_c, out_c: g.in_c, padding, ..*g };
    convolve(kernels, &back, grad_y, turned, None, grad_x, accumulate, Packed::empty(rest));
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
