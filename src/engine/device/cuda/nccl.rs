//! NCCL: exchanges between the GPUs of several processes, which are enqueued in the stream like kernels, and recorded like them.

use std::ffi::c_int;
use std::sync::Arc;

use cudarc::nccl::sys::{ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};

use super::calls;
use super::handles::{Context, Stream};
use super::libraries;
use super::status::Status;
use crate::Result;
use crate::engine::collective::Collective;

/// The GPU of this rank, connected with those of the others until the process ends: to take the connection down, NCCL waits for the others, which
/// may be gone.
pub(super) struct Communicator {
    handle: ncclComm_t,
    stream: Arc<Stream>,
}

// SAFETY: NCCL allows calls from any thread, one at a time; the device's owner locks the communicator.
unsafe impl Send for Communicator {}

impl Communicator {
    /// Connects this GPU, whose context is current, with those of all `ranks`; each needs another GPU. Waits until all are here.
    ///
    /// # Errors
    /// [`crate::Error::NoDevice`] if NCCL is missing or too old; [`crate::Error::Device`] if it cannot connect.
    pub(super) fn join(
        ranks: &Collective,
        driver: usize,
        context: &Context,
        stream: &Arc<Stream>,
    ) -> Result<Communicator> {
        libraries::open_nccl(driver)?;
        context.bind()?;
        let mut id = ncclUniqueId { internal: [0; 128] };
        if ranks.is_first() {
            // SAFETY: NCCL is present, and the id is written to.
            unsafe { calls::ncclGetUniqueId(&mut id) }.check("asking NCCL for an id")?;
        }
        ranks.broadcast(&mut id.internal);
        let mut handle: ncclComm_t = std::ptr::null_mut();
        // SAFETY: the handle is written to; all ranks pass the same id, and ranks of their own.
        let status = unsafe { calls::ncclCommInitRank(&mut handle, ranks.ranks() as c_int, id, ranks.rank() as c_int) };
        status.check("connecting the GPUs of all processes by NCCL (its variable NCCL_DEBUG=INFO says more)")?;
        Ok(Communicator { handle, stream: Arc::clone(stream) })
    }

    /// Enqueues the sum, or the mean, of `count` numbers of f32 at `at` over all ranks.
    pub(super) fn all_reduce(&self, at: u64, count: usize, mean: bool) -> Result<()> {
        let op = if mean { ncclRedOp_t::ncclAvg } else { ncclRedOp_t::ncclSum };
        let (address, stream) = (at as *mut _, self.stream.get().cast());
        // SAFETY: the communicator is connected; callers pass memory of this device with that many numbers, which work in the stream uses in turn.
        let status = unsafe {
            calls::ncclAllReduce(address, address, count, ncclDataType_t::ncclFloat32, op, self.handle, stream)
        };
        status.check("adding up numbers of all processes by NCCL")
    }

    /// Enqueues the copy of `bytes` at `own` of all ranks, in their order, to `all`.
    pub(super) fn all_gather(&self, own: u64, bytes: usize, all: u64) -> Result<()> {
        let (own, all, stream) = (own as *const _, all as *mut _, self.stream.get().cast());
        // SAFETY: as in `all_reduce`; there is room for the bytes of all ranks.
        let status = unsafe { calls::ncclAllGather(own, all, bytes, ncclDataType_t::ncclUint8, self.handle, stream) };
        status.check("gathering numbers of all processes by NCCL")
    }
}
