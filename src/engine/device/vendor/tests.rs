//! Layouts are compared with the convolutions of the CPU; a library's answers are remembered, and its conditions checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::RngExt;

use super::*;
use crate::base::rng::{Purpose, stream};
use crate::engine::cpu::conv;

fn uniform(len: usize, item: u64) -> Vec<f32> {
    let mut rng = stream(5, Purpose::Test, 0, item);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn geometry(
    batch: usize,
    size: [usize; 2],
    [input, output]: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> Conv2dGeometry {
    Conv2dGeometry::new(batch, size, input, output, kernel, stride, padding).unwrap()
}

/// Transposes `[rows, columns]` to `[columns, rows]`.
fn transpose(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        // Sums of fewer than 200 products of numbers below 1, in another order.
        assert!((f - e).abs() <= 1e-4, "{what}[{i}]: {f}, expected {e}");
    }
}

/// Computes the three passes on the CPU: y, dx and dw. `weight` and dw have the vendor's order, `[out, kh, kw, in]`.
fn on_the_cpu(g: &Conv2dGeometry, x: &[f32], weight: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
    let turned = transpose(weight, [g.out_c, g.k()]);
    let mut workspace = vec![0.0; conv::forward_workspace(g)];
    let mut y = vec![0.0; dy.len()];
    conv::conv2d_forward(Precision::F32, g, x, &turned, None, &mut y, conv::Packed::empty(&mut workspace));
    let mut workspace = vec![0.0; conv::backward_data_workspace(g)];
    let mut dx = vec![0.0; x.len()];
    conv::conv2d_backward_data(Precision::F32, g, dy, &turned, &mut dx, false, &mut workspace);
    let mut workspace = vec![0.0; conv::backward_weight_workspace(g)];
    let mut dw = vec![0.0; weight.len()];
    conv::conv2d_backward_weight(Precision::F32, g, x, dy, &mut dw, false, &mut workspace);
    [y, dx, transpose(&dw, [g.k(), g.out_c])]
}

/// Computes `c = op(a) op(b)` by the definition of column-major matrices (cuBLAS guide, "Data Layout").
fn column_major_gemm(product: &Product, a: &[f32], b: &[f32]) -> Vec<f32> {
    let element = |matrix: &Matrix, values: &[f32], row: usize, column: usize| {
        let (row, column) = if matrix.transposed { (column, row) } else { (row, column) };
        assert!(row < matrix.rows && column < matrix.columns);
        values[column * matrix.leading + row]
    };
    let inner = if product.a.transposed { product.a.rows } else { product.a.columns };
    assert_eq!(inner, if product.b.transposed { product.b.columns } else { product.b.rows });
    let mut c = vec![f32::NAN; product.c.leading * product.c.columns];
    for column in 0..product.c.columns {
        for row in 0..product.c.rows {
            let sum = (0..inner).map(|i| element(&product.a, a, row, i) * element(&product.b, b, i, column)).sum();
            c[column * product.c.leading + row] = sum;
        }
    }
    c
}

#[test]
fn products_are_the_convolutions_of_the_cpu() {
    for g in [
        geometry(2, [3, 5], [7, 4], [1, 1], [1, 1], [0, 0]),
        geometry(1, [1, 1], [6, 9], [1, 1], [1, 1], [0, 0]),
        geometry(11, [2, 4], [1, 3], [1, 1], [1, 1], [0, 0]),
    ] {
        assert!(Product::is(&g));
        let (x, dy) = (uniform(g.pixels() * g.in_c, 0), uniform(g.pixels() * g.out_c, 1));
        let weight = uniform(g.out_c * g.in_c, 2);
        let expected = on_the_cpu(&g, &x, &weight, &dy);
        let nothing: &[f32] = &[];
        for (pass, expected) in Pass::ALL.into_iter().zip(&expected) {
            // The result of a pass is not one of its operands.
            let operands = match pass {
                Pass::Forward => [&x, &weight, nothing],
                Pass::BackwardData => [nothing, &weight, &dy],
                Pass::BackwardWeight => [&x, nothing, &dy],
            };
            let [a, b, c] = Product::operands(pass, operands[0], operands[1], operands[2]);
            assert!(c.is_empty());
            let found = column_major_gemm(&Product::new(&g, pass), a, b);
            assert_close(&found, expected, &format!("{pass:?}, {g:?}"));
        }
    }
}

#[test]
fn only_plain_1x1_convolutions_are_products() {
    assert!(!Product::is(&geometry(1, [4, 4], [2, 2], [1, 1], [2, 2], [0, 0])));
    assert!(!Product::is(&geometry(1, [4, 4], [2, 2], [1, 1], [1, 2], [0, 0])));
    assert!(!Product::is(&geometry(1, [4, 4], [2, 2], [1, 1], [1, 1], [0, 1])));
    assert!(!Product::is(&geometry(1, [4, 4], [2, 2], [3, 3], [1, 1], [1, 1])));
}

/// Computes cuDNN's cross-correlation from its descriptors alone: y, dx, dw.
fn by_descriptors(d: &Descriptors, x: &[f32], weight: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
    let at = |tensor: &Tensor4d, place: [i32; 4]| {
        place.iter().zip(&tensor.strides).map(|(&i, &stride)| i as usize * stride as usize).sum::<usize>()
    };
    let [outputs, inputs, height, width] = d.filter;
    // Filter format NHWC: [k, h, w, c].
    let tap = |k: i32, c: i32, r: i32, s: i32| (((k * height + r) * width + s) * inputs + c) as usize;
    let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; weight.len()]);
    let [n_y, c_y, h_y, w_y] = d.y.sizes;
    let [n_x, c_x, h_x, w_x] = d.x.sizes;
    assert_eq!((n_y, c_y, c_x), (n_x, outputs, inputs));
    for (n, k) in (0..n_y).flat_map(|n| (0..outputs).map(move |k| (n, k))) {
        for (p, q) in (0..h_y).flat_map(|p| (0..w_y).map(move |q| (p, q))) {
            for (r, s) in (0..height).flat_map(|r| (0..width).map(move |s| (r, s))) {
                let (h, w) = (p * d.stride[0] - d.padding[0] + r, q * d.stride[1] - d.padding[1] + s);
                if (0..h_x).contains(&h) && (0..w_x).contains(&w) {
                    for c in 0..inputs {
                        let (out, input, tap) = (at(&d.y, [n, k, p, q]), at(&d.x, [n, c, h, w]), tap(k, c, r, s));
                        y[out] += x[input] * weight[tap];
                        dx[input] += dy[out] * weight[tap];
                        dw[tap] += dy[out] * x[input];
                    }
                }
            }
        }
    }
    [y, dx, dw]
}

#[test]
fn descriptors_are_the_convolutions_of_the_cpu() {
    for g in [
        geometry(2, [5, 7], [3, 4], [3, 3], [2, 2], [1, 1]),
        geometry(1, [9, 6], [3, 5], [7, 5], [2, 1], [3, 2]),
        geometry(3, [4, 6], [5, 2], [1, 1], [2, 2], [0, 0]),
        geometry(1, [6, 5], [2, 3], [2, 3], [1, 3], [0, 2]),
    ] {
        let x = uniform(g.batch * g.in_h * g.in_w * g.in_c, 3);
        let dy = uniform(g.pixels() * g.out_c, 4);
        let weight = uniform(g.k() * g.out_c, 5);
        let found = by_descriptors(&Descriptors::new(&g).unwrap(), &x, &weight, &dy);
        for (pass, (found, expected)) in found.iter().zip(&on_the_cpu(&g, &x, &weight, &dy)).enumerate() {
            assert_close(found, expected, &format!("{:?}, {g:?}", Pass::ALL[pass]));
        }
    }
}

#[test]
fn tensors_of_two_to_the_31_elements_are_refused() {
    let large = geometry(1 << 15, [256, 256], [1, 1], [3, 3], [2, 2], [1, 1]);
    let error = Descriptors::new(&large).unwrap_err().to_string();
    assert!(error.contains("2³¹") && error.contains("smaller batches"), "{error}");
    assert!(Descriptors::new(&Conv2dGeometry { batch: (1 << 15) - 1, ..large }).is_ok());
    let small = geometry(1, [256, 256], [1, 1], [3, 3], [512, 512], [129, 129]);
    assert!(Descriptors::new(&Conv2dGeometry { batch: usize::MAX / 2, ..small }).is_err());
}

/// A library that counts how often it is asked, refuses gradients of the input when it plans, and those of the weight when it is called.
#[derive(Default)]
struct Counting {
    planned: Arc<AtomicUsize>,
    ran: Arc<AtomicUsize>,
}

impl Library for Counting {
    fn description(&self) -> String {
        "a test's library".into()
    }

    fn plan(&self, call: &Call) -> Result<Answer<usize>> {
        self.planned.fetch_add(1, Ordering::Relaxed);
        Ok(if call.pass == Pass::BackwardData { Answer::Refuses("no".into()) } else { Answer::Takes(100) })
    }

    unsafe fn run(&self, call: &Call, _: [u64; 3], _: bool, _: u64) -> Result<Answer<()>> {
        self.ran.fetch_add(1, Ordering::Relaxed);
        Ok(if call.pass == Pass::BackwardWeight { Answer::Refuses("not now".into()) } else { Answer::Takes(()) })
    }
}

#[test]
fn a_library_is_asked_once_and_a_refusal_is_told_once() {
    let library = Counting::default();
    let (planned, ran) = (library.planned.clone(), library.ran.clone());
    let counts = || [&planned, &ran].map(|count| count.load(Ordering::Relaxed));
    let vendor = Vendor::new(library);
    let geometry = geometry(2, [5, 7], [3, 4], [3, 3], [2, 2], [1, 1]);
    let [forward, data, weight] = Pass::ALL.map(|pass| Call { geometry, precision: Precision::Bf16, pass });
    for _ in 0..2 {
        let bytes = [forward, data, weight].map(|call| vendor.workspace(call).unwrap());
        assert_eq!(bytes, [Some(100), None, Some(100)]);
    }
    assert_eq!(counts(), [3, 0]);
    assert!(vendor.take_refusals().is_empty(), "nobody wanted the gradient of the input");
    let run = |call| {
        vendor.begin(call).unwrap();
        // SAFETY: the library reads and writes nothing.
        unsafe { vendor.run(call, [16, 32, 48], false, 256) }
    };
    for _ in 0..2 {
        assert_eq!([forward, data, weight].map(|call| run(call).unwrap()), [true, false, false]);
    }
    assert_eq!(counts(), [3, 3], "a refusal is final");
    assert_eq!(vendor.workspace(weight).unwrap(), None);
    let refusals = vendor.take_refusals();
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    let text = "cuDNN does not compute the gradient of the input of a 3x3 convolution of 2 maps of 5x7x3 to 4 channels, stride 2x2, \
                padding 1x1, in bf16 (no): ptl's own kernel does";
    assert_eq!(refusals[0], text);
    assert!(refusals[1].contains("gradient of the weight") && refusals[1].contains("(not now)"), "{refusals:?}");
    assert!(vendor.take_refusals().is_empty());
}

#[test]
fn misaligned_addresses_never_reach_a_library() {
    let library = Counting::default();
    let ran = library.ran.clone();
    let vendor = Vendor::new(library);
    let geometry = geometry(1, [3, 3], [8, 8], [1, 1], [1, 1], [0, 0]);
    let call = Call { geometry, precision: Precision::F32, pass: Pass::Forward };
    for (operands, workspace, what) in [
        ([16, 40, 48], 256, "0x28 of an operand is no multiple of 16"),
        ([16, 32, 48], 320, "0x140 of the workspace is no multiple of 256"),
    ] {
        // SAFETY: the library reads and writes nothing.
        let error = unsafe { vendor.run(call, operands, false, workspace) }.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    assert_eq!(ran.load(Ordering::Relaxed), 0);
}
