//! Batches of bytes as network input. On the CPU they are augmented, normalised and mixed directly into the arena; to a GPU they are
//! uploaded as bytes and prepared there.

use super::{Memory, Session};
use crate::Result;
use crate::base::profile;
use crate::engine::device::{Buffer, Gpu, Grid, Ptr, kernels};
use crate::engine::graph::Var;
use crate::engine::shape::Shape;

/// A batch of images as bytes, with the augmentation of each image.
pub trait ImageBatch {
    /// Returns the height and width of all images.
    fn size(&self) -> [usize; 2];

    /// Returns the index of each image's sample.
    fn indices(&self) -> &[usize];

    /// Returns the pixels `[images, height, width, 3]`.
    fn pixels(&self) -> &[u8];

    /// Returns the means and the standard deviations of the channels, for pixel values scaled to [0, 1].
    fn normalization(&self) -> [[f32; 3]; 2];

    /// Returns the tables that `kernels/image.cu` reads: for each image the shift `[images, 2]`, whether it is mirrored `[images]` (0 or
    /// 1), and the erased rectangle `[images, 4]` (zeros erase nothing).
    fn tables(&self) -> [Vec<i32>; 3];

    /// Returns the rectangle in which pairs of images are mixed (top, left, height, width), and the weight of an image's own pixels there.
    /// `None` if images are not mixed.
    fn mixed(&self) -> Option<([i32; 4], f32)>;

    /// Writes the network's input `[images, height, width, 3]`, augmented, normalised and mixed, on the CPU.
    fn to_images(&self, out: &mut [f32]);
}

/// Two buffers for batches on the device: one is prepared while the next batch is uploaded to the other.
pub(super) struct Staging {
    places: [Buffer; 2],
    /// The buffer for the next batch.
    next: usize,
    /// The indices and tables of the batch in the other buffer, if it was not used yet.
    staged: Option<(Vec<usize>, [Vec<i32>; 3])>,
}

/// Bytes of the tables for one image: shift, mirror, erase.
const TABLE_BYTES: usize = 4 * (2 + 1 + 4);

impl Staging {
    fn new(gpu: &Gpu, shape: Shape) -> Result<Staging> {
        let bytes = shape.n * TABLE_BYTES + shape.len();
        Ok(Staging { places: [gpu.allocate(bytes)?, gpu.allocate(bytes)?], next: 0, staged: None })
    }

    /// Uploads a batch to the free buffer while other work runs.
    fn send(&mut self, gpu: &Gpu, batch: &dyn ImageBatch) -> Result<()> {
        let (tables, pixels) = (batch.tables(), batch.pixels());
        let mut bytes: Vec<u8> = Vec::with_capacity(batch.indices().len() * TABLE_BYTES + pixels.len());
        tables.iter().for_each(|table| bytes.extend_from_slice(bytemuck::cast_slice(table)));
        bytes.extend_from_slice(pixels);
        gpu.upload_async(self.places[self.next].ptr::<u8>().address(), &bytes)?;
        self.staged = Some((batch.indices().to_vec(), tables));
        self.next = 1 - self.next;
        Ok(())
    }

    fn has(&self, batch: &dyn ImageBatch) -> bool {
        self.staged.as_ref().is_some_and(|(indices, tables)| indices == batch.indices() && *tables == batch.tables())
    }

    /// Enqueues the preparation of the network's input: the images, then zeros up to the batch of `shape`.
    fn prepare(&mut self, gpu: &Gpu, batch: &dyn ImageBatch, shape: Shape, input: Ptr) -> Result<()> {
        self.staged = None;
        let (n, size) = (batch.indices().len(), batch.size());
        let shift: Ptr<i32> = self.places[1 - self.next].ptr();
        let (mirror, erase) = (shift.add(2 * n), shift.add(3 * n));
        let pixels = shift.add(7 * n).cast();
        let [h, w] = size.map(|side| side as i32);
        let ([[r, g, b], [sr, sg, sb]], images) = (batch.normalization(), n as i32);
        let grid = Grid::any(n * size[0] * size[1]);
        kernels::prepare_images(gpu, grid, pixels, input, shift, mirror, erase, images, h, w, 3, r, g, b, sr, sg, sb)?;
        if let Some(([top, left, height, width], own)) = batch.mixed() {
            let grid = Grid::any(n / 2 * size[0] * size[1] * 3);
            kernels::mix_images(gpu, grid, input, images, h, w, 3, own, top, left, height, width)?;
        }
        let (done, rest) = (n * shape.len() / shape.n, (shape.n - n) * shape.len() / shape.n);
        if rest > 0 {
            kernels::fill(gpu, Grid::any(rest), gpu.offset(input, done), 0.0, rest as i64)?;
        }
        Ok(())
    }
}

impl Session {
    /// Sets the input `images` to a batch, augmented, normalised and mixed. If the batch has fewer images than the input, the rest is 0.
    ///
    /// # Errors
    /// The GPU fails.
    ///
    /// # Panics
    /// If the images have another size than the input or are more, which is a bug of the caller.
    pub fn set_images(&mut self, images: Var, batch: &dyn ImageBatch) -> Result<()> {
        let shape = self.graph.shape(images);
        let fits = batch.size() == [shape.h, shape.w] && batch.indices().len() <= shape.n;
        assert!(fits, "{shape} does not take the batch");
        let _images = profile::range("images");
        let block = self.plan.values[images.0];
        match &mut self.memory {
            Memory::Host(arena) => {
                let (input, rest) = arena.slice_mut(block).split_at_mut(batch.pixels().len());
                batch.to_images(input);
                rest.fill(0.0);
                Ok(())
            }
            Memory::Gpu(_) => {
                if !self.staging.as_ref().is_some_and(|staging| staging.has(batch)) {
                    self.stage_images(images, batch)?;
                }
                let Memory::Gpu(memory) = &self.memory else { unreachable!() };
                let staging = self.staging.as_mut().expect("staged above");
                staging.prepare(memory.gpu(), batch, shape, memory.at(block))
            }
        }
    }

    /// Uploads the batch of the next [`Session::set_images`] while the GPU works on the present one. Does nothing on the CPU.
    pub(crate) fn stage_images(&mut self, images: Var, batch: &dyn ImageBatch) -> Result<()> {
        let Some(gpu) = self.gpu().cloned() else { return Ok(()) };
        let _upload = profile::range("upload");
        if self.staging.is_none() {
            self.staging = Some(Staging::new(&gpu, self.graph.shape(images))?);
        }
        self.staging.as_mut().expect("made above").send(&gpu, batch)
    }
}
