//! The device that is measured: its choice, its ceilings, and how times are measured on it.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use ptl::engine::device::{Call, Device, DeviceKind, DeviceOptions, Gpu, Grid, Pass, VendorUse, kernels};
use ptl::engine::geometry::Conv2dGeometry;
use ptl::engine::graph::Mode;
use ptl::engine::op::{OpCase, conv2d};
use ptl::engine::precision::Precision;
use ptl::engine::session::CaseRun;
use ptl::engine::shape::Shape;
use ptl::engine::store::Layout;

use crate::support::{large_gemm, measure, measure_all};

/// Number of passes that a GPU gets as one recording, so that launching them costs no time.
const PASSES: u64 = 10;

/// Who computes convolutions and cells: our own kernels; the vendor's libraries, and our kernels for the gates; the faster of both for each
/// pass, as measured by the program.
pub const OWN: &str = "own";
pub const VENDOR: &str = "vendor";
pub const AUTO: &str = "auto";

pub type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// A device in one precision.
pub struct Devices {
    /// All convolutions by our own kernels.
    own: Device,
    /// The same GPU with the vendor's libraries, where both are there.
    vendor: Option<Device>,
    /// The same GPU with the libraries where they are faster.
    auto: Option<Device>,
    /// Whether it is emulated, and sizes are tiny.
    tiny: bool,
}

/// A device in one precision, with its ceilings.
pub struct Machine {
    devices: Devices,
    /// Bytes per second of a large copy, read and written bytes together.
    pub copy: f64,
    /// Floating-point operations per second of the best of a few large matrix products.
    pub product: f64,
    /// What computes these products.
    pub product_by: &'static str,
}

/// Returns the device that `PTL_BENCH_DEVICE` names, once for each precision that it has or `PTL_BENCH_PRECISION` names. If the first
/// variable is not set, takes a GPU where one can be used, else the CPU.
pub fn devices() -> Vec<Devices> {
    let kind = std::env::var("PTL_BENCH_DEVICE").unwrap_or_else(|_| "auto".into());
    let wanted = std::env::var("PTL_BENCH_PRECISION").ok();
    let mut precisions = vec![Precision::F32, Precision::Tf32, Precision::Bf16];
    precisions.retain(|precision| wanted.as_ref().is_none_or(|wanted| precision.to_string() == *wanted));
    if precisions.is_empty() {
        refuse(&format!("PTL_BENCH_PRECISION={}: known are f32, tf32 and bf16", wanted.unwrap_or_default()));
    }
    let cpu = || {
        if !precisions.contains(&Precision::F32) {
            refuse("this bench measures a CPU in f32 only: set PTL_BENCH_PRECISION=f32, or PTL_BENCH_DEVICE=cuda");
        }
        vec![Devices { own: Device::cpu(), vendor: None, auto: None, tiny: false }]
    };
    let gpu = |kind| precisions.iter().map(move |&precision| Devices::open(kind, precision)).collect::<Result<_, _>>();
    let must = |found: ptl::Result<Vec<Devices>>| found.unwrap_or_else(|error| refuse(&error.to_string()));
    match kind.as_str() {
        "cpu" => cpu(),
        "cuda" => must(gpu(DeviceKind::Cuda(0))),
        "emulated" => must(gpu(DeviceKind::Emulated)),
        "auto" => gpu(DeviceKind::Cuda(0)).unwrap_or_else(|_: ptl::Error| cpu()),
        other => refuse(&format!("PTL_BENCH_DEVICE={other}: known are auto, cuda, cpu and emulated")),
    }
}

/// Ends the program with a reason.
pub fn refuse(reason: &str) -> ! {
    eprintln!("{reason}");
    std::process::exit(1)
}

/// Creates a group of measurements with ten samples each, over at least `seconds` altogether.
pub fn group<'a>(criterion: &'a mut Criterion, name: &str, seconds: f32) -> Group<'a> {
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(50)).measurement_time(Duration::from_secs_f32(seconds));
    group
}

impl Devices {
    fn open(kind: DeviceKind, precision: Precision) -> ptl::Result<Devices> {
        let open = |vendor| Device::open(&DeviceOptions { kind, precision, vendor, local_rank: 0 });
        let vendor = open(VendorUse::Always)?;
        let vendor = if has_both_libraries(&vendor, precision)? { Some(vendor) } else { None };
        let auto = vendor.as_ref().map(|_| open(VendorUse::Auto)).transpose()?;
        Ok(Devices { own: open(VendorUse::Never)?, vendor, auto, tiny: kind == DeviceKind::Emulated })
    }
}

/// Returns whether `device` has a library for a product and one for a 3x3 convolution.
fn has_both_libraries(device: &Device, precision: Precision) -> ptl::Result<bool> {
    let Some(vendor) = device.gpu().and_then(Gpu::vendor) else { return Ok(false) };
    for (side, padding) in [(1, 0), (3, 1)] {
        let geometry = Conv2dGeometry::new(1, [16, 16], 64, 64, [side; 2], [1, 1], [padding; 2])?;
        if vendor.workspace(Call { geometry, precision, pass: Pass::Forward })?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Machine {
    /// Measures the ceilings of a device.
    pub fn new(criterion: &mut Criterion, devices: Devices) -> Machine {
        let mut group = group(criterion, &format!("ceilings {}", precision(&devices.own)), 0.5);
        let mut machine = Machine { devices, copy: 0.0, product: 0.0, product_by: "the crate gemm" };
        let Some(gpu) = machine.gpu().cloned() else {
            (machine.copy, machine.product) = (host_copy(&mut group), large_gemm(&mut group));
            return machine;
        };
        machine.copy = device_copy(&machine, &mut group, &gpu);
        let device = machine.best().clone();
        let vendor = device.gpu().and_then(Gpu::vendor);
        machine.product_by = vendor.map_or("ptl's own kernel", |_| "the vendor's library");
        // 1x1 convolutions of 8192 pixels.
        let sizes = if machine.tiny() { [[2, 3, 16], [2, 3, 24]] } else { [[32, 16, 4096], [32, 16, 8192]] };
        let products = sizes.map(|size| product(&machine, &device, &mut group, size));
        machine.product = products.into_iter().fold(0.0, f64::max);
        machine
    }

    /// Returns the device with each way to compute convolutions, our own first.
    pub fn devices(&self) -> Vec<(&'static str, &Device)> {
        let vendor = self.devices.vendor.as_ref().map(|device| (VENDOR, device));
        [(OWN, self.own())].into_iter().chain(vendor).collect()
    }

    /// Returns the same devices, and the one that chooses for each pass.
    pub fn all_devices(&self) -> Vec<(&'static str, &Device)> {
        self.devices().into_iter().chain(self.devices.auto.as_ref().map(|device| (AUTO, device))).collect()
    }

    /// Returns the device whose convolutions our own kernels compute.
    pub fn own(&self) -> &Device {
        &self.devices.own
    }

    /// Returns the device with the vendor's libraries where it has them.
    pub fn best(&self) -> &Device {
        self.devices.vendor.as_ref().unwrap_or(self.own())
    }

    pub fn gpu(&self) -> Option<&Gpu> {
        self.own().gpu()
    }

    pub fn precision(&self) -> Precision {
        precision(self.own())
    }

    /// Returns whether the device is emulated: sizes are tiny then.
    pub fn tiny(&self) -> bool {
        self.devices.tiny
    }

    /// Returns the batch sizes that are worth measuring on this device.
    pub fn batches(&self) -> &'static [usize] {
        if self.tiny() {
            &[4]
        } else if self.gpu().is_some() {
            &[16, 64]
        } else {
            &[16]
        }
    }

    /// Returns what the vendor's libraries refused; our own kernels computed it.
    pub fn refusals(&self) -> Vec<String> {
        let vendor = self.devices.vendor.as_ref().and_then(Device::gpu).and_then(Gpu::vendor);
        vendor.map(|vendor| vendor.take_refusals()).unwrap_or_default()
    }

    /// Measures the time of `pass`, which runs twice before anything is measured. On a GPU it is recorded, so it must only launch kernels
    /// on `device`, which is one of [`Machine::all_devices`].
    pub fn time(
        &self,
        device: &Device,
        group: &mut Group<'_>,
        id: BenchmarkId,
        work: u64,
        mut pass: impl FnMut() -> ptl::Result<()>,
    ) -> Duration {
        let done = |result: ptl::Result<()>| result.expect("a device that works");
        (0..2).for_each(|_| done(pass()));
        let Some(gpu) = device.gpu() else {
            return measure(group, id, Throughput::Elements(work), || done(pass()));
        };
        let passes = if self.tiny() { 1 } else { PASSES };
        let recorded = gpu.record(&mut || (0..passes).try_for_each(|_| pass())).expect("launches can be recorded");
        let wait = || done(gpu.synchronize());
        let work = Throughput::Elements(passes * work);
        measure_all(group, id, work, || done(recorded.replay()), wait) / passes as u32
    }
}

fn precision(device: &Device) -> Precision {
    device.gpu().map_or(Precision::F32, Gpu::precision)
}

/// Measures a copy of 1.5 GB by our own kernel.
fn device_copy(machine: &Machine, group: &mut Group<'_>, gpu: &Gpu) -> f64 {
    let len = if machine.tiny() { 1000 } else { 375_000_000_usize };
    let [from, to] = [(); 2].map(|()| gpu.allocate(4 * len).expect("3 GB of the GPU's memory"));
    kernels::fill_f32(gpu, Grid::any(len), from.ptr(), 1.0, len as i64).expect("a GPU that works");
    let bytes = 8 * len as u64;
    let time = machine.time(machine.own(), group, BenchmarkId::from_parameter("copy"), bytes, || {
        kernels::put_f32(gpu, Grid::any(len), from.ptr(), to.ptr(), len as i64, 0)
    });
    bytes as f64 / time.as_secs_f64()
}

/// Measures the product of 16 maps of `height` times `width` pixels with a square matrix of `channels`, as a 1x1 convolution.
fn product(machine: &Machine, device: &Device, group: &mut Group<'_>, [height, width, channels]: [usize; 3]) -> f64 {
    let case = OpCase {
        name: "product",
        inputs: vec![Shape::new(16, height, width, channels)],
        params: vec![(vec![channels, channels, 1, 1], Layout::Conv)],
        build: |g, s, x, p, _| conv2d(g, s, x[0], p[0], None, [1, 1], [0, 0]),
        fixed: Vec::new(),
        smooth: true,
        detached: false,
    };
    let mut run = CaseRun::on(device, &case, Mode::Eval, 1);
    run.forward().expect("a GPU that works");
    let flops = run.session.graph().flops();
    let time = machine.time(device, group, BenchmarkId::new("product", channels), flops, || run.forward_again());
    flops as f64 / time.as_secs_f64()
}

/// Measures `memcpy` of 256 MB by all threads.
fn host_copy(group: &mut Group<'_>) -> f64 {
    use rayon::prelude::*;
    const PART: usize = 1 << 18;
    let (from, mut to) = (vec![1.0f32; 256 * PART], vec![0.0f32; 256 * PART]);
    let bytes = 8 * from.len() as u64;
    let time = measure(group, BenchmarkId::from_parameter("copy"), Throughput::Elements(bytes), || {
        to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| to.copy_from_slice(from));
    });
    bytes as f64 / time.as_secs_f64()
}
