//! Numbers of a step that lie at different places of a GPU, brought together for one copy to the host.

use crate::Result;
use crate::engine::device::{Buffer, Gpu, Ptr, kernels};

/// The places of some numbers, and a place for all of them.
pub(super) struct Numbers {
    places: Vec<Ptr<f32>>,
    /// The addresses, on the GPU.
    table: Buffer,
    together: Buffer,
}

impl Numbers {
    /// Allocates memory for the numbers at `places`.
    ///
    /// # Errors
    /// The GPU fails.
    pub(super) fn new(gpu: &Gpu, places: Vec<Ptr<f32>>) -> Result<Numbers> {
        let addresses: Vec<u64> = places.iter().map(|place| place.address()).collect();
        let table = gpu.allocate_with(bytemuck::cast_slice(&addresses))?;
        Ok(Numbers { together: gpu.allocate(4 * places.len())?, places, table })
    }

    /// Returns whether these are the numbers at `places`.
    pub(super) fn are_at(&self, places: &[Ptr<f32>]) -> bool {
        self.places == places
    }

    /// Enqueues the launch that brings the numbers together.
    pub(super) fn launch(&self, gpu: &Gpu) -> Result<()> {
        kernels::gather_numbers(gpu, 1, self.table.ptr(), self.together.ptr(), self.places.len() as i32)
    }

    /// Waits for all work, and returns the numbers that the last launch brought together.
    pub(super) fn read(&self, gpu: &Gpu) -> Result<Vec<f64>> {
        let mut numbers = vec![0.0f32; self.places.len()];
        gpu.download(&mut [(bytemuck::cast_slice_mut(&mut numbers), self.together.ptr::<f32>().address())])?;
        Ok(numbers.into_iter().map(f64::from).collect())
    }
}
