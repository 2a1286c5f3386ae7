//! A typed launch function for each kernel in `kernels/`, written by the build script from the kernels' signatures. The comments `launch:`
//! there say which grid and how much shared memory a kernel needs.
//!
//! These functions are for the ops, which derive addresses and sizes from one plan, and for benches of single kernels. Nothing checks that
//! an address is of the device's memory, with the size that the kernel's contract says.

use std::ffi::c_void;

use half::bf16;

use super::{Gpu, Grid, Kernel, Ptr};
use crate::Result;
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::precision::Precision;

/// Returns the address of an argument, as launches take it.
fn argument<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

// `kernels/conv_sizes.h` asserts the same.
const _: () = assert!(size_of::<ConvSizes>() == 52);

impl From<&Conv2dGeometry> for ConvSizes {
    fn from(geometry: &Conv2dGeometry) -> ConvSizes {
        let Conv2dGeometry { batch, in_h, in_w, in_c, out_c, kernel, stride, padding } = *geometry;
        let [kernel_h, kernel_w] = kernel.map(|size| size as i32);
        let [stride_y, stride_x] = stride.map(|size| size as i32);
        let [padding_y, padding_x] = padding.map(|size| size as i32);
        ConvSizes {
            n: batch as i32,
            in_h: in_h as i32,
            in_w: in_w as i32,
            in_c: in_c as i32,
            out_h: geometry.out_h() as i32,
            out_w: geometry.out_w() as i32,
            out_c: out_c as i32,
            kernel_h,
            kernel_w,
            stride_y,
            stride_x,
            padding_y,
            padding_x,
        }
    }
}

include!(concat!(env!("OUT_DIR"), "/launch.rs"));
