//! A typed launch function for each kernel in `kernels/`, written by the build script from the kernels' signatures. Grids and shared
//! memory are those of the `launch:` comments there.
//!
//! They are for the ops, which derive addresses and sizes from one plan, and for benches of single kernels: an address that is not the
//! device's memory of the size that a kernel's contract says is written to all the same.

use std::ffi::c_void;

use half::bf16;

use super::{Gpu, Grid, Kernel, Precision, Ptr};
use crate::Result;

/// The address of an argument, as launches take it.
fn argument<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

include!(concat!(env!("OUT_DIR"), "/launch.rs"));
