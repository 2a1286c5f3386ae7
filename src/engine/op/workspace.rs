//! How an op divides its workspace on a GPU, and how it splits long sums among blocks.

use std::marker::PhantomData;

use crate::engine::device::Ptr;

/// The alignment of a part, bytes, which cuBLASLt expects of a workspace. Blocks have it, too (`engine::plan`).
const ALIGNMENT: usize = 256;

/// The parts of a block of memory, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Parts {
    bytes: usize,
}

/// A part of a block.
#[derive(Debug)]
pub(crate) struct Part<T> {
    offset: usize,
    element: PhantomData<T>,
}

impl Parts {
    /// Adds a part of `count` elements.
    pub(super) fn add<T>(&mut self, count: usize) -> Part<T> {
        self.add_bytes(count * size_of::<T>())
    }

    /// Adds a part of `bytes` bytes.
    pub(crate) fn add_bytes<T>(&mut self, bytes: usize) -> Part<T> {
        let offset = self.bytes;
        self.bytes += bytes.next_multiple_of(ALIGNMENT);
        Part { offset, element: PhantomData }
    }

    /// Returns the size of all parts in the words of [`Needs`](crate::engine::graph::Needs).
    pub(super) fn words(&self) -> usize {
        self.bytes / 4
    }
}

impl<T> Part<T> {
    /// Returns the part's address in `block`.
    pub(super) fn of(&self, block: Ptr) -> Ptr<T> {
        Ptr::new(block.address() + self.offset as u64)
    }
}

/// Two blocks for each multiprocessor of a large GPU. Long sums are split until there are about as many.
pub(crate) const ENOUGH_BLOCKS: usize = 264;

/// Returns how many of `rows` rows each partial sum takes: at least `at_least`, and enough for at most `most_splits` partial sums. The
/// result does not depend on the device, so that sums do not either.
pub(crate) fn split_rows(rows: usize, at_least: usize, most_splits: usize) -> usize {
    rows.div_ceil(most_splits).max(at_least)
}
