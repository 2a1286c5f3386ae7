//! Owned device memory, and numbers that are kept on the host and on a device.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::{Backend, Gpu, Grid, Ptr, kernels};
use crate::Result;

/// Memory of a device, freed when dropped.
#[derive(Debug)]
pub struct Buffer {
    backend: Arc<dyn Backend>,
    address: u64,
    bytes: usize,
}

impl Buffer {
    pub(super) fn new(backend: Arc<dyn Backend>, bytes: usize) -> Result<Buffer> {
        let address = backend.allocate(bytes.max(1))?;
        Ok(Buffer { backend, address, bytes })
    }

    /// Returns the address of the memory, for elements of type `T`.
    pub fn ptr<T>(&self) -> Ptr<T> {
        Ptr::new(self.address)
    }

    /// Returns the size in bytes, as it was asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.backend.release(self.address);
    }
}

/// Numbers that are used on the host and on a device. They are copied when the other side needs them: reading as a slice copies from the
/// device if its copy is newer; writing as a slice makes the device's copy stale. If the copy from the device fails, reading panics. To get
/// an error instead, call [`Mirrored::fetch`] first.
#[derive(Debug, Default)]
pub struct Mirrored {
    len: usize,
    /// Empty while the device's copy is newer, or while all are 0 and were not read yet.
    host: OnceLock<Vec<f32>>,
    device: Option<DeviceCopy>,
    /// See [`Mirrored::version`].
    version: u64,
}

/// Returns a number that no earlier call returned.
fn new_version() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

#[derive(Debug)]
struct DeviceCopy {
    gpu: Gpu,
    buffer: Buffer,
    stale: bool,
}

impl Mirrored {
    /// Returns `len` zeros, which take memory only on the side that uses them.
    pub fn zeros(len: usize) -> Mirrored {
        Mirrored { len, version: new_version(), ..Mirrored::default() }
    }

    /// Returns how many numbers there are, without copying them.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no numbers.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns a number that changes whenever the numbers may have been written. It is unique in this process: two objects with the same
    /// version have the same numbers.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Changes the length, on the host; added numbers are `value`.
    pub fn resize(&mut self, len: usize, value: f32) {
        self.host_mut().resize(len, value);
        self.len = len;
        self.device = None;
    }

    /// Returns the address of the copy on `gpu`, for reading. Makes or updates the copy first.
    ///
    /// # Errors
    /// There is not enough memory, or the device fails.
    pub fn on_device(&mut self, gpu: &Gpu) -> Result<Ptr<f32>> {
        if self.device.as_ref().is_none_or(|copy| !copy.gpu.is(gpu)) {
            if self.device.is_some() {
                self.fetch()?;
            }
            let buffer = gpu.allocate(self.len * size_of::<f32>())?;
            self.device = Some(DeviceCopy { gpu: gpu.clone(), buffer, stale: true });
        }
        let copy = self.device.as_mut().expect("made above");
        if copy.stale {
            match self.host.get() {
                Some(values) => gpu.upload(copy.buffer.address, bytemuck::cast_slice(values))?,
                None => kernels::fill_f32(gpu, Grid::any(self.len), copy.buffer.ptr(), 0.0, self.len as i64)?,
            }
            copy.stale = false;
        }
        Ok(copy.buffer.ptr())
    }

    /// Returns the address of the copy on `gpu`, for writing, and drops the host's copy.
    ///
    /// # Errors
    /// As [`Mirrored::on_device`].
    pub fn on_device_mut(&mut self, gpu: &Gpu) -> Result<Ptr<f32>> {
        let ptr = self.on_device(gpu)?;
        self.version = new_version();
        self.host.take();
        Ok(ptr)
    }

    /// Sets all numbers to 0.
    pub(crate) fn clear(&mut self) {
        self.version = new_version();
        self.host.take();
        if let Some(copy) = &mut self.device {
            copy.stale = true;
        }
    }

    /// Copies the numbers to the host, if they are not there yet. Reading them as a slice then cannot fail until a device writes them
    /// again.
    ///
    /// # Errors
    /// The device was lost.
    pub fn fetch(&self) -> Result<()> {
        if self.host.get().is_none() {
            let mut values = vec![0.0; self.len];
            if let Some(copy) = self.device.as_ref().filter(|copy| !copy.stale) {
                copy.gpu.download(&mut [(bytemuck::cast_slice_mut(&mut values), copy.buffer.address)])?;
            }
            // If another thread was faster, it has set the same numbers.
            let _ = self.host.set(values);
        }
        Ok(())
    }

    /// Returns the numbers on the host.
    ///
    /// # Panics
    /// If [`Mirrored::fetch`] was not called before, and the device fails.
    fn host(&self) -> &Vec<f32> {
        self.fetch().unwrap_or_else(|error| panic!("{error}"));
        self.host.get().expect("fetched")
    }

    fn host_mut(&mut self) -> &mut Vec<f32> {
        self.host();
        self.version = new_version();
        if let Some(copy) = &mut self.device {
            copy.stale = true;
        }
        self.host.get_mut().expect("filled above")
    }
}

impl Deref for Mirrored {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.host()
    }
}

impl DerefMut for Mirrored {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.host_mut()
    }
}

impl From<Vec<f32>> for Mirrored {
    fn from(values: Vec<f32>) -> Mirrored {
        Mirrored { len: values.len(), host: OnceLock::from(values), device: None, version: new_version() }
    }
}

/// Copies the numbers; the clone is on the host.
impl Clone for Mirrored {
    fn clone(&self) -> Mirrored {
        self.to_vec().into()
    }
}

impl PartialEq for Mirrored {
    fn eq(&self, other: &Mirrored) -> bool {
        self[..] == other[..]
    }
}

#[cfg(test)]
mod version_tests {
    use super::*;

    #[test]
    fn every_way_to_write_changes_the_version_and_reading_does_not() {
        let mut numbers = Mirrored::from(vec![1.0, 2.0]);
        let writes: [fn(&mut Mirrored); 5] = [
            |numbers| numbers[0] = 5.0,
            |numbers| numbers.resize(3, 1.0),
            |numbers| numbers.clear(),
            |numbers| *numbers = vec![1.0].into(),
            |numbers| *numbers = Mirrored::zeros(1),
        ];
        for write in writes {
            let version = numbers.version();
            assert!(numbers.iter().all(|v| *v < 9.0) && numbers.version() == version);
            assert_ne!(numbers.clone().version(), version);
            write(&mut numbers);
            assert_ne!(numbers.version(), version);
        }
    }
}

#[cfg(all(test, ptl_emulator))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::device::Emulator;
    use crate::engine::precision::Precision;

    #[test]
    fn numbers_move_only_when_the_other_side_looks_at_them() {
        let gpu = Gpu::new(Arc::new(Emulator::default()), Precision::F32);
        let mut numbers = Mirrored::from(vec![1.0, 2.0, 3.0]);
        let version = numbers.version();
        numbers.on_device(&gpu).unwrap();
        assert_eq!(numbers.version(), version, "only read on the device");
        let address = numbers.on_device_mut(&gpu).unwrap();
        assert_ne!(numbers.version(), version, "may be written on the device");
        kernels::scale_f32(&gpu, 1, address, address, 2.0, 3).unwrap();
        assert!(numbers.len() == 3 && !numbers.is_empty());
        assert!(numbers.host.get().is_none(), "the length is known on the host");
        assert_eq!(numbers[..], [2.0, 4.0, 6.0]);
        numbers[1] = 7.0;
        assert_eq!(numbers.on_device(&gpu).unwrap(), address, "the place stays");
        numbers.on_device_mut(&gpu).unwrap();
        assert_eq!(numbers[..], [2.0, 7.0, 6.0]);
        numbers.clear();
        numbers.on_device_mut(&gpu).unwrap();
        assert_eq!(numbers[..], [0.0; 3]);
    }
}
