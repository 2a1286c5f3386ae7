//! What stands for cuDNN and cuBLASLt on the emulated GPU. It finds its operands by the descriptors and layouts that those libraries would
//! get, and computes by [`conv`]; it checks what they expect of addresses and sizes.

use std::ops::Range;
use std::sync::Arc;

use half::bf16;

use super::{NAME, State, Work};
use crate::engine::cpu::conv::{self, Packed};
use crate::engine::device::Vendor;
use crate::engine::device::vendor::{Answer, Call, Descriptors, Library, Matrix, Pass, Product, Tensor4d};
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::precision::Precision;
use crate::{Error, Result};

/// The workspace of every call but products forward, bytes: no multiple of any alignment, as a library's may be.
const WORKSPACE: usize = 1000;

/// What the emulated libraries say to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simulated {
    /// They take it.
    Takes,
    /// They have no algorithm for it.
    RefusesPlan,
    /// They have an algorithm, and refuse when it is called.
    RefusesRun,
    /// The library that would take it is missing.
    Missing,
}

/// The emulated libraries.
struct Libraries {
    state: Arc<State>,
    simulated: fn(&Call) -> Simulated,
}

/// Returns the emulated libraries, which answer as `simulated` says.
pub(super) fn vendor(state: &Arc<State>, simulated: fn(&Call) -> Simulated) -> Vendor {
    Vendor::new(Libraries { state: Arc::clone(state), simulated })
}

/// Returns the bytes of workspace of a call.
fn workspace(call: &Call) -> usize {
    if call.is_product() && call.pass == Pass::Forward { 0 } else { WORKSPACE }
}

impl Library for Libraries {
    fn description(&self) -> String {
        "emulated cuDNN and cuBLASLt".into()
    }

    fn plan(&self, call: &Call) -> Result<Answer<usize>> {
        self.state.refuse_in_recording("choosing an algorithm")?;
        match (self.simulated)(call) {
            Simulated::Missing => Ok(Answer::Missing),
            Simulated::RefusesPlan => Ok(Answer::Refuses("simulated: no algorithm".into())),
            Simulated::Takes | Simulated::RefusesRun => Ok(Answer::Takes(workspace(call))),
        }
    }

    unsafe fn run(&self, call: &Call, operands: [u64; 3], accumulate: bool, workspace: u64) -> Result<Answer<()>> {
        if (self.simulated)(call) == Simulated::RefusesRun {
            return Ok(Answer::Refuses("simulated: refused when called".into()));
        }
        let enqueued = Enqueued { call: *call, operands, accumulate, workspace };
        self.state.enqueue(Work::Call(enqueued)).map(Answer::Takes)
    }
}

/// A call of a library with its operands x, w and y, or their gradients.
#[derive(Clone)]
pub(super) struct Enqueued {
    call: Call,
    operands: [u64; 3],
    accumulate: bool,
    workspace: u64,
}

impl Enqueued {
    pub(super) fn run(&self, state: &State) -> Result<()> {
        let scratch = self.workspace..self.workspace + workspace(&self.call) as u64;
        if !scratch.is_empty() {
            state.check_allocated(&scratch).map_err(|reason| self.error(&format!("the workspace: {reason}")))?;
            // SAFETY: the range is of memory that is allocated on this device, and was given to this call to write to.
            unsafe { (scratch.start as *mut u8).write_bytes(0xff, (scratch.end - scratch.start) as usize) };
        }
        let Call { geometry, pass, .. } = &self.call;
        if self.call.is_product() {
            self.product(state, &Product::new(geometry, *pass), &scratch)
        } else {
            self.convolution(state, &Descriptors::new(geometry)?, &scratch)
        }
    }

    fn error(&self, reason: &str) -> Error {
        Error::Device { device: NAME, action: format!("computing {}", self.call), reason: reason.into() }
    }

    /// Returns the memory of operands, each with its extent in elements, after checking that the last one, which is written, overlaps neither
    /// the others nor the workspace.
    fn memory(&self, state: &State, operands: [(u64, usize); 3], scratch: &Range<u64>) -> Result<[Numbers; 3]> {
        let precision = self.call.precision;
        let bytes = if precision == Precision::Bf16 { 2 } else { 4 };
        let ranges = operands.map(|(address, extent)| address..address + (extent * bytes) as u64);
        for range in &ranges {
            state.check_allocated(range).map_err(|reason| self.error(&reason))?;
        }
        let [first, second, result] = &ranges;
        let overlap = |other: &Range<u64>| other.start < result.end && result.start < other.end;
        if [first, second, scratch].into_iter().any(overlap) {
            return Err(self.error("the result overlaps an operand or the workspace"));
        }
        Ok(operands.map(|(address, extent)| Numbers { address, extent, precision }))
    }

    /// Computes `c = op(a) · op(b)`, or adds it to c.
    fn product(&self, state: &State, product: &Product, scratch: &Range<u64>) -> Result<()> {
        let [x, w, y] = self.operands;
        let [a, b, c] = Product::operands(self.call.pass, x, w, y);
        let with_extent = |address, matrix: &Matrix| (address, matrix.leading * (matrix.columns - 1) + matrix.rows);
        let operands = [with_extent(a, &product.a), with_extent(b, &product.b), with_extent(c, &product.c)];
        let [a, b, c] = self.memory(state, operands, scratch)?;
        let size = |m: &Matrix| if m.transposed { [m.columns, m.rows] } else { [m.rows, m.columns] };
        let place = |m: &Matrix, row: usize, column: usize| {
            let (row, column) = if m.transposed { (column, row) } else { (row, column) };
            column * m.leading + row
        };
        let ([rows, inner], [inner_of_b, columns]) = (size(&product.a), size(&product.b));
        if inner != inner_of_b || size(&product.c) != [rows, columns] {
            return Err(self.error(&format!("the sizes of {product:?} do not fit")));
        }
        // Each row of op(a) is a pixel, so that a convolution multiplies the matrices.
        let one = Conv2dGeometry::new(rows, [1, 1], inner, columns, [1, 1], [1, 1], [0, 0])?;
        let left: Vec<f32> = pairs(rows, inner).map(|(i, j)| a.factor(place(&product.a, i, j))).collect();
        let right: Vec<f32> = pairs(inner, columns).map(|(i, j)| b.factor(place(&product.b, i, j))).collect();
        let mut result = vec![0.0; rows * columns];
        let mut memory = vec![0.0; conv::forward_workspace(&one)];
        conv::conv2d_forward(Precision::F32, &one, &left, &right, None, &mut result, Packed::empty(&mut memory));
        for ((i, j), value) in pairs(rows, columns).zip(result) {
            c.put(place(&product.c, i, j), value, self.accumulate);
        }
        Ok(())
    }

    /// Computes a pass of a convolution.
    fn convolution(&self, state: &State, d: &Descriptors, scratch: &Range<u64>) -> Result<()> {
        let sizes = |tensor: &Tensor4d| tensor.sizes.map(|size| size as usize);
        let ([batch, inputs, height, width], filter) = (sizes(&d.x), d.filter.map(|size| size as usize));
        let [outputs, filter_inputs, kernel_h, kernel_w] = filter;
        let [stride, padding] = [d.stride, d.padding].map(|pair| pair.map(|v| v as usize));
        let g = Conv2dGeometry::new(batch, [height, width], inputs, outputs, [kernel_h, kernel_w], stride, padding)?;
        if filter_inputs != inputs || sizes(&d.y) != [batch, outputs, g.out_h(), g.out_w()] {
            return Err(self.error(&format!("the sizes of {d:?} do not fit")));
        }
        // The places of all numbers in the order that the CPU's convolutions have, and cuDNN's places in memory.
        let places = |tensor: &Tensor4d| -> Vec<usize> {
            let [n, c, h, w] = sizes(tensor);
            let strides = tensor.strides.map(|stride| stride as usize);
            let at = |[n, c, h, w]: [usize; 4]| n * strides[0] + c * strides[1] + h * strides[2] + w * strides[3];
            pairs(n * h, w * c).map(|(nh, wc)| at([nh / h, wc % c, nh % h, wc / c])).collect()
        };
        let (x_places, y_places) = (places(&d.x), places(&d.y));
        // The filter is [k, h, w, c] in memory; the CPU has [h, w, c, k].
        let w_places: Vec<usize> = pairs(g.k(), outputs).map(|(k, output)| output * g.k() + k).collect();
        let extent = |places: &[usize]| places.iter().max().map_or(0, |last| last + 1);
        let [x, w, y] = self.operands;
        let [x, w, y] = [(x, extent(&x_places)), (w, extent(&w_places)), (y, extent(&y_places))];
        let factors = |numbers: &Numbers, places: &[usize]| -> Vec<f32> {
            places.iter().map(|&place| numbers.factor(place)).collect()
        };
        let zeros = |len: usize| vec![0.0; len];
        let (result, places, to) = match self.call.pass {
            Pass::Forward => {
                let [x, w, y] = self.memory(state, [x, w, y], scratch)?;
                let (x, w) = (factors(&x, &x_places), factors(&w, &w_places));
                let (mut result, mut memory) = (zeros(y_places.len()), zeros(conv::forward_workspace(&g)));
                conv::conv2d_forward(Precision::F32, &g, &x, &w, None, &mut result, Packed::empty(&mut memory));
                (result, y_places, y)
            }
            Pass::BackwardData => {
                let [w, dy, dx] = self.memory(state, [w, y, x], scratch)?;
                let (w, dy) = (factors(&w, &w_places), factors(&dy, &y_places));
                let (mut result, mut memory) = (zeros(x_places.len()), zeros(conv::backward_data_workspace(&g)));
                conv::conv2d_backward_data(Precision::F32, &g, &dy, &w, &mut result, false, &mut memory);
                (result, x_places, dx)
            }
            Pass::BackwardWeight => {
                let [x, dy, dw] = self.memory(state, [x, y, w], scratch)?;
                let (x, dy) = (factors(&x, &x_places), factors(&dy, &y_places));
                let (mut result, mut memory) = (zeros(w_places.len()), zeros(conv::backward_weight_workspace(&g)));
                conv::conv2d_backward_weight(Precision::F32, &g, &x, &dy, &mut result, false, &mut memory);
                (result, w_places, dw)
            }
        };
        places.iter().zip(result).for_each(|(&place, value)| to.put(place, value, self.accumulate));
        Ok(())
    }
}

/// Returns all pairs of indices, row by row.
fn pairs(rows: usize, columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)))
}

/// Numbers in device memory that was checked to be allocated, in the type of activations.
struct Numbers {
    address: u64,
    extent: usize,
    precision: Precision,
}

impl Numbers {
    /// Returns number `i`.
    fn get(&self, i: usize) -> f32 {
        assert!(i < self.extent, "a place of the operand");
        // SAFETY: the memory was checked to be allocated (`Enqueued::memory`), is aligned to 16 bytes, and holds such numbers.
        unsafe {
            match self.precision {
                Precision::Bf16 => (self.address as *const bf16).add(i).read().to_f32(),
                Precision::F32 | Precision::Tf32 => (self.address as *const f32).add(i).read(),
            }
        }
    }

    /// Returns number `i` as a factor of a product: in tf32, rounded to 10 bits after the point.
    fn factor(&self, i: usize) -> f32 {
        let value = self.get(i);
        match self.precision {
            Precision::Tf32 if value.is_finite() => f32::from_bits((value.to_bits() + 0x1000) & !0x1fff),
            _ => value,
        }
    }

    /// Writes number `i`, or adds to it.
    fn put(&self, i: usize, value: f32, accumulate: bool) {
        let value = if accumulate { value + self.get(i) } else { value };
        assert!(i < self.extent, "a place of the result");
        // SAFETY: as in `get`; the memory was given to the call to write to.
        unsafe {
            match self.precision {
                Precision::Bf16 => (self.address as *mut bf16).add(i).write(bf16::from_f32(value)),
                Precision::F32 | Precision::Tf32 => (self.address as *mut f32).add(i).write(value),
            }
        }
    }
}
