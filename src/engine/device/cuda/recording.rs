//! Work that is captured once into a CUDA graph and launched as one.

use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUgraph_st, CUgraphExec_st, CUresult};

use super::Shared;
use super::handles::{Owned, Stream};
use super::status::Status;
use crate::Result;
use crate::engine::device::Recording;

/// A stream that records instead of running; dropping it ends that, also where the work panics.
pub(super) struct Capture<'a>(&'a Stream);

impl<'a> Capture<'a> {
    /// Only calls of this thread that could not be recorded break the capture: loader threads go on.
    pub fn begin(stream: &'a Stream) -> Result<Capture<'a>> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives.
        unsafe { sys::cuStreamBeginCapture_v2(stream.get(), mode) }.check("beginning to record")?;
        Ok(Capture(stream))
    }

    /// What was recorded.
    pub fn end(self) -> Result<Owned<CUgraph_st, CUresult>> {
        let stream = self.0;
        std::mem::forget(self);
        // SAFETY: `cuGraphDestroy` takes what `cuStreamEndCapture` writes where it succeeds.
        unsafe {
            Owned::new(|to| sys::cuStreamEndCapture(stream.get(), to), sys::cuGraphDestroy, "ending the recording")
        }
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        let mut graph = ptr::null_mut();
        // SAFETY: the stream lives; a graph is destroyed only if one was written.
        unsafe {
            let _ = sys::cuStreamEndCapture(self.0.get(), &mut graph);
            if !graph.is_null() {
                let _ = sys::cuGraphDestroy(graph);
            }
        }
    }
}

/// A graph that can be launched. Its kernels, buffers of libraries and stream live as long as it does.
pub(super) struct Graph {
    graph: Owned<CUgraphExec_st, CUresult>,
    shared: Arc<Shared>,
}

impl Graph {
    pub fn new(recorded: Owned<CUgraph_st, CUresult>, shared: Arc<Shared>) -> Result<Graph> {
        let instantiate = |to| {
            // SAFETY: the graph lives; the result does not refer to it.
            unsafe { sys::cuGraphInstantiateWithFlags(to, recorded.get(), 0) }
        };
        // SAFETY: `cuGraphExecDestroy` takes what `cuGraphInstantiate` writes.
        let graph = unsafe { Owned::new(instantiate, sys::cuGraphExecDestroy, "preparing what was recorded") }?;
        Ok(Graph { graph, shared })
    }
}

impl Recording for Graph {
    fn replay(&self) -> Result<()> {
        self.shared.context.bind()?;
        // SAFETY: graph and stream live. One thread at a time is here, as graphs need it: `Graph` is not shared (`Recording` asks
        // for `Send` only).
        unsafe { sys::cuGraphLaunch(self.graph.get(), self.shared.stream.get()) }.check("replaying what was recorded")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // It may still run, and is destroyed with the context current.
        let _ = self.shared.context.bind().and_then(|()| self.shared.stream.synchronize());
    }
}
