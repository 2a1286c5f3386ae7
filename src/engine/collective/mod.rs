//! The exchange of numbers between the processes (*ranks*) that train one network together.
//!
//! [`Collective`] is what the rest of the crate sees. A [`Transport`] moves the numbers; there is none in a training of one process, where every
//! function returns at once. All ranks must call the same functions in the same order.

#[cfg(feature = "mpi")]
mod mpi;
mod rendezvous;

use std::fmt::Debug;
use std::sync::Arc;

use crate::Result;
use crate::base::process::machine_name;
pub use rendezvous::Rendezvous;

/// Moves numbers between ranks. Every function waits until the other ranks have called it too, and ends the process if that cannot happen any
/// more.
pub trait Transport: Debug + Send + Sync {
    /// Returns the number of this process, from 0 on.
    fn rank(&self) -> usize;

    /// Returns the number of processes.
    fn ranks(&self) -> usize;

    /// Replaces each number by its sum over all ranks, which has the same bits on each.
    fn sum_f32(&self, numbers: &mut [f32]);

    /// Replaces each number by its sum over all ranks, which has the same bits on each.
    fn sum_f64(&self, numbers: &mut [f64]);

    /// Writes the bytes of all ranks, in their order, to `all`. Each rank gives as many.
    fn gather(&self, own: &[u8], all: &mut [u8]);

    /// Replaces the bytes by those of rank 0.
    fn broadcast(&self, bytes: &mut [u8]);

    /// Ends all ranks with this exit code.
    fn abort(&self, code: i32) -> !;
}

/// The ranks of a training. The default is a single process.
#[derive(Clone, Debug, Default)]
pub struct Collective {
    transport: Option<Arc<dyn Transport>>,
    /// How many ranks before this one are on the same machine, and how many others.
    local: [usize; 2],
}

impl Collective {
    /// Returns the only rank of a training of one process.
    pub fn single() -> Collective {
        Collective::default()
    }

    /// Returns the rank that `transport` connects with the others.
    pub fn new(transport: Arc<dyn Transport>) -> Collective {
        let mut ranks =
            Collective { transport: Some(transport).filter(|transport| transport.ranks() > 1), local: [0; 2] };
        let here = ranks.here_with("");
        let count = |ranks: &[bool]| ranks.iter().filter(|&&here| here).count();
        ranks.local = [count(&here[..ranks.rank()]), count(&here) - 1];
        ranks
    }

    /// Connects this process with the others that `mpirun` has started, of which there are `ranks`.
    ///
    /// # Errors
    /// The program was built without the feature `mpi`, or its MPI library is another one than that of `mpirun`.
    pub fn of_mpi(ranks: usize) -> Result<Collective> {
        #[cfg(feature = "mpi")]
        return Ok(Collective::new(Arc::new(mpi::Mpi::start(ranks)?)));
        #[cfg(not(feature = "mpi"))]
        Err(crate::Error::Ranks {
            reason: format!(
                "several processes ({ranks}) train together by MPI, and the program was built without it: build it with \
                 `cargo build --release --features mpi`"
            ),
        })
    }

    /// Returns the same rank, before which a launcher has started `before` others on the same machine.
    #[must_use]
    pub fn with_local_rank(self, before: usize) -> Collective {
        Collective { local: [before, self.local[1]], ..self }
    }

    /// Returns the number of this process, from 0 on.
    pub fn rank(&self) -> usize {
        self.transport.as_ref().map_or(0, |transport| transport.rank())
    }

    /// Returns the number of processes.
    pub fn ranks(&self) -> usize {
        self.transport.as_ref().map_or(1, |transport| transport.ranks())
    }

    /// Returns whether there are other processes.
    pub fn has_others(&self) -> bool {
        self.transport.is_some()
    }

    /// Returns whether this is rank 0, which writes files and messages.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Replaces each number by its sum over all ranks. The sum has the same bits on each rank, and each time with as many ranks.
    pub fn sum(&self, numbers: &mut [f32]) {
        self.transport.iter().for_each(|transport| transport.sum_f32(numbers));
    }

    /// Does as [`Collective::sum`] with numbers of double precision.
    pub fn sum_f64(&self, numbers: &mut [f64]) {
        self.transport.iter().for_each(|transport| transport.sum_f64(numbers));
    }

    /// Returns whether `value` is true on any rank.
    pub fn any(&self, value: bool) -> bool {
        let mut count = [f64::from(u8::from(value))];
        self.sum_f64(&mut count);
        count[0] > 0.0
    }

    /// Writes the numbers of all ranks, in their order, to `all`. Each rank gives as many.
    ///
    /// # Panics
    /// `all` is not as long as the numbers of all ranks.
    pub fn gather_into<T: bytemuck::Pod>(&self, own: &[T], all: &mut [T]) {
        assert_eq!(all.len(), own.len() * self.ranks(), "a place for the numbers of each rank");
        match &self.transport {
            Some(transport) => transport.gather(bytemuck::cast_slice(own), bytemuck::cast_slice_mut(all)),
            None => all.copy_from_slice(own),
        }
    }

    /// Returns the numbers of all ranks, in their order. Each rank gives as many.
    pub fn gather<T: bytemuck::Pod>(&self, own: &[T]) -> Vec<T> {
        let mut all = vec![T::zeroed(); own.len() * self.ranks()];
        self.gather_into(own, &mut all);
        all
    }

    /// Returns what each rank gives, in their order; ranks may give more or less than others.
    pub fn gather_each<T: bytemuck::Pod>(&self, own: &[T]) -> Vec<Vec<T>> {
        let lengths = self.gather(&[own.len() as u64]);
        let longest = lengths.iter().max().map_or(0, |&len| len as usize);
        let mut padded = own.to_vec();
        padded.resize(longest, T::zeroed());
        let all = self.gather(&padded);
        (0..self.ranks()).map(|rank| all[rank * longest..][..lengths[rank] as usize].to_vec()).collect()
    }

    /// Replaces the numbers by those of rank 0.
    pub fn broadcast<T: bytemuck::Pod>(&self, numbers: &mut [T]) {
        self.transport.iter().for_each(|transport| transport.broadcast(bytemuck::cast_slice_mut(numbers)));
    }

    /// Returns the text that rank 0 has.
    pub fn broadcast_text(&self, text: &str) -> String {
        let mut len = [text.len() as u64];
        self.broadcast(&mut len);
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(len[0] as usize, 0);
        self.broadcast(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until all ranks are here.
    pub fn barrier(&self) {
        self.any(false);
    }

    /// Returns how many ranks before this one are on the same machine.
    pub fn local_rank(&self) -> usize {
        self.local[0]
    }

    /// Returns the number of ranks on this machine.
    pub fn local_ranks(&self) -> usize {
        self.local[1] + 1
    }

    /// Returns for each rank whether it is on this machine and has the same `text`.
    pub fn here_with(&self, text: &str) -> Vec<bool> {
        let own = format!("{}\n{text}", machine_name());
        self.gather_each(own.as_bytes()).iter().map(|other| *other == own.as_bytes()).collect()
    }

    /// Returns whether all ranks have the same text.
    pub fn agree(&self, text: &str) -> bool {
        self.first_difference(text).is_none()
    }

    /// Returns the first rank that has another text than rank 0, and the texts of rank 0 and of that rank; `None` if all have the same.
    pub fn first_difference(&self, text: &str) -> Option<(usize, [String; 2])> {
        let texts = self.gather_each(text.as_bytes());
        let rank = texts.iter().position(|other| *other != texts[0])?;
        Some((rank, [0, rank].map(|rank| String::from_utf8_lossy(&texts[rank]).into_owned())))
    }

    /// Ends all ranks with this exit code; does nothing in a single process.
    pub fn abort(&self, code: u8) {
        if let Some(transport) = &self.transport {
            transport.abort(code.into());
        }
    }

    /// Returns the part of `count` items that is this rank's: the parts follow one another and differ by one item at most.
    pub fn part(&self, count: usize) -> std::ops::Range<usize> {
        let bound = |rank: usize| (count as u128 * rank as u128 / self.ranks() as u128) as usize;
        bound(self.rank())..bound(self.rank() + 1)
    }
}

/// How the devices of several processes find each other.
#[derive(Clone, Copy, Debug)]
pub enum Meeting<'a> {
    /// By processes that are connected.
    Ranks(&'a Collective),
    /// By files.
    Files(&'a Rendezvous),
}

impl Meeting<'_> {
    /// Returns the number of this process, from 0 on.
    pub fn rank(&self) -> usize {
        match self {
            Meeting::Ranks(ranks) => ranks.rank(),
            Meeting::Files(rendezvous) => rendezvous.rank(),
        }
    }

    /// Returns the number of processes.
    pub fn ranks(&self) -> usize {
        match self {
            Meeting::Ranks(ranks) => ranks.ranks(),
            Meeting::Files(rendezvous) => rendezvous.ranks(),
        }
    }

    /// Replaces the bytes by those of rank 0.
    ///
    /// # Errors
    /// As [`Rendezvous::broadcast`].
    pub fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        match self {
            Meeting::Ranks(ranks) => ranks.broadcast(bytes),
            Meeting::Files(rendezvous) => rendezvous.broadcast(bytes)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_everything_itself() {
        let single = Collective::single();
        let mut numbers = [1.0, 2.0];
        single.sum(&mut numbers);
        single.broadcast(&mut numbers);
        assert_eq!((numbers, single.gather(&numbers)), ([1.0, 2.0], vec![1.0, 2.0]));
        assert_eq!(single.gather_each(&[3u8]), [vec![3]]);
        assert_eq!((single.part(7), single.ranks(), single.rank()), (0..7, 1, 0));
        assert!(
            single.agree("a")
                && single.first_difference("a").is_none()
                && single.is_first()
                && !single.has_others()
                && single.any(true)
                && !single.any(false)
        );
        assert_eq!((single.broadcast_text("é"), single.here_with("a")), ("é".to_string(), vec![true]));
    }
}
