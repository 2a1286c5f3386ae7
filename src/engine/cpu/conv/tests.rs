//! Compares every pass on every instruction set of this machine with direct sums in f64.

use half::bf16;
use rand::RngExt;

use super::backward_data::backward_data_on;
use super::backward_weight::backward_weight_on;
use super::forward::forward_on;
use super::*;
use crate::base::rng::{Purpose, stream};
use crate::engine::cpu::gemm::Then;
use crate::engine::cpu::microkernel::{self, Kernels};
use crate::engine::geometry::Conv2dGeometry;

/// Returns sizes that reach every path: gathered and direct windows, tails of rows and columns, several blocks of depth and of
/// pixels, strides larger than the kernel, padding on one axis only.
fn geometries() -> Vec<Conv2dGeometry> {
    let case = |batch, size, [input, output]: [usize; 2], kernel, stride, padding| {
        Conv2dGeometry::new(batch, size, input, output, kernel, stride, padding).unwrap()
    };
    vec![
        case(1, [1, 1], [1, 1], [1, 1], [1, 1], [0, 0]),
        case(2, [5, 7], [3, 17], [3, 3], [2, 2], [1, 1]),
        case(1, [14, 11], [3, 64], [7, 7], [2, 2], [3, 3]),
        case(2, [6, 5], [64, 70], [1, 1], [1, 1], [0, 0]),
        case(1, [9, 8], [300, 33], [1, 1], [2, 2], [0, 0]),
        case(2, [7, 6], [40, 130], [3, 3], [1, 1], [1, 1]),
        case(1, [8, 9], [19, 20], [2, 5], [3, 1], [0, 2]),
        case(3, [5, 5], [16, 5], [1, 1], [3, 3], [0, 0]),
        case(1, [6, 6], [17, 9], [5, 5], [1, 2], [4, 0]),
        case(9, [16, 16], [24, 12], [3, 3], [1, 1], [1, 1]),
        case(70, [1, 1], [50, 7], [1, 1], [1, 1], [0, 0]),
        // By Winograd's method: tiles that reach beyond the image, one tile, several blocks of channels, every padding.
        case(2, [9, 7], [64, 48], [3, 3], [1, 1], [1, 1]),
        case(1, [4, 4], [48, 16], [3, 3], [1, 1], [1, 1]),
        case(3, [5, 13], [48, 80], [3, 3], [1, 1], [0, 0]),
        case(2, [3, 3], [304, 16], [3, 3], [1, 1], [2, 2]),
        case(9, [16, 15], [64, 16], [3, 3], [1, 1], [1, 0]),
        case(2, [19, 10], [32, 48], [3, 3], [2, 2], [1, 1]),
        case(1, [3, 4], [16, 16], [3, 3], [2, 2], [0, 2]),
        case(3, [8, 23], [16, 80], [3, 3], [2, 2], [0, 1]),
        case(9, [16, 15], [144, 16], [3, 3], [2, 2], [2, 0]),
        // The same with stride 2: 16x8 outputs of 128 channels or more.
        case(1, [32, 16], [128, 48], [3, 3], [2, 2], [1, 1]),
        case(2, [33, 17], [144, 16], [3, 3], [2, 2], [0, 0]),
        // Few channels: several blocks of rows and images, a kernel smaller than the stride, columns and rows that no window reaches.
        case(3, [20, 33], [16, 16], [3, 3], [1, 1], [1, 1]),
        case(5, [11, 14], [5, 20], [2, 2], [3, 3], [0, 1]),
        case(2, [30, 41], [3, 10], [5, 4], [4, 3], [2, 0]),
        case(1, [3, 300], [2, 8], [3, 3], [1, 1], [1, 2]),
    ]
}

pub(in crate::engine::cpu) fn uniform(len: usize, item: u64) -> Vec<f32> {
    let mut rng = stream(3, Purpose::Test, 0, item);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

pub(in crate::engine::cpu) struct Reference {
    pub y: Vec<f64>,
    grad_x: Vec<f64>,
    grad_weight: Vec<f64>,
}

/// Computes all passes by their definition, pixel by pixel and tap by tap.
pub(in crate::engine::cpu) fn reference(g: &Conv2dGeometry, x: &[f32], weight: &[f32], grad_y: &[f32]) -> Reference {
    let mut y = vec![0.0; g.pixels() * g.out_c];
    let (mut grad_x, mut grad_weight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
    for p in 0..g.pixels() {
        let (n, oh, ow) = (p / (g.out_h() * g.out_w()), p / g.out_w() % g.out_h(), p % g.out_w());
        for kh in 0..g.kernel[0] {
            for kw in 0..g.kernel[1] {
                let (ih, iw) = (oh * g.stride[0] + kh, ow * g.stride[1] + kw);
                if ih < g.padding[0] || iw < g.padding[1] || ih - g.padding[0] >= g.in_h || iw - g.padding[1] >= g.in_w
                {
                    continue;
                }
                let pixel = (n * g.in_h + ih - g.padding[0]) * g.in_w + iw - g.padding[1];
                for i in 0..g.in_c {
                    let row = (kh * g.kernel[1] + kw) * g.in_c + i;
                    let value = f64::from(x[pixel * g.in_c + i]);
                    for o in 0..g.out_c {
                        let (w, d) = (f64::from(weight[row * g.out_c + o]), f64::from(grad_y[p * g.out_c + o]));
                        y[p * g.out_c + o] += value * w;
                        grad_x[pixel * g.in_c + i] += d * w;
                        grad_weight[row * g.out_c + o] += value * d;
                    }
                }
            }
        }
    }
    Reference { y, grad_x, grad_weight }
}

/// Asserts that the largest difference is at most 4e-6 of the largest value: Winograd's method has about twice the rounding error of direct
/// sums.
fn assert_close(found: &[f32], expected: impl Iterator<Item = f64>, what: &str) {
    let expected: Vec<f64> = expected.collect();
    let scale = expected.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        let error = (f64::from(*f) - e).abs();
        assert!(error <= 4e-6 * scale, "{what}[{i}]: {f}, expected {e}");
    }
}

/// Asserts that every pass of some kernels gives the direct sums of these factors.
fn assert_passes(all: &[Kernels], g: &Conv2dGeometry, [x, weight, grad_y]: [&[f32]; 3], expected: &Reference) {
    let bias = uniform(g.out_c, 3);
    for &kernels in all {
        let what = |pass: &str| format!("{pass}, {}, {g:?}", kernels.name);
        // The earlier content of a buffer is overwritten, or added to.
        let mut workspace = vec![f32::NAN; 2 * forward_workspace(g).max(backward_data_workspace(g))];
        let mut y = vec![f32::NAN; expected.y.len()];
        forward_on(kernels, g, x, weight, Then::AddBias(&bias), &mut y, Packed::empty(&mut workspace));
        let with_bias = expected.y.iter().enumerate().map(|(i, v)| v + f64::from(bias[i % g.out_c]));
        assert_close(&y, with_bias, &what("forward"));

        let mut grad_x = vec![f32::NAN; x.len()];
        backward_data_on(kernels, g, grad_y, weight, &mut grad_x, false, &mut workspace);
        assert_close(&grad_x, expected.grad_x.iter().copied(), &what("gradient of the input"));
        backward_data_on(kernels, g, grad_y, weight, &mut grad_x, true, &mut workspace);
        assert_close(&grad_x, expected.grad_x.iter().map(|v| 2.0 * v), &what("gradient of the input, added"));

        let mut workspace = vec![f32::NAN; 2 * backward_weight_workspace(g)];
        let mut grad_weight = vec![f32::NAN; weight.len()];
        backward_weight_on(kernels, g, x, grad_y, &mut grad_weight, false, &mut workspace);
        assert_close(&grad_weight, expected.grad_weight.iter().copied(), &what("gradient of the weight"));
        backward_weight_on(kernels, g, x, grad_y, &mut grad_weight, true, &mut workspace);
        let doubled = expected.grad_weight.iter().map(|v| 2.0 * v);
        assert_close(&grad_weight, doubled, &what("gradient of the weight, added"));
    }
}

pub(in crate::engine::cpu) fn rounded_to_bf16(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect()
}

#[test]
fn every_instruction_set_matches_direct_sums() {
    for g in geometries() {
        let lens = [g.batch * g.in_h * g.in_w * g.in_c, g.k() * g.out_c, g.pixels() * g.out_c];
        let factors = [0, 1, 2].map(|i| uniform(lens[i], i as u64));
        let factors = factors.each_ref().map(|values| &values[..]);
        assert_passes(&microkernel::available(), &g, factors, &reference(&g, factors[0], factors[1], factors[2]));

        // These are exact in bf16, so that rounding changes nothing, also where a convolution stays in f32.
        let factors = factors.map(rounded_to_bf16);
        let factors = factors.each_ref().map(|values| &values[..]);
        assert_passes(
            &microkernel::available_in_bf16(),
            &g,
            factors,
            &reference(&g, factors[0], factors[1], factors[2]),
        );
    }
}

#[test]
fn factors_are_rounded_to_bf16() {
    let g = Conv2dGeometry::new(2, [5, 6], 64, 40, [1, 1], [1, 1], [0, 0]).unwrap();
    let factors = [uniform(2 * 5 * 6 * 64, 0), uniform(g.k() * g.out_c, 1), uniform(g.pixels() * g.out_c, 2)];
    let [x, weight, grad_y] = factors.each_ref().map(|values| rounded_to_bf16(values));
    let expected = reference(&g, &x, &weight, &grad_y);
    assert_passes(&microkernel::available_in_bf16(), &g, factors.each_ref().map(|values| &values[..]), &expected);
}

#[test]
fn a_kernel_that_does_not_fit_is_refused() {
    for (kernel, stride) in [([5, 1], [1, 1]), ([1, 5], [1, 1]), ([0, 1], [1, 1]), ([1, 1], [0, 1])] {
        let error = Conv2dGeometry::new(1, [4, 4], 3, 8, kernel, stride, [0, 0]).unwrap_err().to_string();
        assert!(error.starts_with("conv2d: kernel"), "{error}");
    }
    // Sizes whose products would overflow.
    for (batch, out, padding) in [(usize::MAX / 2, 1, 0), (1, 16, (1 << 29) - 1), (1, 1, usize::MAX / 2 + 1)] {
        let sizes = Conv2dGeometry::new(batch, [2, 2], 1, out, [1, 1], [1, 1], [padding; 2]);
        let error = sizes.unwrap_err().to_string();
        assert!(error.contains("too large"), "{error}");
    }
}
