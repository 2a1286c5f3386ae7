//! Convolutions by the vendor's libraries: in which terms a library is asked for one, and what is done if it refuses.
//!
//! A [`Library`] has the calls of cuDNN and cuBLASLt, in their layouts. On a GPU the libraries themselves stand behind it, in the emulator a
//! substitute that checks what it is given. A [`Vendor`] asks for each pass of a convolution once and remembers the answer, so that a plan
//! and the calls that follow it agree. What a library refuses, the crate's own kernels compute.

mod layout;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use layout::{Descriptors, Matrix, Product, Tensor4d};

use crate::engine::geometry::Conv2dGeometry;
use crate::engine::precision::Precision;
use crate::{Error, Result};

/// The alignment of every operand, bytes: that of the widest load of a kernel.
pub(super) const OPERAND_ALIGNMENT: u64 = 16;
/// The alignment of the workspace, bytes. cuBLASLt expects it, and does not check it.
pub(super) const WORKSPACE_ALIGNMENT: u64 = 256;

/// The passes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// `y = conv(x, weight)`
    Forward,
    /// `dx = convᵀ(dy, weight)`
    BackwardData,
    /// `dweight = corr(x, dy)`
    BackwardWeight,
}

impl Pass {
    /// All passes.
    pub const ALL: [Pass; 3] = [Pass::Forward, Pass::BackwardData, Pass::BackwardWeight];
}

/// One pass of a convolution in one precision.
///
/// Activations are NHWC, in bf16 for [`Precision::Bf16`], else in f32. Weights and their gradients have the same type and the order
/// `[out, kh, kw, in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// The sizes of the convolution.
    pub geometry: Conv2dGeometry,
    /// What it computes in.
    pub precision: Precision,
    /// The pass.
    pub pass: Pass,
}

impl Call {
    /// Returns whether the convolution is a product of matrices, for which cuBLASLt is asked and not cuDNN.
    pub(super) fn is_product(&self) -> bool {
        Product::is(&self.geometry)
    }

    /// Returns the name of the library that takes the call.
    fn library(&self) -> &'static str {
        if self.is_product() { "cuBLASLt" } else { "cuDNN" }
    }
}

/// Writes what is computed: the pass, the kernel and the sizes.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = match self.pass {
            Pass::Forward => "the output",
            Pass::BackwardData => "the gradient of the input",
            Pass::BackwardWeight => "the gradient of the weight",
        };
        let Conv2dGeometry { batch, in_h, in_w, in_c, out_c, kernel, stride, padding } = self.geometry;
        let pair = |[a, b]: [usize; 2]| format!("{a}x{b}");
        let (kernel, stride, padding) = (pair(kernel), pair(stride), pair(padding));
        write!(
            f,
            "{result} of a {kernel} convolution of {batch} maps of {in_h}x{in_w}x{in_c} to {out_c} channels, stride {stride}, padding \
             {padding}, in {}",
            self.precision
        )
    }
}

/// What a library says to a call.
pub(super) enum Answer<T> {
    /// It takes the call.
    Takes(T),
    /// It does not, for this reason.
    Refuses(String),
    /// There is no such library here, as [`Library::description`] says.
    Missing,
}

/// The vendor's libraries as a device has them, with deterministic algorithms only.
pub(super) trait Library: Send + Sync {
    /// Returns the names and versions, and what is missing.
    fn description(&self) -> String;

    /// Chooses an algorithm, and returns the bytes of its workspace. The first time it may load code, which cannot be done while launches
    /// are recorded.
    ///
    /// # Errors
    /// The library fails, or launches are being recorded.
    fn plan(&self, call: &Call) -> Result<Answer<usize>>;

    /// Enqueues a call that was planned, on x, w and y or their gradients; one of these is the result, to which is added if `accumulate`.
    /// If it refuses, nothing was enqueued.
    ///
    /// # Errors
    /// The library fails.
    ///
    /// # Safety
    /// Operands must be memory of this device with the sizes of the geometry, aligned to [`OPERAND_ALIGNMENT`]; `workspace` must have as
    /// many bytes as [`Library::plan`] said, aligned to [`WORKSPACE_ALIGNMENT`].
    unsafe fn run(&self, call: &Call, operands: [u64; 3], accumulate: bool, workspace: u64) -> Result<Answer<()>>;
}

/// The vendor's convolutions on a device.
pub struct Vendor {
    library: Box<dyn Library>,
    /// The calls that the library was asked for. A network has a few hundred.
    asked: Mutex<Vec<Asked>>,
}

struct Asked {
    call: Call,
    answer: Answer<usize>,
    /// Whether a step wanted it ([`Vendor::begin`]). A plan also asks for gradients that no step needs.
    wanted: bool,
    /// Whether [`Vendor::take_refusals`] returned it.
    told: bool,
}

impl Asked {
    fn workspace(&self) -> Option<usize> {
        if let Answer::Takes(bytes) = self.answer { Some(bytes) } else { None }
    }
}

impl Vendor {
    pub(super) fn new(library: impl Library + 'static) -> Vendor {
        Vendor { library: Box::new(library), asked: Mutex::default() }
    }

    /// Returns the libraries' names and versions, and what is missing.
    pub fn description(&self) -> String {
        self.library.description()
    }

    /// Returns the bytes of workspace of a call, or `None` if the libraries do not take it. They are asked only once for each call. That must
    /// not happen while launches are recorded.
    ///
    /// # Errors
    /// A library fails.
    pub fn workspace(&self, call: Call) -> Result<Option<usize>> {
        self.with_answer(call, |asked| asked.workspace())
    }

    /// Returns the same for a call of a step, so that [`Vendor::take_refusals`] tells if the libraries refuse it. `None` means that ptl's own
    /// kernel must compute it.
    ///
    /// # Errors
    /// As [`Vendor::workspace`].
    pub fn begin(&self, call: Call) -> Result<Option<usize>> {
        self.with_answer(call, |asked| {
            asked.wanted = true;
            asked.workspace()
        })
    }

    /// Enqueues a call, and returns whether the library took it; if not, nothing was enqueued, and it is not asked again. Operands are x,
    /// w and y, or their gradients; one of these is the result, to which is added if `accumulate`.
    ///
    /// # Errors
    /// An address does not have the alignment that the libraries expect; a library fails.
    ///
    /// # Safety
    /// Operands must be memory of this device with the sizes of the geometry, and `workspace` as long as [`Vendor::workspace`] says.
    pub unsafe fn run(&self, call: Call, operands: [u64; 3], accumulate: bool, workspace: u64) -> Result<bool> {
        let Some(bytes) = self.workspace(call)? else { return Ok(false) };
        let misaligned = |what: &str, address: u64, alignment: u64| Error::Device {
            device: "GPU",
            action: format!("computing {call}"),
            reason: format!("the address {address:#x} of {what} is no multiple of {alignment}"),
        };
        if let Some(&address) = operands.iter().find(|address| !address.is_multiple_of(OPERAND_ALIGNMENT)) {
            return Err(misaligned("an operand", address, OPERAND_ALIGNMENT));
        }
        if bytes > 0 && !workspace.is_multiple_of(WORKSPACE_ALIGNMENT) {
            return Err(misaligned("the workspace", workspace, WORKSPACE_ALIGNMENT));
        }
        // SAFETY: the caller's promise; the call was planned and alignments were checked above.
        match unsafe { self.library.run(&call, operands, accumulate, workspace)? } {
            Answer::Takes(()) => Ok(true),
            Answer::Refuses(reason) => {
                self.with_answer(call, |asked| asked.answer = Answer::Refuses(reason))?;
                Ok(false)
            }
            Answer::Missing => Ok(false),
        }
    }

    /// Returns a sentence for each refusal of a call that a step wanted, but none that it returned before.
    pub fn take_refusals(&self) -> Vec<String> {
        let mut asked = self.lock();
        let news = asked.iter_mut().filter(|asked| asked.wanted && !asked.told);
        news.filter_map(|Asked { call, answer, told, .. }| {
            let Answer::Refuses(reason) = answer else { return None };
            *told = true;
            Some(format!("{} does not compute {call} ({reason}): ptl's own kernel does", call.library()))
        })
        .collect()
    }

    /// Calls `f` with what the library answered to a call, and asks it first if that was not done.
    fn with_answer<R>(&self, call: Call, f: impl FnOnce(&mut Asked) -> R) -> Result<R> {
        let mut all = self.lock();
        let at = match all.iter().position(|asked| asked.call == call) {
            Some(at) => at,
            None => {
                let answer = self.library.plan(&call)?;
                all.push(Asked { call, answer, wanted: false, told: false });
                all.len() - 1
            }
        };
        Ok(f(&mut all[at]))
    }

    /// Locks the list, even if another thread panicked while it had it: it is valid between any two statements.
    fn lock(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vendor({})", self.description())
    }
}
