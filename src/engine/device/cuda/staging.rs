//! Copies between the host's memory and the GPU's, through pinned buffers.
//!
//! A copy from pageable memory would make the caller wait for the GPU. Buffers grow on demand up to [`PIECE`]; larger copies are split into
//! pieces.

use cudarc::driver::sys;

use super::calls;
use super::handles::{Event, Pinned, Stream};
use super::status::Status;
use crate::Result;

/// The largest buffer, in bytes: a batch of images fits, but no whole network stays in pinned memory.
const PIECE: usize = 16 << 20;

/// Copies to the device, on one stream.
pub(super) struct Upload {
    /// Used in turn: one is filled while the other is copied.
    slots: [Slot; 2],
    next: usize,
}

struct Slot {
    /// Write-combined memory, which the host writes once from start to end.
    pinned: Pinned,
    /// Reached when the GPU has read the buffer.
    copied: Event,
}

impl Slot {
    fn new() -> Result<Slot> {
        Ok(Slot { pinned: Pinned::new(sys::CU_MEMHOSTALLOC_WRITECOMBINED), copied: Event::new()? })
    }
}

impl Upload {
    pub(super) fn new() -> Result<Upload> {
        Ok(Upload { slots: [Slot::new()?, Slot::new()?], next: 0 })
    }

    /// Copies to `to`, after the work that `stream` has so far. `from` may be reused when this returns.
    pub(super) fn copy(&mut self, stream: &Stream, mut to: u64, from: &[u8]) -> Result<()> {
        for piece in from.chunks(PIECE) {
            let slot = &mut self.slots[self.next];
            self.next = 1 - self.next;
            slot.copied.wait()?;
            slot.pinned.reserve(piece.len())?;
            let pinned = slot.pinned.as_mut_ptr();
            // SAFETY: `pinned` has room for the piece, and no copy reads it any more.
            unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), pinned, piece.len()) };
            // SAFETY: `pinned` is not changed until `copied` is reached.
            unsafe { calls::cuMemcpyHtoDAsync_v2(to, pinned.cast(), piece.len(), stream.get()) }
                .check("copying to the GPU")?;
            slot.copied.record(stream)?;
            to += piece.len() as u64;
        }
        Ok(())
    }
}

/// Copies to the host.
pub(super) struct Download {
    /// Cached memory: reading write-combined memory takes a hundred times as long.
    pinned: Pinned,
}

impl Download {
    pub(super) fn new() -> Download {
        Download { pinned: Pinned::new(0) }
    }

    /// Copies each `(to, from)`, after the work that `stream` has so far, and waits: once, if all fit one buffer.
    pub(super) fn copy(&mut self, stream: &Stream, copies: &mut [(&mut [u8], u64)]) -> Result<()> {
        let capacity = copies.iter().map(|(to, _)| to.len()).sum::<usize>().min(PIECE);
        self.pinned.reserve(capacity)?;
        let (mut pending, mut used) = (Vec::new(), 0);
        for (to, from) in copies {
            let mut from = *from;
            for piece in to.chunks_mut(PIECE) {
                if used + piece.len() > capacity {
                    self.deliver(stream, &mut pending)?;
                    used = 0;
                }
                let bytes = piece.len();
                // SAFETY: `used + bytes` are within the buffer; parts that are still to be delivered are before `used`.
                unsafe {
                    let at = self.pinned.as_mut_ptr().add(used);
                    calls::cuMemcpyDtoHAsync_v2(at.cast(), from, bytes, stream.get())
                }
                .check("copying from the GPU")?;
                pending.push((piece, used));
                used += bytes;
                from += bytes as u64;
            }
        }
        self.deliver(stream, &mut pending)
    }

    /// Waits for the GPU, and copies each part of the buffer to its slice; `pending` has the slices with their offsets.
    fn deliver(&mut self, stream: &Stream, pending: &mut Vec<(&mut [u8], usize)>) -> Result<()> {
        stream.synchronize()?;
        for (to, at) in pending.drain(..) {
            // SAFETY: the GPU has written these bytes of the buffer and does not use it any more.
            unsafe { std::ptr::copy_nonoverlapping(self.pinned.as_mut_ptr().add(at), to.as_mut_ptr(), to.len()) };
        }
        Ok(())
    }
}
