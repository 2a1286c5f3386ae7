//! Implements [`Vendor`]: cuBLASLt for convolutions that are matrix products, cuDNN for the others.

use std::sync::{Arc, Mutex};

use super::cublaslt::CublasLt;
use super::cudnn::Cudnn;
use super::handles::{Context, Stream};
use super::layout::{Pass, Product};
use super::lock;
use crate::Result;
use crate::engine::device::{Precision, Vendor};
use crate::engine::geometry::Conv2dGeometry;

/// Both libraries, each for one thread at a time.
pub(super) struct Libraries {
    cudnn: Mutex<Cudnn>,
    cublaslt: Mutex<CublasLt>,
    context: Arc<Context>,
}

impl Libraries {
    /// Opens both for `context`, which is current; all work is enqueued in `stream`.
    pub(super) fn open(context: &Arc<Context>, stream: &Arc<Stream>) -> Result<Libraries> {
        Ok(Libraries {
            cudnn: Mutex::new(Cudnn::open(stream)?),
            cublaslt: Mutex::new(CublasLt::open(stream)?),
            context: Arc::clone(context),
        })
    }
}

impl Vendor for Libraries {
    fn workspace(&self, geometry: &Conv2dGeometry, precision: Precision) -> Result<[usize; 2]> {
        self.context.bind()?;
        if Product::is(geometry) {
            let [forward, data, weight] = lock(&self.cublaslt).workspace(geometry, precision)?;
            return Ok([forward, data.max(weight)]);
        }
        lock(&self.cudnn).workspace(geometry, precision)
    }

    unsafe fn forward(
        &self,
        geometry: &Conv2dGeometry,
        precision: Precision,
        x: u64,
        weight: u64,
        y: u64,
        workspace: u64,
    ) -> Result<()> {
        self.context.bind()?;
        let operands = [x, weight, y];
        // SAFETY: the caller promised what these functions need.
        unsafe {
            if Product::is(geometry) {
                lock(&self.cublaslt).run(geometry, precision, Pass::Forward, operands, false, workspace)
            } else {
                lock(&self.cudnn).forward(geometry, precision, operands, workspace)
            }
        }
    }

    unsafe fn backward_data(
        &self,
        geometry: &Conv2dGeometry,
        precision: Precision,
        dy: u64,
        weight: u64,
        dx: u64,
        accumulate: bool,
        workspace: u64,
    ) -> Result<()> {
        self.context.bind()?;
        let operands = [dx, weight, dy];
        // SAFETY: the caller promised what these functions need.
        unsafe {
            if Product::is(geometry) {
                lock(&self.cublaslt).run(geometry, precision, Pass::BackwardData, operands, accumulate, workspace)
            } else {
                lock(&self.cudnn).backward_data(geometry, precision, operands, accumulate, workspace)
            }
        }
    }

    unsafe fn backward_weight(
        &self,
        geometry: &Conv2dGeometry,
        precision: Precision,
        x: u64,
        dy: u64,
        dweight: u64,
        workspace: u64,
    ) -> Result<()> {
        self.context.bind()?;
        let operands = [x, dweight, dy];
        // SAFETY: the caller promised what these functions need.
        unsafe {
            if Product::is(geometry) {
                lock(&self.cublaslt).run(geometry, precision, Pass::BackwardWeight, operands, false, workspace)
            } else {
                lock(&self.cudnn).backward_weight(geometry, precision, operands, workspace)
            }
        }
    }
}
