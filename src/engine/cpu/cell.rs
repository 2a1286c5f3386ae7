//! The fused BConv-Cell: convolution, gates, state update and output in one pass. The 4·C pre-activations exist only in a tile
//! that stays in the cache.

use rayon::prelude::*;

use super::conv;
use super::gemm::{LeftRows, MC, Shared};
use super::math::{sigmoid, tanh};
use super::microkernel::{self, Isa, MR};
use super::par;
use super::simd::with_best_isa;
use crate::engine::geometry::Conv2dGeometry;

/// Returns the workspace of [`bconv_forward`], in f32.
pub fn forward_workspace(gates: &Conv2dGeometry) -> usize {
    let nr = conv::gates_nr(microkernel::best());
    gates.k() * (gates.out_c / 4).div_ceil(nr / 4) * nr
}

/// Runs one step of a cell. `gates.out_c` is 4·C. `x` is `[batch, in_h, in_w, in_c]`; `weight` is `[k, 4·C]` with the columns i, f, o, g;
/// `previous`, `current` and `y` are `[pixels, C]`; `saved` `[pixels, 4·C]` gets the activated gates for backward.
#[expect(clippy::too_many_arguments, reason = "the operands of one fused kernel")]
pub fn bconv_forward(
    gates: &Conv2dGeometry,
    x: &[f32],
    weight: &[f32],
    previous: &[f32],
    current: &mut [f32],
    y: &mut [f32],
    saved: Option<&mut [f32]>,
    workspace: &mut [f32],
) {
    forward_on(microkernel::best(), gates, x, weight, previous, current, y, saved, workspace);
}

#[expect(clippy::too_many_arguments, reason = "the operands of one fused kernel")]
fn forward_on(
    isa: Isa,
    gates: &Conv2dGeometry,
    x: &[f32],
    weight: &[f32],
    previous: &[f32],
    current: &mut [f32],
    y: &mut [f32],
    saved: Option<&mut [f32]>,
    workspace: &mut [f32],
) {
    let channels = gates.out_c / 4;
    let pixels = gates.pixels();
    assert!(previous.len() == pixels * channels && current.len() == previous.len() && y.len() == previous.len());
    if let Some(saved) = &saved {
        assert_eq!(saved.len(), 4 * previous.len());
    }
    let (current, y) = (Shared(current.as_mut_ptr()), Shared(y.as_mut_ptr()));
    let saved = saved.map(|s| Shared(s.as_mut_ptr()));
    conv::with_forward_product(gates, isa, x, weight, true, workspace, |product| {
        let nr = product.nr;
        let width = nr / 4;
        (0..pixels.div_ceil(MC)).into_par_iter().for_each(|block| {
            let rows = block * MC..((block + 1) * MC).min(pixels);
            let mut scratch = vec![0.0; product.left.scratch_len()];
            let mut pointers = Vec::new();
            // SAFETY: `scratch` outlives the loop below.
            unsafe { product.left.pointers(rows.clone(), &mut scratch, &mut pointers) };
            let mut tile = vec![0.0f32; rows.len().next_multiple_of(MR) * nr];
            for p in 0..channels.div_ceil(width) {
                product.panel_tile(&pointers, rows.len(), p, &mut tile);
                let first = p * width;
                let live = width.min(channels - first);
                with_best_isa(|| {
                    for (row, a) in rows.clone().zip(tile.chunks_exact_mut(nr)) {
                        let (sigmoids, g) = a.split_at_mut(3 * width);
                        sigmoids.iter_mut().for_each(|v| *v = sigmoid(*v));
                        g.iter_mut().for_each(|v| *v = tanh(*v));
                        let at = row * channels + first;
                        let before = &previous[at..at + live];
                        // SAFETY: only this task has this row and these channels; the lengths were asserted above.
                        let (state, out) = unsafe {
                            (
                                std::slice::from_raw_parts_mut(current.get().add(at), live),
                                std::slice::from_raw_parts_mut(y.get().add(at), live),
                            )
                        };
                        let (i, f, o) = (&sigmoids[..live], &sigmoids[width..][..live], &sigmoids[2 * width..][..live]);
                        for c in 0..live {
                            state[c] = f[c] * before[c] + i[c] * g[c];
                            out[c] = o[c] * tanh(state[c]);
                        }
                        if let Some(saved) = saved {
                            for (gate, values) in a.chunks_exact(width).enumerate() {
                                // SAFETY: as above, for the columns from `gate · C + first` on.
                                let to = unsafe {
                                    let start = saved.get().add(row * 4 * channels + gate * channels + first);
                                    std::slice::from_raw_parts_mut(start, live)
                                };
                                to.copy_from_slice(&values[..live]);
                            }
                        }
                    }
                });
            }
        });
    });
}

/// Turns the activated gates `[pixels, 4·channels]` into the gradients of their pre-activations, in place. `previous` (c') and `grad_y`
/// (dy) are `[pixels, channels]`. With `c = f·c' + i·g` and `dc = dy·o·(1 - tanh²c)`:
/// `da_i = dc·g·i(1-i)`, `da_f = dc·c'·f(1-f)`, `da_o = dy·tanh(c)·o(1-o)`,
/// `da_g = dc·i·(1-g²)`.
pub fn gate_gradients(channels: usize, gates: &mut [f32], previous: &[f32], grad_y: &[f32]) {
    par::rows_mut(gates, 4 * channels, |first, rows| {
        for (r, row) in rows.chunks_exact_mut(4 * channels).enumerate() {
            let at = (first + r) * channels;
            let (before, dy) = (&previous[at..at + channels], &grad_y[at..at + channels]);
            let (i, rest) = row.split_at_mut(channels);
            let (f, rest) = rest.split_at_mut(channels);
            let (o, g) = rest.split_at_mut(channels);
            for c in 0..channels {
                let (vi, vf, vo, vg) = (i[c], f[c], o[c], g[c]);
                let t = tanh(vf * before[c] + vi * vg);
                let dc = dy[c] * vo * (1.0 - t * t);
                i[c] = dc * vg * vi * (1.0 - vi);
                f[c] = dc * before[c] * vf * (1.0 - vf);
                o[c] = dy[c] * t * vo * (1.0 - vo);
                g[c] = dc * vi * (1.0 - vg * vg);
            }
        }
    });
}
