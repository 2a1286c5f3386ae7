//! MPI: Open MPI, MPICH and their relatives, by the crate `mpi`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence, Root};

use super::Transport;
use crate::{Error, Result};

/// MPI counts in 32 bits: longer exchanges are divided.
const MOST: usize = 1 << 28;

/// A process that `mpirun` has started. MPI ends the process if another one is gone.
pub(super) struct Mpi {
    /// Ends MPI when it is dropped.
    _universe: Universe,
    rank: usize,
    ranks: usize,
    /// MPI was told that calls come one at a time.
    calls: Mutex<()>,
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.ranks)
    }
}

impl Mpi {
    /// Starts MPI in a process that is one of `ranks`.
    ///
    /// # Errors
    /// MPI refuses, or does not know the other processes.
    pub(super) fn start(ranks: usize) -> Result<Mpi> {
        let refused = |reason: String| Err(Error::Ranks { reason });
        let Some((universe, level)) = mpi::initialize_with_threading(mpi::Threading::Serialized) else {
            return refused("MPI is started already, or has ended, in this process".into());
        };
        let world = universe.world();
        let (rank, known) = (world.rank() as usize, world.size() as usize);
        if known != ranks {
            return refused(format!(
                "a launcher has started {ranks} processes, and the MPI library of this program sees {known}: start it by the mpirun of the MPI \
                 that it was built with (in Slurm by `srun --mpi=pmix`), or train alone with `--ranks 1`"
            ));
        }
        if level < mpi::Threading::Serialized {
            return refused(format!(
                "this MPI library must be called from one thread ({level:?}), which is not enough"
            ));
        }
        Ok(Mpi { _universe: universe, rank, ranks, calls: Mutex::new(()) })
    }

    /// Replaces each number by its sum over all ranks.
    fn sum<T: Equivalence + Clone>(&self, numbers: &mut [T]) {
        let (_one, world) = self.world();
        let own = numbers.to_vec();
        for (own, sum) in own.chunks(MOST).zip(numbers.chunks_mut(MOST)) {
            world.all_reduce_into(own, sum, SystemOperation::sum());
        }
    }

    /// Returns all processes, for one call.
    fn world(&self) -> (MutexGuard<'_, ()>, SimpleCommunicator) {
        (self.calls.lock().unwrap_or_else(PoisonError::into_inner), SimpleCommunicator::world())
    }
}

impl Transport for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn sum_f32(&self, numbers: &mut [f32]) {
        self.sum(numbers);
    }

    fn sum_f64(&self, numbers: &mut [f64]) {
        self.sum(numbers);
    }

    fn gather(&self, own: &[u8], all: &mut [u8]) {
        let (_one, world) = self.world();
        if own.len() <= MOST / self.ranks {
            return world.all_gather_into(own, all);
        }
        // Each rank in turn sends its part, in pieces.
        for (root, part) in all.chunks_mut(own.len()).enumerate() {
            if root == self.rank {
                part.copy_from_slice(own);
            }
            for piece in part.chunks_mut(MOST) {
                world.process_at_rank(root as i32).broadcast_into(piece);
            }
        }
    }

    fn broadcast(&self, bytes: &mut [u8]) {
        let (_one, world) = self.world();
        for piece in bytes.chunks_mut(MOST) {
            world.process_at_rank(0).broadcast_into(piece);
        }
    }

    fn abort(&self, code: i32) -> ! {
        // Without the lock, which a thread that waits for a lost rank may hold for ever. No call of MPI follows this one.
        SimpleCommunicator::world().abort(code)
    }
}
