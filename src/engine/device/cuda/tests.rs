//! Tests that need no GPU: layouts are compared with the convolutions of the CPU; messages; and nothing panics.

use cudarc::cublaslt::sys::cublasStatus_t;
use cudarc::driver::sys::CUresult;
use rand::RngExt;

use super::layout::{Descriptors, Matrix, Pass, Product, Tensor4d};
use super::libraries::{CUBLASLT, CUDNN, Found, cudnn_version, judge, judge_driver, missing};
use super::module::aligned;
use super::status::Status;
use super::*;
use crate::base::rng::{Purpose, stream};
use crate::engine::cpu::conv;
use crate::engine::geometry::Conv2dGeometry;

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
    conv::conv2d_forward(g, x, &turned, None, &mut y, conv::Packed::empty(&mut workspace));
    let mut workspace = vec![0.0; conv::backward_data_workspace(g)];
    let mut dx = vec![0.0; x.len()];
    conv::conv2d_backward_data(g, dy, &turned, &mut dx, false, &mut workspace);
    let mut workspace = vec![0.0; conv::backward_weight_workspace(g)];
    let mut dw = vec![0.0; weight.len()];
    conv::conv2d_backward_weight(g, x, dy, &mut dw, false, &mut workspace);
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

#[test]
fn without_a_driver_opening_says_so() {
    // SAFETY: opening the driver's library runs its initialisers, which have no preconditions.
    if unsafe { sys::is_culib_present() } {
        println!("SKIPPED: there is a driver");
        return;
    }
    for vendor in [false, true] {
        let error = Cuda::open(0, &[], &[], vendor).unwrap_err();
        assert!(matches!(error, Error::NoDevice { device: "cuda", .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with("cuda: libcuda.so.1") && text.contains("`device` cpu"), "{text}");
    }
}

#[test]
fn only_whole_fat_binaries_are_loaded() {
    // Magic, version 1, 16 bytes of header, then 12 that follow.
    let mut fatbin = [0x50, 0xED, 0x55, 0xBA, 1, 0, 16, 0, 12, 0, 0, 0, 0, 0, 0, 0].to_vec();
    fatbin.extend([7; 12]);
    assert_eq!(aligned(&fatbin).unwrap(), [0x10_0001_BA55_ED50, 12, 0x0707_0707_0707_0707, 0x0707_0707]);
    let refused = |bytes: &[u8], part: &str| {
        let error = aligned(bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&[], "build it where nvcc is found");
    refused(&fatbin[..fatbin.len() - 1], "a part of one");
    refused(&fatbin[..8], "no fat binary");
    refused(b".version 9.0 .target sm_90 and so on", "no fat binary");
    fatbin[8..16].fill(0xFF);
    refused(&fatbin, "a part of one");
}

#[test]
fn versions_are_judged_with_a_way_out() {
    assert_eq!(cudnn_version(91_205), [9, 12, 5]);
    assert_eq!(cudnn_version(8_907), [8, 9, 7]);
    let found = |version, cuda| Found { version, cuda, file: Some("/opt/lib/it.so".into()) };
    for (needed, version, cuda, driver) in [
        (&CUBLASLT, [12, 0, 0], 12_000, 12_000),
        (&CUBLASLT, [12, 9, 3], 12_090, 12_000),
        (&CUBLASLT, [13, 1, 0], 13_010, 13_000),
        (&CUDNN, [9, 0, 0], 12_030, 13_000),
    ] {
        judge(needed, &found(version, cuda), driver).unwrap();
    }
    let refused = |needed, version, cuda, driver, parts: &[&str]| {
        let error = judge(needed, &found(version, cuda), driver).unwrap_err();
        assert!(matches!(error, Error::NoDevice { .. }), "{error:?}");
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    let parts = ["cuDNN 8.9.7", "(/opt/lib/it.so)", "cuDNN 9 is needed", "nvidia-cudnn-cu12", "libcudnn9-cuda-12`"];
    refused(&CUDNN, [8, 9, 7], 12_010, 12_040, &parts);
    refused(&CUBLASLT, [11, 11, 3], 11_080, 13_000, &["12 or 13", "`pip install nvidia-cublas`", "libcublas-13-0`"]);
    refused(&CUBLASLT, [14, 0, 0], 14_000, 14_000, &["cuBLASLt 14.0.0", "12 or 13"]);
    let parts = ["for CUDA 13, the driver for CUDA 12.4", "newer driver", "nvidia-cublas-cu12", "libcublas-12-4`"];
    refused(&CUBLASLT, [13, 0, 0], 13_000, 12_040, &parts);
    let text = missing(&CUDNN, 13_000).to_string();
    assert!(text.starts_with("cuda: cuDNN was not found") && text.contains("nvidia-cudnn-cu13"), "{text}");
    judge_driver(12_000).unwrap();
    let text = judge_driver(11_080).unwrap_err().to_string();
    assert!(text.contains("CUDA 11.8") && text.contains("nvidia.com/drivers"), "{text}");
}

/// No library is needed: the texts come from the codes.
#[test]
fn codes_become_sentences_without_a_library() {
    assert!(CUresult::CUDA_SUCCESS.check("x").is_ok());
    let text = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS.check("waiting for the GPU").unwrap_err().to_string();
    assert!(text.starts_with("cuda, waiting for the GPU: CUDA_ERROR_ILLEGAL_ADDRESS (700), "), "{text}");
    assert!(text.ends_with("start the program again"), "{text}");
    let text = CUresult::CUDA_ERROR_INVALID_VALUE.check("launching f").unwrap_err().to_string();
    assert_eq!(text, "cuda, launching f: CUDA_ERROR_INVALID_VALUE (1)");
    let text = cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED.check("multiplying").unwrap_err().to_string();
    assert_eq!(text, "cuda, multiplying: CUBLAS_STATUS_NOT_SUPPORTED (15)");
}
