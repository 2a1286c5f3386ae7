//! The emulated GPU: `kernels/*.cu` compiled as C++ and run by the CPU, one CUDA thread after the other.
//!
//! Device memory is host memory that is filled with NaN when it is allocated. The threads of each launch run in a new random order.

mod library;

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use self::library::Enqueued;
pub use self::library::Simulated;
use super::backend::{no_exchange, only_launches_are_recorded};
use super::{Backend, Call, Kernel, Recording, Vendor};
use crate::engine::collective::{Collective, Meeting};
use crate::{Error, Result};

unsafe extern "C" {
    /// See `kernels/emulator/abi.cpp`.
    fn ptl_emu_launch(
        kernel: *const c_char,
        grid: *const c_uint,
        block: *const c_uint,
        shared_bytes: c_uint,
        arguments: *mut *mut c_void,
        schedule: c_uint,
        seed: c_ulonglong,
        message: *mut c_char,
        message_len: usize,
    ) -> c_int;
}

/// The schedule that runs threads and blocks in a random order.
const SHUFFLED: c_uint = 2;
const ALIGN: usize = 256;
const NAME: &str = "emulated GPU";

/// The emulated device.
#[derive(Debug, Default)]
pub struct Emulator {
    state: Arc<State>,
    vendor: Option<Vendor>,
}

/// What the device and its libraries share.
#[derive(Debug, Default)]
struct State {
    blocks: Mutex<HashMap<u64, Layout>>,
    /// Counts the launches; the number is the seed of a launch.
    launches: AtomicU64,
    /// Held while work runs: like that of a GPU's stream, it does not overlap.
    running: Mutex<()>,
    /// The processes whose devices this one exchanges numbers with.
    ranks: Mutex<Option<Collective>>,
    /// Sums over all ranks that were begun, with their addresses.
    sums: Mutex<Vec<(u64, Vec<f32>)>>,
    /// Work that is recorded instead of run.
    recording: Mutex<Option<Vec<Work>>>,
    /// Launches that ran since the last [`Emulator::take_launches`]; `None` before the first.
    log: Mutex<Option<Vec<Launch>>>,
}

/// The address of memory that nothing reads or writes.
const NOWHERE: u64 = ALIGN as u64;

/// What can be enqueued, and so recorded.
#[derive(Clone)]
enum Work {
    Launch(Launch),
    Call(Enqueued),
    Exchange(Exchange),
    /// The end of all sums that were begun.
    FinishSums,
}

/// An exchange of numbers with the emulated GPUs of other processes.
#[derive(Clone)]
struct Exchange {
    ranks: Collective,
    /// The addresses of this rank's numbers.
    own: Range<u64>,
    kind: ExchangeKind,
}

#[derive(Clone, Copy)]
enum ExchangeKind {
    /// Replaces numbers by their sums.
    Sum,
    /// Replaces numbers by their means.
    Mean,
    /// Replaces numbers by their sums at the next [`Work::FinishSums`].
    LaterSum,
    /// Copies the bytes of all ranks to this address.
    Gather(u64),
}

impl Exchange {
    fn run(&self, state: &State) -> Result<()> {
        let Exchange { ranks, own, kind } = self;
        let bytes = (own.end - own.start) as usize;
        let count = ranks.ranks();
        let all = match kind {
            ExchangeKind::Gather(all) => Some(*all..*all + (bytes * count) as u64),
            _ => None,
        };
        for range in [Some(own), all.as_ref()].into_iter().flatten() {
            let checked = state.check_allocated(range);
            checked.map_err(|reason| Error::Device {
                device: NAME,
                action: "exchange with other ranks".into(),
                reason,
            })?;
        }
        if let Some(all) = all {
            // SAFETY: both ranges are allocated, as checked above, and nothing else runs on this device meanwhile.
            let (own, all) = unsafe {
                let own = std::slice::from_raw_parts(own.start as *const u8, bytes);
                (own, std::slice::from_raw_parts_mut(all.start as *mut u8, bytes * count))
            };
            ranks.gather_into(own, all);
            return Ok(());
        }
        // SAFETY: as above. Addresses of numbers are multiples of their size.
        let numbers = unsafe { std::slice::from_raw_parts_mut(own.start as *mut f32, bytes / 4) };
        ranks.sum(numbers);
        match kind {
            ExchangeKind::Mean => numbers.iter_mut().for_each(|number| *number /= count as f32),
            ExchangeKind::LaterSum => {
                // A GPU may write the sums at any time until the end: whoever reads or writes the numbers before gets or leaves nothing.
                let sums = numbers.to_vec();
                numbers.fill(f32::NAN);
                state.sums.lock().expect("no panic while locked").push((own.start, sums));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Writes the sums that were begun.
fn finish_sums(state: &State) {
    for (at, sums) in state.sums.lock().expect("no panic while locked").drain(..) {
        // SAFETY: the range was allocated when the sum was begun, and no work that is enqueued in between frees memory.
        unsafe { std::slice::from_raw_parts_mut(at as *mut f32, sums.len()) }.copy_from_slice(&sums);
    }
}

impl Work {
    fn run(&self, state: &State, seed: u64) -> Result<()> {
        match self {
            Work::Launch(launch) => launch.run(seed),
            Work::Call(call) => call.run(state),
            Work::Exchange(exchange) => exchange.run(state),
            Work::FinishSums => {
                finish_sums(state);
                Ok(())
            }
        }
    }
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Work::Launch(launch) => launch.fmt(f),
            Work::Call(_) => f.write_str("a library's call"),
            Work::Exchange(_) => f.write_str("an exchange with other ranks"),
            Work::FinishSums => f.write_str("the end of sums over all ranks"),
        }
    }
}

/// A launch with its arguments by value.
#[derive(Clone)]
pub struct Launch {
    /// The kernel that is launched.
    pub kernel: &'static Kernel,
    grid: [u32; 3],
    shared_bytes: u32,
    /// The bytes of each argument, filled up to whole words of 8.
    pub arguments: Vec<Vec<u64>>,
}

impl std::fmt::Debug for Launch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.kernel.name, self.grid)
    }
}

impl Launch {
    fn run(&self, seed: u64) -> Result<()> {
        let mut values = self.arguments.clone();
        let mut arguments: Vec<*mut c_void> = values.iter_mut().map(|value| value.as_mut_ptr().cast()).collect();
        let name = CString::new(self.kernel.name).expect("a C identifier");
        let block = [self.kernel.threads, 1, 1];
        let mut message = [0u8; 512];
        // SAFETY: the build script compiled all kernels that it lists, and there is one value for each parameter.
        let status = unsafe {
            ptl_emu_launch(
                name.as_ptr(),
                self.grid.as_ptr(),
                block.as_ptr(),
                self.shared_bytes,
                arguments.as_mut_ptr(),
                SHUFFLED,
                seed,
                message.as_mut_ptr().cast(),
                message.len(),
            )
        };
        if status == 0 {
            return Ok(());
        }
        let end = message.iter().position(|&byte| byte == 0).unwrap_or(message.len());
        let reason = String::from_utf8_lossy(&message[..end]).into_owned();
        Err(Error::Device { device: NAME, action: format!("kernel {}", self.kernel.name), reason })
    }
}

impl Emulator {
    /// Returns a device with emulated libraries that answer to each call as `simulated` says, or without libraries.
    pub fn new(simulated: Option<fn(&Call) -> Simulated>) -> Emulator {
        let state = Arc::default();
        let vendor = simulated.map(|simulated| library::vendor(&state, simulated));
        Emulator { state, vendor }
    }

    /// Returns the launches since the last call, without replays of recordings. The first call returns nothing, and launches are kept from
    /// then on.
    pub fn take_launches(&self) -> Vec<Launch> {
        self.state.log.lock().expect("no panic while locked").replace(Vec::new()).unwrap_or_default()
    }

    /// Returns what `work` enqueues, without running it.
    fn recorded(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Work>> {
        *self.state.recording.lock().expect("no panic while locked") = Some(Vec::new());
        let done = work();
        let recorded = self.state.recording.lock().expect("no panic while locked").take();
        done.map(|()| recorded.expect("set above"))
    }

    /// Returns the start and the bytes of the allocation that contains `address`.
    pub fn allocation(&self, address: u64) -> Option<(u64, usize)> {
        self.state.allocation(address)
    }
}

impl State {
    /// Returns an error while a recording is made: CUDA does not allow the action then.
    fn refuse_in_recording(&self, action: &str) -> Result<()> {
        if self.recording.lock().expect("no panic while locked").is_none() {
            return Ok(());
        }
        Err(only_launches_are_recorded(NAME, action))
    }

    /// Enqueues an exchange with the processes that have joined.
    fn exchange(&self, own: Range<u64>, kind: ExchangeKind) -> Result<()> {
        let ranks = self.ranks.lock().expect("no panic while locked").clone().ok_or_else(no_exchange)?;
        self.enqueue(Work::Exchange(Exchange { ranks, own, kind }))
    }

    /// Runs work, or records it.
    fn enqueue(&self, work: Work) -> Result<()> {
        if let Some(recorded) = &mut *self.recording.lock().expect("no panic while locked") {
            recorded.push(work);
            return Ok(());
        }
        if let (Some(log), Work::Launch(launch)) = (&mut *self.log.lock().expect("no panic while locked"), &work) {
            log.push(launch.clone());
        }
        let _running = self.running.lock().expect("no panic while locked");
        work.run(self, self.launches.fetch_add(1, Ordering::Relaxed))
    }

    fn allocation(&self, address: u64) -> Option<(u64, usize)> {
        let blocks = self.blocks.lock().expect("no panic while locked");
        let holds = |(start, layout): &(&u64, &Layout)| (**start..**start + layout.size() as u64).contains(&address);
        blocks.iter().find(holds).map(|(start, layout)| (*start, layout.size()))
    }

    /// Checks that a range of addresses is in one allocation; returns what is wrong otherwise.
    fn check_allocated(&self, range: &Range<u64>) -> std::result::Result<(), String> {
        match self.allocation(range.start) {
            Some((start, bytes)) if range.end <= start + bytes as u64 => Ok(()),
            Some((start, bytes)) => {
                Err(format!("{range:#x?} ends outside of the allocation of {bytes} bytes at {start:#x}"))
            }
            None => Err(format!("{range:#x?} is not allocated")),
        }
    }
}

impl Backend for Emulator {
    fn description(&self) -> String {
        "emulated GPU: the CUDA kernels, run by the CPU".into()
    }

    fn memory(&self) -> Result<[u64; 2]> {
        let (total, available) = crate::base::memory::total_and_available().unwrap_or((u64::MAX, u64::MAX));
        Ok([available, total])
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.state.refuse_in_recording("allocating memory")?;
        let [free, total] = self.memory()?;
        let too_large = || {
            let (purpose, advice) =
                ("a buffer".into(), "use smaller batches, smaller images or a smaller network".into());
            Error::DeviceMemory { purpose, needed: bytes as u64, free, total, advice }
        };
        if bytes as u64 > free {
            return Err(too_large());
        }
        let layout = Layout::from_size_align(bytes, ALIGN).expect("a size that memory can have");
        // SAFETY: the layout has a size above 0 (`Buffer::new`).
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            return Err(too_large());
        }
        // SAFETY: the memory was just allocated with this size.
        unsafe { start.write_bytes(0xff, bytes) };
        self.state.blocks.lock().expect("no panic while locked").insert(start as u64, layout);
        Ok(start as u64)
    }

    fn release(&self, address: u64) {
        let layout = self.state.blocks.lock().expect("no panic while locked").remove(&address);
        // SAFETY: the block was allocated here with this layout, and is no longer in the list.
        unsafe { dealloc(address as *mut u8, layout.expect("a block of this device")) };
    }

    fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        self.state.refuse_in_recording("copying to the device")?;
        // SAFETY: callers copy within blocks that they allocated, and the host's slice is another allocation.
        unsafe { (to as *mut u8).copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Ok(())
    }

    fn upload_async(&self, to: u64, from: &[u8]) -> Result<()> {
        self.upload(to, from)
    }

    fn download(&self, copies: &mut [(&mut [u8], u64)]) -> Result<()> {
        self.state.refuse_in_recording("copying from the device")?;
        for (to, from) in copies {
            // SAFETY: as in `upload`.
            unsafe { to.as_mut_ptr().copy_from_nonoverlapping(*from as *const u8, to.len()) };
        }
        Ok(())
    }

    /// Counts the kernels that each work launches, without memory and without running them: the times of an emulator mean nothing, and change
    /// from run to run.
    fn compare(&self, _bytes: usize, works: &mut [&mut dyn FnMut(u64) -> Result<()>; 2]) -> Result<[f64; 2]> {
        self.state.refuse_in_recording("measuring a pass")?;
        let mut launched = [0.0; 2];
        for (launched, work) in launched.iter_mut().zip(works) {
            let recorded = self.recorded(&mut || work(NOWHERE))?;
            *launched = recorded.iter().filter(|work| matches!(work, Work::Launch(_))).count() as f64;
        }
        Ok(launched)
    }

    fn synchronize(&self) -> Result<()> {
        self.state.refuse_in_recording("waiting for the device")?;
        Ok(())
    }

    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let values = (arguments.iter().zip(kernel.parameter_bytes)).map(|(&argument, &bytes)| {
            let mut value = vec![0u64; bytes.div_ceil(8)];
            // SAFETY: the caller's arguments point to values of the kernel's parameter types, which have these sizes.
            unsafe { value.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(argument.cast(), bytes) };
            value
        });
        let launch = Launch { kernel, grid, shared_bytes, arguments: values.collect() };
        self.state.enqueue(Work::Launch(launch))
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>> {
        Ok(Box::new(Recorded { state: Arc::clone(&self.state), work: self.recorded(work)? }))
    }

    fn vendor(&self) -> Option<&Vendor> {
        self.vendor.as_ref()
    }

    fn join(&self, meeting: Meeting<'_>) -> Result<()> {
        // An emulated GPU exchanges by its processes, which therefore must be connected.
        let Meeting::Ranks(ranks) = meeting else { return Err(no_exchange()) };
        *self.state.ranks.lock().expect("no panic while locked") = Some(ranks.clone());
        Ok(())
    }

    fn all_reduce(&self, at: u64, count: usize, mean: bool) -> Result<()> {
        let kind = if mean { ExchangeKind::Mean } else { ExchangeKind::Sum };
        self.state.exchange(at..at + 4 * count as u64, kind)
    }

    fn begin_sum(&self, at: u64, count: usize) -> Result<()> {
        self.state.exchange(at..at + 4 * count as u64, ExchangeKind::LaterSum)
    }

    fn finish_sums(&self) -> Result<()> {
        self.state.enqueue(Work::FinishSums)
    }

    fn all_gather(&self, own: u64, bytes: usize, all: u64) -> Result<()> {
        self.state.exchange(own..own + bytes as u64, ExchangeKind::Gather(all))
    }
}

struct Recorded {
    state: Arc<State>,
    work: Vec<Work>,
}

impl Recording for Recorded {
    fn replay(&self) -> Result<()> {
        let _running = self.state.running.lock().expect("no panic while locked");
        self.work.iter().enumerate().try_for_each(|(i, work)| work.run(&self.state, i as u64))
    }
}
