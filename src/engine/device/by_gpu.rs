//! The exchange of numbers on the host between processes that only their GPUs connect.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::{Buffer, Gpu, Ptr};
use crate::base::process::end_now;
use crate::engine::collective::Transport;
use crate::{Error, Result};

/// The most bytes of each rank that are exchanged at a time.
const PIECE: usize = 1 << 20;

/// Sends the numbers of the host through the memory of GPUs that have joined each other.
///
/// These GPUs may exchange other numbers too, over another connection, but not at the same time: a rank calls the host's exchanges only when the last
/// exchange that it has enqueued on the other connection is done.
pub(super) struct ByGpu {
    gpu: Gpu,
    rank: usize,
    ranks: usize,
    /// Memory for a piece of this rank, and one of each rank.
    memory: Mutex<Buffer>,
}

impl fmt::Debug for ByGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}, by {:?}", self.rank, self.ranks, self.gpu)
    }
}

impl ByGpu {
    /// Returns rank `rank` of `ranks`, whose `gpu` has joined those of the others.
    ///
    /// # Errors
    /// There is no memory on the GPU.
    pub(super) fn new(gpu: Gpu, rank: usize, ranks: usize) -> Result<ByGpu> {
        let memory = gpu.allocate(PIECE * (1 + ranks))?;
        Ok(ByGpu { gpu, rank, ranks, memory: Mutex::new(memory) })
    }

    /// Calls `exchange` with the addresses of this rank's piece and of those of all ranks. Ends the process if the GPU fails: the others wait for it,
    /// and a launcher ends them when it sees that.
    fn with_memory(&self, exchange: impl FnOnce(Ptr<u8>, Ptr<u8>) -> Result<()>) {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = exchange(memory.ptr(), memory.ptr::<u8>().add(PIECE)) {
            self.fail(&error);
        }
    }

    fn fail(&self, error: &Error) -> ! {
        eprintln!("error: process {} of {}: {error}", self.rank, self.ranks);
        self.abort(1)
    }

    /// Calls `take` with pieces of `own`, and the same piece of each rank, in turn: the start of the piece, and the bytes of all ranks.
    fn gather_pieces(&self, own: &[u8], mut take: impl FnMut(usize, &[u8])) {
        let mut all = vec![0; own.len().min(PIECE) * self.ranks];
        for (i, piece) in own.chunks(PIECE).enumerate() {
            let all = &mut all[..piece.len() * self.ranks];
            self.with_memory(|to, of_all| {
                self.gpu.upload(to.address(), piece)?;
                self.gpu.all_gather(to, piece.len(), of_all)?;
                self.gpu.download(&mut [(&mut *all, of_all.address())])
            });
            take(i * PIECE, all);
        }
    }
}

impl Transport for ByGpu {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn sum_f32(&self, numbers: &mut [f32]) {
        for piece in numbers.chunks_mut(PIECE / size_of::<f32>()) {
            self.with_memory(|to, _| {
                self.gpu.upload(to.address(), bytemuck::cast_slice(piece))?;
                self.gpu.all_reduce(to.cast(), piece.len(), false)?;
                self.gpu.download(&mut [(bytemuck::cast_slice_mut(piece), to.address())])
            });
        }
    }

    /// Adds the numbers up on the host, in the order of the ranks.
    fn sum_f64(&self, numbers: &mut [f64]) {
        let own = numbers.to_vec();
        self.gather_pieces(bytemuck::cast_slice(&own), |start, all| {
            let len = all.len() / self.ranks;
            let sums = &mut numbers[start / size_of::<f64>()..][..len / size_of::<f64>()];
            sums.fill(0.0);
            for of_rank in all.chunks_exact(len) {
                sums.iter_mut().zip(bytemuck::pod_collect_to_vec::<u8, f64>(of_rank)).for_each(|(sum, x)| *sum += x);
            }
        });
    }

    fn gather(&self, own: &[u8], all: &mut [u8]) {
        self.gather_pieces(own, |start, pieces| {
            let len = pieces.len() / self.ranks;
            for (piece, of_rank) in pieces.chunks_exact(len).zip(all.chunks_exact_mut(own.len())) {
                of_rank[start..start + len].copy_from_slice(piece);
            }
        });
    }

    /// Gathers the bytes of all, which is more than is needed: they are few.
    fn broadcast(&self, bytes: &mut [u8]) {
        let own = bytes.to_vec();
        self.gather_pieces(&own, |start, all| {
            let len = all.len() / self.ranks;
            bytes[start..start + len].copy_from_slice(&all[..len]);
        });
    }

    /// Ends this process. A launcher ends those of the same machine; those of other machines find that their connection is lost.
    fn abort(&self, code: i32) -> ! {
        end_now(code)
    }
}
