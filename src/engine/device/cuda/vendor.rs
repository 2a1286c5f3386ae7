//! The vendor's libraries on a GPU: cuBLASLt for convolutions that are matrix products, cuDNN for the others.

use std::sync::{Arc, Mutex};

use super::cublaslt::CublasLt;
use super::cudnn::Cudnn;
use super::handles::{Context, Stream};
use super::places::Places;
use super::{libraries, lock};
use crate::Result;
use crate::engine::device::vendor::{Answer, Call, Library};

/// Both libraries, each for one thread at a time; `None` if it is missing.
pub(super) struct Libraries {
    cudnn: Option<Mutex<Cudnn>>,
    cublaslt: Option<Mutex<CublasLt>>,
    description: String,
    context: Arc<Context>,
}

impl Libraries {
    /// Opens what is there for `context`, which is current; all work is enqueued in `stream`. `driver` is the driver's CUDA version.
    ///
    /// # Errors
    /// A library is there and does not start.
    pub(super) fn open(driver: usize, context: &Arc<Context>, stream: &Arc<Stream>) -> Result<Libraries> {
        // cuDNN opens cuBLASLt by its name, so cuBLASLt comes first.
        let places = Places::here();
        let (cublaslt, cudnn) = (libraries::open_cublaslt(&places, driver), libraries::open_cudnn(&places, driver));
        let names = [&cublaslt, &cudnn].map(|found| match found {
            Ok(name) => name.clone(),
            Err(error) => format!("ptl's own kernels ({error})"),
        });
        let description = names.join(" and ");
        Ok(Libraries {
            cudnn: cudnn.ok().map(|_| Cudnn::open(stream)).transpose()?.map(Mutex::new),
            cublaslt: cublaslt.ok().map(|_| CublasLt::open(stream)).transpose()?.map(Mutex::new),
            description,
            context: Arc::clone(context),
        })
    }
}

impl Library for Libraries {
    fn description(&self) -> String {
        self.description.clone()
    }

    fn plan(&self, call: &Call) -> Result<Answer<usize>> {
        self.context.bind()?;
        if call.is_product() {
            self.cublaslt.as_ref().map_or(Ok(Answer::Missing), |library| lock(library).workspace(call))
        } else {
            self.cudnn.as_ref().map_or(Ok(Answer::Missing), |library| lock(library).workspace(call))
        }
    }

    unsafe fn run(&self, call: &Call, operands: [u64; 3], accumulate: bool, workspace: u64) -> Result<Answer<()>> {
        self.context.bind()?;
        // SAFETY: the caller promised what these functions need.
        unsafe {
            match (call.is_product(), &self.cublaslt, &self.cudnn) {
                (true, Some(library), _) => lock(library).run(call, operands, accumulate, workspace),
                (false, _, Some(library)) => lock(library).run(call, operands, accumulate, workspace),
                _ => Ok(Answer::Missing),
            }
        }
    }
}
