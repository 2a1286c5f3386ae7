//! The fused BConv-Cell: convolution, gates, state update and output in one pass. The 4·C pre-activations exist only in a tile
//! that stays in the cache.

use rayon::prelude::*;

use super::conv;
use super::conv::winograd::{self, PIXELS, Product as Winograd};
use super::gemm::{LeftRows, MC, Shared};
use super::isa::for_each_isa;
use super::math::{sigmoid, tanh};
use super::microkernel::{self, Isa, MR};
use super::par;
use super::scratch::with_scratch;
use crate::engine::geometry::Conv2dGeometry;

/// Returns the workspace of [`bconv_forward`], in f32.
pub fn forward_workspace(gates: &Conv2dGeometry) -> usize {
    let isa = microkernel::best();
    if winograd_applies(gates) {
        return conv::winograd_gates_workspace(isa, gates);
    }
    gates.k() * conv::gates_columns(isa, gates.out_c)
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
    let lanes = isa.lanes;
    let end = |pixels: &[usize], first: usize, row: usize, gates: [&[f32]; 4]| {
        let live = lanes.min(channels - first);
        let operands = Operands { pixels, channels, first, live, row, gates, previous, current, y, saved };
        if lanes == 16 { finish::<16>(&operands) } else { finish::<8>(&operands) }
    };
    if winograd_applies(gates) {
        let weight = conv::winograd_gates(isa, gates, weight, workspace);
        let panels = conv::panels_of_gates(isa);
        return Winograd::new(gates, x, weight).run(panels, |sums| {
            let row = 4 * lanes;
            let mut pixels = Vec::with_capacity(sums.tiles.len() * PIXELS);
            with_scratch(sums.tiles.len() * PIXELS * row, |rows| {
                for tile in sums.tiles.clone() {
                    let places = sums.outputs(tile).map(|pixel| match pixel {
                        None => std::ptr::null_mut(),
                        Some(pixel) => {
                            pixels.push(pixel);
                            rows[(pixels.len() - 1) * row..][..row].as_mut_ptr()
                        }
                    });
                    // SAFETY: rows of this task, each of `row` numbers; a group of gates is that many columns.
                    unsafe { sums.write(tile, row, &places, false) };
                }
                let gates = [0, 1, 2, 3].map(|gate| &rows[gate * lanes..]);
                end(&pixels, sums.column / 4, row, gates);
            });
        });
    }
    conv::with_forward_product(gates, isa, x, weight, true, workspace, |product| {
        let nr = product.nr;
        let panels = conv::panels_of_gates(isa);
        (0..pixels.div_ceil(MC)).into_par_iter().for_each(|block| {
            let rows = block * MC..((block + 1) * MC).min(pixels);
            let scratch_len = product.left.scratch_len();
            let tile_len = rows.len().next_multiple_of(MR) * nr;
            let mut pointers = Vec::new();
            let pixels: Vec<usize> = rows.clone().collect();
            with_scratch(scratch_len + panels * tile_len, |scratch| {
                let (scratch, tiles) = scratch.split_at_mut(scratch_len);
                // SAFETY: `scratch` outlives the loop below.
                unsafe { product.left.pointers(rows.clone(), scratch, &mut pointers) };
                for (group, first) in (0..channels).step_by(lanes).enumerate() {
                    for (p, tile) in tiles.chunks_exact_mut(tile_len).enumerate() {
                        product.panel_tile(&pointers, rows.len(), group * panels + p, tile);
                    }
                    let gates = [0, 1, 2, 3].map(|gate| &tiles[gate * lanes / nr * tile_len + gate * lanes % nr..]);
                    end(&pixels, first, nr, gates);
                }
            });
        });
    });
}

/// Returns whether the gates of a cell are computed by Winograd's method: then there are whole vectors of channels.
fn winograd_applies(gates: &Conv2dGeometry) -> bool {
    winograd::applies(gates) && (gates.out_c / 4).is_multiple_of(winograd::CHANNELS)
}

/// What the end of a cell needs for some rows and up to a vector of channels.
struct Operands<'a> {
    pixels: &'a [usize],
    channels: usize,
    /// The first channel, and how many there are.
    first: usize,
    live: usize,
    /// The pre-activations of each gate: those of the next pixel are `row` elements further.
    row: usize,
    gates: [&'a [f32]; 4],
    /// `[pixels, channels]`, as the next two.
    previous: &'a [f32],
    current: Shared,
    y: Shared,
    /// `[pixels, 4 * channels]`.
    saved: Option<Shared>,
}

for_each_isa! {
    /// Applies the gates to `LANES` channels of some rows: writes the state, the output and what backward needs.
    fn finish<const LANES: usize>(operands: &Operands<'_>) {
        let &Operands { pixels, channels, first, live, row, gates, previous, current, y, saved } = operands;
        for (r, pixel) in pixels.iter().enumerate() {
            let [mut i, mut f, mut o, mut g] = gates.map(|gate| {
                let values: &[f32; LANES] = gate[r * row..][..LANES].try_into().expect("a vector of lanes");
                *values
            });
            let at = pixel * channels + first;
            let mut before = [0.0; LANES];
            if live == LANES {
                before.copy_from_slice(&previous[at..at + LANES]);
            } else {
                before[..live].copy_from_slice(&previous[at..at + live]);
            }
            let (mut state, mut out) = ([0.0; LANES], [0.0; LANES]);
            for c in 0..LANES {
                (i[c], f[c], o[c], g[c]) = (sigmoid(i[c]), sigmoid(f[c]), sigmoid(o[c]), tanh(g[c]));
                state[c] = f[c] * before[c] + i[c] * g[c];
                out[c] = o[c] * tanh(state[c]);
            }
            let put = |base: Shared, start: usize, values: &[f32; LANES]| {
                // SAFETY: only this task has these channels of this row, which the caller's buffers contain.
                unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), base.get().add(start), live) };
            };
            put(current, at, &state);
            put(y, at, &out);
            if let Some(saved) = saved {
                for (gate, values) in [i, f, o, g].iter().enumerate() {
                    put(saved, pixel * 4 * channels + gate * channels + first, values);
                }
            }
        }
    }
}

/// Turns the activated gates `[pixels, 4·channels]` into the gradients of their pre-activations, in place. `previous` (c') and `grad_y`
/// (dy) are `[pixels, channels]`. With `c = f·c' + i·g` and `dc = dy·o·(1 - tanh²c)`:
/// `da_i = dc·g·i(1-i)`, `da_f = dc·c'·f(1-f)`, `da_o = dy·tanh(c)·o(1-o)`,
/// `da_g = dc·i·(1-g²)`.
pub fn gate_gradients(channels: usize, gates: &mut [f32], previous: &[f32], grad_y: &[f32]) {
    par::rows_mut(gates, 4 * channels, |first, rows| {
        let span = first * channels..first * channels + rows.len() / 4;
        gate_gradients_of(channels, rows, &previous[span.clone()], &grad_y[span]);
    });
}

for_each_isa! {
    fn gate_gradients_of(channels: usize, gates: &mut [f32], previous: &[f32], grad_y: &[f32]) {
        let pixels = previous.chunks_exact(channels).zip(grad_y.chunks_exact(channels));
        for (row, (before, dy)) in gates.chunks_exact_mut(4 * channels).zip(pixels) {
            let (i, rest) = row.split_at_mut(channels);
            let (f, rest) = rest.split_at_mut(channels);
            let (o, g) = rest.split_at_mut(channels);
            let (before, dy, g) = (&before[..channels], &dy[..channels], &mut g[..channels]);
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
    }
}
