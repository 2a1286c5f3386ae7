//! NCCL: exchanges between the GPUs of several processes, which are enqueued like kernels, and recorded like them.
//!
//! All are in one stream of their own, in the order in which they are enqueued, which is the same on all GPUs. That stream waits for the device's
//! stream before each exchange; the device's stream waits for it when the result is needed.

use std::ffi::c_int;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use cudarc::cublaslt::sys::cudaStream_t;
use cudarc::nccl::sys::{ncclComm, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};

use super::calls;
use super::handles::{Context, Event, Raw, Stream};
use super::libraries;
use super::status::{NcclStatus, Status};
use crate::Result;
use crate::base::error::IoContext;
use crate::base::process::end_now;
use crate::engine::collective::Meeting;

/// How often a process looks whether its connection still holds.
const LOOKS: Duration = Duration::from_secs(1);

/// The GPU of this rank, connected with those of the others until the process ends: to take the connection down, NCCL waits for the others, which
/// may be gone.
pub(super) struct Communicator {
    handle: ncclComm_t,
    /// The device's stream.
    work: Arc<Stream>,
    exchanges: Stream,
    /// The work that the last exchange waits for.
    worked: Event,
    /// The end of the last exchange.
    exchanged: Event,
}

// SAFETY: NCCL allows calls from any thread, one at a time; the device's owner locks the communicator.
unsafe impl Send for Communicator {}

impl Communicator {
    /// Connects this GPU, whose context is current, with those of a meeting; each process needs another GPU. Waits until all are here.
    ///
    /// # Errors
    /// [`crate::Error::NoDevice`] if NCCL is missing or too old; [`crate::Error::Device`] if it cannot connect; those of the meeting.
    pub(super) fn join(
        meeting: Meeting<'_>,
        driver: usize,
        context: &Context,
        work: Arc<Stream>,
    ) -> Result<Communicator> {
        libraries::open_nccl(driver)?;
        context.bind()?;
        let mut id = ncclUniqueId { internal: [0; 128] };
        if meeting.rank() == 0 {
            // SAFETY: NCCL is present, and the id is written to.
            unsafe { calls::ncclGetUniqueId(&mut id) }.check("asking NCCL for an id")?;
        }
        meeting.broadcast(bytemuck::cast_slice_mut(&mut id.internal))?;
        let mut handle: ncclComm_t = std::ptr::null_mut();
        // SAFETY: the handle is written to; all ranks pass the same id, and ranks of their own.
        let status =
            unsafe { calls::ncclCommInitRank(&mut handle, meeting.ranks() as c_int, id, meeting.rank() as c_int) };
        status.check("connecting the GPUs of all processes by NCCL (its variable NCCL_DEBUG=INFO says more)")?;
        watch(Raw(handle), meeting.rank(), meeting.ranks())?;
        Ok(Communicator { handle, work, exchanges: Stream::new()?, worked: Event::new()?, exchanged: Event::new()? })
    }

    /// Enqueues the sum, or the mean, of `count` numbers of f32 at `at` over all ranks. Work that is enqueued later waits for it.
    pub(super) fn all_reduce(&self, at: u64, count: usize, mean: bool) -> Result<()> {
        self.reduce(at, count, if mean { ncclRedOp_t::ncclAvg } else { ncclRedOp_t::ncclSum })?;
        self.finish()
    }

    /// Enqueues the sum as [`Communicator::all_reduce`] does, without work that waits for it.
    pub(super) fn begin_sum(&self, at: u64, count: usize) -> Result<()> {
        self.reduce(at, count, ncclRedOp_t::ncclSum)
    }

    /// Makes work that is enqueued later wait for all exchanges.
    pub(super) fn finish(&self) -> Result<()> {
        self.exchanged.record(&self.exchanges)?;
        self.work.wait_for(&self.exchanged)
    }

    /// Waits for all exchanges.
    pub(super) fn wait(&self) -> Result<()> {
        self.exchanges.synchronize()
    }

    /// Enqueues the copy of `bytes` at `own` of all ranks, in their order, to `all`. Work that is enqueued later waits for it.
    pub(super) fn all_gather(&self, own: u64, bytes: usize, all: u64) -> Result<()> {
        let (own, all, stream) = (own as *const _, all as *mut _, self.after_work()?);
        // SAFETY: as in `reduce`; there is room for the bytes of all ranks.
        let status = unsafe { calls::ncclAllGather(own, all, bytes, ncclDataType_t::ncclUint8, self.handle, stream) };
        status.check("gathering numbers of all processes by NCCL")?;
        self.finish()
    }

    fn reduce(&self, at: u64, count: usize, op: ncclRedOp_t) -> Result<()> {
        let (address, stream) = (at as *mut _, self.after_work()?);
        // SAFETY: the communicator is connected; callers pass memory of this device with that many numbers, which no work uses meanwhile.
        let status = unsafe {
            calls::ncclAllReduce(address, address, count, ncclDataType_t::ncclFloat32, op, self.handle, stream)
        };
        status.check("adding up numbers of all processes by NCCL")
    }

    /// Makes the next exchange wait for the work that is enqueued so far, and returns its stream.
    fn after_work(&self) -> Result<cudaStream_t> {
        self.worked.record(&self.work)?;
        self.exchanges.wait_for(&self.worked)?;
        Ok(self.exchanges.get().cast())
    }
}

/// Ends the process when NCCL has lost the connection with another one, in a thread of its own: work that waits for that one would never end.
///
/// # Errors
/// The system refuses a thread.
fn watch(handle: Raw<ncclComm>, rank: usize, ranks: usize) -> Result<()> {
    let look = move || {
        let handle = handle;
        loop {
            thread::sleep(LOOKS);
            let mut found = NcclStatus::ncclSuccess;
            // SAFETY: NCCL allows this call beside any other; the communicator is there until the process ends.
            let asked = unsafe { calls::ncclCommGetAsyncError(handle.0, &mut found) };
            let action = "exchanging numbers with the other processes by NCCL, of which one may have ended";
            let is_lost = found != NcclStatus::ncclInProgress;
            if let Err(error) = asked.check(action).and_then(|()| if is_lost { found.check(action) } else { Ok(()) }) {
                eprintln!("error: process {rank} of {ranks}: {error}");
                end_now(1);
            }
        }
    };
    thread::Builder::new().name("nccl".into()).spawn(look).map(drop).at("start", "the thread that watches NCCL")
}
