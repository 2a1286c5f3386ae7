//! Typed addresses on a device, and grids of launches.

use std::marker::PhantomData;

/// The type of what an address points to if it depends on the precision: an activation in f32 or bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Untyped {}

/// An address on a device. The host treats it as a number; only kernels read and write there.
#[repr(transparent)]
pub struct Ptr<T = Untyped> {
    address: u64,
    element: PhantomData<fn() -> T>,
}

impl<T> Ptr<T> {
    /// The null address, which kernels take for an operand that is left out.
    pub const NULL: Ptr<T> = Ptr { address: 0, element: PhantomData };

    /// Returns `address`, in bytes, as that of elements of type `T`.
    pub fn new(address: u64) -> Ptr<T> {
        Ptr { address, element: PhantomData }
    }

    /// Returns the address in bytes.
    pub fn address(self) -> u64 {
        self.address
    }

    /// Returns the same address with another type.
    pub(crate) fn cast<U>(self) -> Ptr<U> {
        Ptr::new(self.address)
    }

    /// Returns the address `count` elements further, as `add` of pointers does.
    #[allow(clippy::should_implement_trait)]
    pub fn add(self, count: usize) -> Ptr<T> {
        Ptr::new(self.address + (count * size_of::<T>()) as u64)
    }
}

impl<T> Clone for Ptr<T> {
    fn clone(&self) -> Ptr<T> {
        *self
    }
}

impl<T> Copy for Ptr<T> {}

impl<T> PartialEq for Ptr<T> {
    fn eq(&self, other: &Ptr<T>) -> bool {
        self.address == other.address
    }
}

impl<T> Eq for Ptr<T> {}

impl<T> std::fmt::Debug for Ptr<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.address)
    }
}

/// The blocks of a launch, and the bytes of dynamic shared memory of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Number of blocks in x, y and z.
    pub blocks: [usize; 3],
    /// Dynamic shared memory of a block, bytes.
    pub shared_bytes: u32,
}

impl Grid {
    /// Returns a grid for kernels that take any grid of one dimension: enough blocks of 256 threads for `count` elements, but no more than
    /// fill a large GPU several times.
    pub fn any(count: usize) -> Grid {
        [count.div_ceil(256).clamp(1, 4096), 1, 1].into()
    }

    /// Returns the same grid with `bytes` of dynamic shared memory for each block.
    pub fn shared(self, bytes: usize) -> Grid {
        Grid { shared_bytes: bytes as u32, ..self }
    }
}

impl From<[usize; 3]> for Grid {
    fn from(blocks: [usize; 3]) -> Grid {
        Grid { blocks, shared_bytes: 0 }
    }
}

impl From<usize> for Grid {
    fn from(blocks: usize) -> Grid {
        [blocks, 1, 1].into()
    }
}

impl From<[usize; 2]> for Grid {
    fn from([x, y]: [usize; 2]) -> Grid {
        [x, y, 1].into()
    }
}
