//! The fused BConv-Cell: convolution, gates, state update and output in one pass. The 4·C pre-activations exist only in a tile
//! that stays in the cache.

use rayon::prelude::*;

use super::conv::winograd::{self, Product as Winograd};
use super::conv::{self, Packed};
use super::gemm::{LeftRows, MC, Shared, for_each_block};
use super::isa::InstructionSet;
use super::math::{sigmoid, tanh};
use super::microkernel::{self, Kernels, MR};
use super::par;
use super::scratch::with_scratch;
use super::simd::for_each_vector;
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::precision::Precision;

/// Columns of gates that are computed before the gates are applied. Their sums stay in the second-level cache, and the input is read once for
/// all of them.
const CHUNK: usize = 128;

/// Returns the workspace of [`bconv_forward`], in f32.
pub fn forward_workspace(gates: &Conv2dGeometry) -> usize {
    let kernels = microkernel::best();
    if winograd_applies(gates) {
        return conv::winograd_gates_workspace(kernels, gates);
    }
    gates.k() * conv::gates_columns(kernels, gates.out_c)
}

/// Runs one step of a cell. `gates.out_c` is 4·C. `x` is `[batch, in_h, in_w, in_c]`; `weight` is `[k, 4·C]` with the columns i, f, o, g;
/// `previous`, `current` and `y` are `[pixels, C]`; `saved` `[pixels, 4·C]` gets the activated gates for backward.
///
/// # Panics
/// If `precision` is bf16 and the processor has no dot products of it ([`InstructionSet::has_bf16`](crate::engine::cpu::InstructionSet)).
/// tf32 is computed in f32.
#[expect(clippy::too_many_arguments, reason = "the operands of one fused kernel")]
pub fn bconv_forward(
    precision: Precision,
    gates: &Conv2dGeometry,
    x: &[f32],
    weight: &[f32],
    previous: &[f32],
    current: &mut [f32],
    y: &mut [f32],
    saved: Option<&mut [f32]>,
    packed: Packed<'_>,
) {
    forward_on(microkernel::of(precision), gates, x, weight, previous, current, y, saved, packed);
}

#[expect(clippy::too_many_arguments, reason = "the operands of one fused kernel")]
fn forward_on(
    kernels: Kernels,
    gates: &Conv2dGeometry,
    x: &[f32],
    weight: &[f32],
    previous: &[f32],
    current: &mut [f32],
    y: &mut [f32],
    saved: Option<&mut [f32]>,
    packed: Packed<'_>,
) {
    let channels = gates.out_c / 4;
    let pixels = gates.pixels();
    assert!(previous.len() == pixels * channels && current.len() == previous.len() && y.len() == previous.len());
    if let Some(saved) = &saved {
        assert_eq!(saved.len(), 4 * previous.len());
    }
    let (current, y) = (Shared(current.as_mut_ptr()), Shared(y.as_mut_ptr()));
    let saved = saved.map(|s| Shared(s.as_mut_ptr()));
    let lanes = kernels.lanes;
    let end = |pixels: &[usize], first: usize, row: usize, gates: [&[f32]; 4]| {
        let live = lanes.min(channels - first);
        let operands = Operands { pixels, channels, first, live, row, gates, previous, current, y, saved };
        // SAFETY: the operands are those of this task alone, and the caller chose an instruction set of this machine.
        unsafe { finish(kernels.set, &operands) }
    };
    if winograd_applies(gates) {
        let weight = conv::winograd_gates(kernels, gates, weight, packed);
        let panels = conv::panels_of_gates(kernels);
        return Winograd::new(gates, x, weight).run(panels, |sums| {
            let row = 4 * lanes;
            let mut pixels = Vec::new();
            with_scratch(sums.tiles.len() * winograd::TILE_PIXELS * row, |rows| {
                let base = rows.as_mut_ptr();
                for tile in sums.tiles.clone() {
                    let place = |pixel: Option<usize>| match pixel {
                        None => std::ptr::null_mut(),
                        Some(pixel) => {
                            pixels.push(pixel);
                            // SAFETY: there is a row for each pixel of a tile.
                            unsafe { base.add((pixels.len() - 1) * row) }
                        }
                    };
                    let places: Vec<*mut f32> = sums.outputs(tile).map(place).collect();
                    // SAFETY: rows of this task, each of `row` numbers; a group of gates is that many columns.
                    unsafe { sums.write(tile, row, &places, false) };
                }
                let gates = [0, 1, 2, 3].map(|gate| &rows[gate * lanes..]);
                end(&pixels, sums.column / 4, row, gates);
            });
        });
    }
    conv::with_forward_product(gates, kernels, x, weight, true, packed, |product| {
        let nr = product.nr;
        let panels = conv::panels_of_gates(kernels);
        // Groups of channels, each of a vector, and how many of them are computed before their gates are.
        let (groups, at_once) = (channels.div_ceil(lanes), (CHUNK / (4 * lanes)).max(1));
        for_each_block(pixels, MC, groups.div_ceil(at_once), |rows, chunks| {
            let scratch_len = product.left.scratch_len();
            let tile_len = rows.len().next_multiple_of(MR) * nr;
            let mut pointers = Vec::new();
            let pixels: Vec<usize> = rows.clone().collect();
            with_scratch(scratch_len + at_once * panels * tile_len, |scratch| {
                let (scratch, tiles) = scratch.split_at_mut(scratch_len);
                // SAFETY: `scratch` outlives the loop below.
                unsafe { product.left.pointers(rows.clone(), scratch, &mut pointers) };
                for chunk in chunks {
                    let own = chunk * at_once..((chunk + 1) * at_once).min(groups);
                    // SAFETY: the pointers are those of these rows; `scratch` is still borrowed.
                    unsafe {
                        product.panel_tiles(&pointers, rows.len(), own.start * panels..own.end * panels, tiles);
                    }
                    for (group, tiles) in own.zip(tiles.chunks_exact(panels * tile_len)) {
                        let gates = [0, 1, 2, 3].map(|gate| &tiles[gate * lanes / nr * tile_len + gate * lanes % nr..]);
                        end(&pixels, group * lanes, nr, gates);
                    }
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

for_each_vector! {
    /// Applies the gates to a vector of channels of some pixels: writes the state, the output and what backward needs.
    ///
    /// # Safety
    /// There are at most a vector of live channels, all of them channels of the cell. `current` and `y` are as long as `previous`, `saved` four
    /// times that; nobody else may use these channels of these pixels. The machine must have the instruction set.
    unsafe fn finish<S>(operands: &Operands<'_>) {
        let &Operands { pixels, channels, first, live, row, gates, previous, current, y, saved } = operands;
        for (r, pixel) in pixels.iter().enumerate() {
            let at = pixel * channels + first;
            let pre_activations = gates.map(|gate| gate[r * row..][..live].as_ptr());
            // SAFETY: the slices are checked here. `current`, `y` and `saved` have as many pixels as `previous`, and nobody else uses these
            // channels (the caller's promise).
            unsafe {
                let [i, f, o, g] = pre_activations.map(|gate| S::load_part(gate, live));
                let (i, f, o, g) = (sigmoid(i), sigmoid(f), sigmoid(o), tanh(g));
                let before = S::load_part(previous[at..at + live].as_ptr(), live);
                let state = f.mul_add(before, i.mul(g));
                state.store_part(current.get().add(at), live);
                o.mul(tanh(state)).store_part(y.get().add(at), live);
                if let Some(saved) = saved {
                    for (gate, values) in [i, f, o, g].into_iter().enumerate() {
                        values.store_part(saved.get().add((pixel * 4 + gate) * channels + first), live);
                    }
                }
            }
        }
    }

    /// Computes [`gate_gradients`] for some pixels.
    ///
    /// # Safety
    /// The machine must have the instruction set. `grad_state` has as many numbers as `previous`, and nobody else uses them.
    unsafe fn gate_gradients_of<S>(
        channels: usize,
        gates: &mut [f32],
        previous: &[f32],
        grad_y: &[f32],
        grad_state: Option<*mut f32>,
    ) {
        let pixels = previous.chunks_exact(channels).zip(grad_y.chunks_exact(channels));
        for (pixel, (row, (before, dy))) in gates.chunks_exact_mut(4 * channels).zip(pixels).enumerate() {
            let row = row.as_mut_ptr();
            for c in (0..channels).step_by(S::LANES) {
                let live = S::LANES.min(channels - c);
                // SAFETY: `live` channels of the pixel from `c` on, of each gate.
                unsafe {
                    let places = [0, 1, 2, 3].map(|gate| row.add(gate * channels + c));
                    let [i, f, o, g] = places.map(|place| S::load_part(place, live));
                    let (before, dy) = (S::load_part(before[c..].as_ptr(), live), S::load_part(dy[c..].as_ptr(), live));
                    let one = S::splat(1.0);
                    let t = tanh(f.mul_add(before, i.mul(g)));
                    let mut dc = dy.mul(o).mul(one.sub(t.mul(t)));
                    if let Some(grad_state) = grad_state {
                        let place = grad_state.add(pixel * channels + c);
                        dc = dc.add(S::load_part(place, live));
                        dc.mul(f).store_part(place, live);
                    }
                    let gradients = [
                        dc.mul(g).mul(i).mul(one.sub(i)),
                        dc.mul(before).mul(f).mul(one.sub(f)),
                        dy.mul(t).mul(o).mul(one.sub(o)),
                        dc.mul(i).mul(one.sub(g.mul(g))),
                    ];
                    for (gradient, place) in gradients.into_iter().zip(places) {
                        gradient.store_part(place, live);
                    }
                }
            }
        }
    }
}

/// Computes a step of a cell from its pre-activations `[pixels, 4·channels]`, as an unfused cell does after its convolution. The other
/// shapes are those of [`bconv_forward`].
///
/// # Panics
/// If sizes do not fit.
pub fn apply_gates(channels: usize, pre_activations: &[f32], previous: &[f32], current: &mut [f32], y: &mut [f32]) {
    let pixels = pre_activations.len() / (4 * channels);
    let sizes = [pre_activations.len() / 4, previous.len(), current.len(), y.len()];
    assert!(sizes.iter().all(|len| *len == pixels * channels), "sizes of a cell");
    let (set, lanes) = (InstructionSet::best(), microkernel::best().lanes);
    let (current, y) = (Shared(current.as_mut_ptr()), Shared(y.as_mut_ptr()));
    (0..pixels.div_ceil(MC)).into_par_iter().for_each(|block| {
        let pixels: Vec<usize> = (block * MC..((block + 1) * MC).min(pixels)).collect();
        for first in (0..channels).step_by(lanes) {
            let at = pixels[0] * 4 * channels + first;
            let gates = [0, 1, 2, 3].map(|gate| &pre_activations[at + gate * channels..]);
            let live = lanes.min(channels - first);
            let (pixels, row, saved) = (&pixels[..], 4 * channels, None);
            let operands = Operands { pixels, channels, first, live, row, gates, previous, current, y, saved };
            // SAFETY: only this task has these pixels; the instruction set is in use.
            unsafe { finish(set, &operands) };
        }
    });
}

/// Turns the activated gates `[pixels, 4·channels]` into the gradients of their pre-activations, in place. `previous` (c') and `grad_y`
/// (dy) are `[pixels, channels]`. With `c = f·c' + i·g` and `dc = dy·o·(1 - tanh²c)`:
/// `da_i = dc·g·i(1-i)`, `da_f = dc·c'·f(1-f)`, `da_o = dy·tanh(c)·o(1-o)`,
/// `da_g = dc·i·(1-g²)`. If another step follows, `grad_state` `[pixels, channels]` holds the gradient of c, which is added to dc, and
/// becomes that of c', `dc·f`.
///
/// # Panics
/// If the lengths differ.
pub fn gate_gradients(
    channels: usize,
    gates: &mut [f32],
    previous: &[f32],
    grad_y: &[f32],
    grad_state: Option<&mut [f32]>,
) {
    assert!(grad_state.as_ref().is_none_or(|grad| grad.len() == previous.len()));
    let grad_state = grad_state.map(|grad| Shared(grad.as_mut_ptr()));
    par::rows_mut(gates, 4 * channels, |first, rows| {
        let span = first * channels..first * channels + rows.len() / 4;
        // SAFETY: the instruction set in use. The numbers of `grad_state` are those of these rows, which are of this task alone.
        unsafe {
            let set = InstructionSet::best();
            let grad_state = grad_state.map(|grad| grad.get().add(span.start));
            gate_gradients_of(set, channels, rows, &previous[span.clone()], &grad_y[span], grad_state);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cpu::conv::tests::{reference as convolution, rounded_to_bf16, uniform};

    /// Returns output, state and activated gates from direct sums in f64.
    fn reference(g: &Conv2dGeometry, x: &[f32], weight: &[f32], previous: &[f32]) -> [Vec<f64>; 3] {
        let channels = g.out_c / 4;
        let pre_activations = convolution(g, x, weight, &vec![0.0; g.pixels() * g.out_c]).y;
        let [mut y, mut state, mut gates] = [channels, channels, 4 * channels].map(|c| vec![0.0; g.pixels() * c]);
        for (pixel, sums) in pre_activations.chunks_exact(g.out_c).enumerate() {
            let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
            for c in 0..channels {
                let [i, f, o, g] = [0, 1, 2, 3].map(|gate| sums[gate * channels + c]);
                let activated = [sigmoid(i), sigmoid(f), sigmoid(o), g.tanh()];
                let [i, f, o, g] = activated;
                let at = pixel * channels + c;
                state[at] = f * f64::from(previous[at]) + i * g;
                y[at] = o * state[at].tanh();
                activated.iter().enumerate().for_each(|(gate, v)| gates[(pixel * 4 + gate) * channels + c] = *v);
            }
        }
        [y, state, gates]
    }

    #[test]
    fn every_instruction_set_matches_direct_sums() {
        // Parts of a vector of channels, several parts of columns, gathered windows, Winograd's method for both strides, several tasks.
        let cases = [
            (2, [9, 7], 3, 5, 2),
            (1, [6, 11], 16, 16, 1),
            (2, [5, 6], 7, 48, 1),
            (1, [12, 12], 40, 160, 2),
            (7, [13, 12], 20, 12, 1),
            (2, [10, 9], 48, 64, 1),
            (1, [32, 32], 128, 32, 2),
        ];
        for ((batch, size, input, channels, stride), in_bf16) in cases.into_iter().flat_map(|c| [(c, false), (c, true)])
        {
            // Factors that are exact in bf16 are not changed by rounding.
            let exact = |values: Vec<f32>| if in_bf16 { rounded_to_bf16(&values) } else { values };
            let all = if in_bf16 { microkernel::available_in_bf16() } else { microkernel::available() };
            let g = Conv2dGeometry::new(batch, size, input, 4 * channels, [3, 3], [stride; 2], [1, 1]).unwrap();
            let x = exact(uniform(batch * size[0] * size[1] * input, 0));
            let weight = exact(uniform(g.k() * g.out_c, 1).iter().map(|w| 0.1 * w).collect());
            let previous = uniform(g.pixels() * channels, 2);
            let expected = reference(&g, &x, &weight, &previous);
            for kernels in all {
                for keep in [false, true] {
                    let [mut y, mut state] = [(); 2].map(|()| vec![f32::NAN; previous.len()]);
                    let mut gates = vec![f32::NAN; 4 * previous.len()];
                    let saved = keep.then_some(&mut gates[..]);
                    let mut workspace = vec![f32::NAN; 2 * forward_workspace(&g)];
                    forward_on(
                        kernels,
                        &g,
                        &x,
                        &weight,
                        &previous,
                        &mut state,
                        &mut y,
                        saved,
                        Packed::empty(&mut workspace),
                    );
                    let found = [&y, &state, &gates];
                    for (what, (found, expected)) in ["y", "state", "gates"].iter().zip(found.iter().zip(&expected)) {
                        if *what == "gates" && !keep {
                            continue;
                        }
                        for (i, (f, e)) in found.iter().zip(expected).enumerate() {
                            let error = (f64::from(*f) - e).abs();
                            assert!(error <= 4e-6, "{what}[{i}], {}, {g:?}: {f}, expected {e}", kernels.name);
                        }
                    }
                }
            }
        }
    }
}
