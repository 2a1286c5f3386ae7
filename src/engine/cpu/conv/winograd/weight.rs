//! The gradient of the weight with stride 1: for each product, the sum over tiles of transformed images times transformed gradients.

use rayon::prelude::*;

use super::transform::{WEIGHTS, maps};
use super::{CHANNELS, SKEW, Tiles, point};
use crate::engine::cpu::gemm::Shared;
use crate::engine::cpu::microkernel::{Kernels, MR, Strided};
use crate::engine::geometry::Conv2dGeometry;

/// Tiles that are summed one after the other; longer sums are sums of such.
const SUMMED_TILES: usize = 256;
/// Most input channels of a block of transformed images. A block of [`SUMMED_TILES`] tiles stays in the second cache level, and is in few
/// pages.
const BLOCK: usize = 128;
/// How many numbers of transformed images and gradients exist at a time, roughly: so few that they stay in the last cache level.
const BUDGET: usize = 1 << 20;
/// At least this many tiles are transformed at a time, because all sums are read and written for each time.
const FEWEST_TILES: usize = 128;
/// Products of a tile, each with a transformed weight of its own.
const PRODUCTS: usize = WEIGHTS * WEIGHTS;
/// Tiles that a task transforms.
const TASK_TILES: usize = 8;

/// The sizes of all buffers.
struct Sizes {
    /// Blocks of input channels, the channels of a block, and how long a row of it is: whole tiles of the microkernel.
    blocks: usize,
    channels: usize,
    width: usize,
    /// Output channels in whole panels.
    columns: usize,
    nr: usize,
    /// Tiles that are transformed at a time.
    tiles: usize,
}

impl Sizes {
    fn new(kernels: Kernels, g: &Conv2dGeometry) -> Sizes {
        let nr = kernels.nr(g.out_c);
        let channels = g.in_c.div_ceil(g.in_c.div_ceil(BLOCK)).next_multiple_of(CHANNELS);
        let (blocks, width) = (g.in_c.div_ceil(channels), channels.next_multiple_of(MR));
        let columns = g.out_c.next_multiple_of(nr);
        let fitting = (BUDGET / (PRODUCTS * (blocks * width + columns))).max(FEWEST_TILES);
        let count = Tiles::new(g, &maps(kernels.set).forward[0]).count();
        // Equal parts: the last one would otherwise be small.
        let tiles = count.div_ceil(count.div_ceil(fitting));
        Sizes { blocks, channels, width, columns, nr, tiles }
    }

    /// Returns the length of a plane of transformed images, of transformed gradients, and of sums.
    fn planes(&self) -> [usize; 3] {
        let rows = self.blocks * self.width;
        [rows * self.tiles, self.columns * self.tiles, rows * self.columns].map(|len| len + SKEW)
    }
}

/// Returns the workspace of [`weight_gradient`], in f32.
pub(in crate::engine::cpu::conv) fn weight_gradient_workspace(kernels: Kernels, g: &Conv2dGeometry) -> usize {
    PRODUCTS * Sizes::new(kernels, g).planes().iter().sum::<usize>()
}

/// Computes `grad_weight (+)= Σ_pixels windowᵀ · grad_y`. Shapes are those of `conv2d_backward_weight`.
pub(in crate::engine::cpu::conv) fn weight_gradient(
    kernels: Kernels,
    g: &Conv2dGeometry,
    x: &[f32],
    grad_y: &[f32],
    grad_weight: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    let (depth, out) = (g.in_c, g.out_c);
    assert!([depth, out].iter().all(|channels| channels.is_multiple_of(CHANNELS)), "channels are whole vectors");
    assert!(grad_weight.len() == g.k() * out && grad_y.len() == g.pixels() * out, "sizes of a convolution");
    let sizes = Sizes::new(kernels, g);
    let Sizes { blocks, channels, width, columns, nr, tiles: at_once } = sizes;
    let [image_plane, gradient_plane, sum_plane] = sizes.planes();
    let (images, rest) = workspace.split_at_mut(PRODUCTS * image_plane);
    let (gradients, sums) = rest.split_at_mut(PRODUCTS * gradient_plane);
    let (images, gradients) = (Shared(images.as_mut_ptr()), Shared(gradients.as_mut_ptr()));
    let sums = Shared(sums[..PRODUCTS * sum_plane].as_mut_ptr());
    let maps = maps(kernels.set);
    let forward = &maps.forward[0];
    let tiles = Tiles::new(g, forward);
    let (no_image, no_gradient) = (vec![0.0; depth], vec![0.0; out]);
    for first in (0..tiles.count()).step_by(at_once) {
        let count = at_once.min(tiles.count() - first);
        (0..count.div_ceil(TASK_TILES)).into_par_iter().for_each(|task| {
            let (mut pixels, mut parts) = (Vec::new(), Vec::new());
            for i in task * TASK_TILES..((task + 1) * TASK_TILES).min(count) {
                point(&mut pixels, tiles.inputs(first + i), x, &no_image);
                for block in 0..blocks {
                    let own = channels.min(depth - block * channels);
                    // SAFETY: the block's channels of each pixel, and their place in each plane, which is `[blocks][tiles][width]`.
                    unsafe {
                        let to = images.get().add((block * at_once + i) * width);
                        parts.clear();
                        parts.extend(pixels.iter().map(|pixel| pixel.add(block * channels)));
                        (forward.to_products)(&parts, own, to, image_plane);
                        // The padding of the row is multiplied too, so it must be finite.
                        for p in 0..PRODUCTS {
                            std::slice::from_raw_parts_mut(to.add(p * image_plane + own), width - own).fill(0.0);
                        }
                    }
                }
                point(&mut pixels, tiles.outputs(first + i), grad_y, &no_gradient);
                for panel in (0..out).step_by(nr) {
                    let own = nr.min(out - panel);
                    // SAFETY: the panel's channels of each pixel, and their place in each plane, which is `[panels][tiles][nr]`.
                    unsafe {
                        let to = gradients.get().add(panel * at_once + i * nr);
                        parts.clear();
                        parts.extend(pixels.iter().map(|pixel| pixel.add(panel)));
                        (maps.output_gradient)(&parts, own, to, gradient_plane);
                        for p in 0..PRODUCTS {
                            std::slice::from_raw_parts_mut(to.add(p * gradient_plane + own), nr - own).fill(0.0);
                        }
                    }
                }
            }
        });
        (0..PRODUCTS * blocks).into_par_iter().for_each(|task| {
            let (p, block) = (task % PRODUCTS, task / PRODUCTS);
            for start in (0..count).step_by(SUMMED_TILES) {
                let depth = SUMMED_TILES.min(count - start);
                for panel in (0..columns).step_by(nr) {
                    for group in (0..width).step_by(MR) {
                        // SAFETY: MR channels of `depth` tiles of a block, a panel of them, and MR rows of sums, which are all
                        // within their planes, and the sums are this task's alone.
                        unsafe {
                            let a = images.get().add(p * image_plane + (block * at_once + start) * width + group);
                            let b = gradients.get().add(p * gradient_plane + panel * at_once + start * nr);
                            let c = sums.get().add(p * sum_plane + (block * width + group) * columns + panel);
                            let accumulate = first + start > 0;
                            kernels.tiles.columns(nr)(&Strided {
                                a,
                                a_step: width,
                                b,
                                depth,
                                c,
                                c_step: columns,
                                accumulate,
                            });
                        }
                    }
                }
            }
        });
    }
    let to = Shared(grad_weight.as_mut_ptr());
    (0..depth).into_par_iter().with_min_len(8).for_each(|row| {
        // SAFETY: row `row` of each plane of sums, and of the gradient of each tap.
        unsafe {
            let from = sums.get().add((row / channels * width + row % channels) * columns);
            let taps: [*mut f32; 9] = std::array::from_fn(|tap| to.get().add((tap * depth + row) * out));
            (maps.weight_gradient)(from, sum_plane, out, &taps, accumulate);
        }
    });
}
