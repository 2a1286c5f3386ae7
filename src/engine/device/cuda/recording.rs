//! Work that is captured into a CUDA graph once, and launched as a whole.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::sys::{self, CUgraph_st, CUgraphExec_st};

use super::Shared;
use super::calls;
use super::handles::{Owned, Stream};
use super::status::{DriverStatus, Status};
use crate::Result;
use crate::engine::device::Recording;

/// A stream that records work instead of running it, and a flag that is set meanwhile. Dropping this ends the recording, also if the work
/// panics.
pub(super) struct Capture<'a> {
    stream: &'a Stream,
    recording: &'a AtomicBool,
}

impl<'a> Capture<'a> {
    /// Starts the capture. Only calls of this thread can break it, so loader threads may continue.
    pub(crate) fn begin(stream: &'a Stream, recording: &'a AtomicBool) -> Result<Capture<'a>> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // Set first, so that no copy of another thread comes in between.
        recording.store(true, Ordering::Release);
        // SAFETY: the stream is valid.
        let begun = unsafe { calls::cuStreamBeginCapture_v2(stream.get(), mode) }.check("beginning to record");
        if begun.is_err() {
            recording.store(false, Ordering::Release);
        }
        begun.map(|_| Capture { stream, recording })
    }

    /// Ends the capture, and returns what was recorded.
    pub(super) fn end(self) -> Result<Owned<CUgraph_st, DriverStatus>> {
        let Capture { stream, recording } = self;
        std::mem::forget(self);
        // SAFETY: `cuGraphDestroy` takes what `cuStreamEndCapture` writes if it succeeds.
        let graph = unsafe {
            Owned::new(|to| calls::cuStreamEndCapture(stream.get(), to), calls::cuGraphDestroy, "ending the recording")
        };
        recording.store(false, Ordering::Release);
        graph
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        let mut graph = ptr::null_mut();
        // SAFETY: the stream is valid; a graph is destroyed only if one was written.
        unsafe {
            let _ = calls::cuStreamEndCapture(self.stream.get(), &mut graph);
            if !graph.is_null() {
                let _ = calls::cuGraphDestroy(graph);
            }
        }
        self.recording.store(false, Ordering::Release);
    }
}

/// A graph that can be launched. It keeps its stream, the kernels and the buffers of libraries alive.
pub(super) struct Graph {
    graph: Owned<CUgraphExec_st, DriverStatus>,
    shared: Arc<Shared>,
}

impl Graph {
    pub(super) fn new(recorded: Owned<CUgraph_st, DriverStatus>, shared: Arc<Shared>) -> Result<Graph> {
        let instantiate = |to| {
            // SAFETY: the graph is valid; the result does not refer to it.
            unsafe { calls::cuGraphInstantiateWithFlags(to, recorded.get(), 0) }
        };
        // SAFETY: `cuGraphExecDestroy` takes what `cuGraphInstantiate` writes.
        let graph = unsafe { Owned::new(instantiate, calls::cuGraphExecDestroy, "preparing what was recorded") }?;
        Ok(Graph { graph, shared })
    }
}

impl Recording for Graph {
    fn replay(&self) -> Result<()> {
        self.shared.context.bind()?;
        // SAFETY: graph and stream are valid. Only one thread at a time may launch a graph, and only one is here: a `Recording` is
        // `Send` but not `Sync`.
        unsafe { calls::cuGraphLaunch(self.graph.get(), self.shared.stream.get()) }.check("replaying what was recorded")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // Waits, because it may still run, and makes the context current for its destruction.
        let _ = self.shared.context.bind().and_then(|()| self.shared.stream.synchronize());
    }
}
