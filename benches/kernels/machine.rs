//! The device that is measured: its choice, its ceilings, and how times are measured on it.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use ptl::engine::device::{Device, DeviceKind, DeviceOptions, Gpu, Grid, kernels};
use ptl::engine::graph::Mode;
use ptl::engine::op::{OpCase, conv2d};
use ptl::engine::precision::Precision;
use ptl::engine::session::CaseRun;
use ptl::engine::shape::Shape;
use ptl::engine::store::Layout;

use crate::support::{large_gemm, measure, measure_all};

/// Number of passes that a GPU gets as one recording, so that launching them costs no time.
const PASSES: u64 = 10;

pub type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// A device in one precision, with its ceilings.
pub struct Machine {
    pub device: Device,
    /// Bytes per second of a large copy, read and written bytes together.
    pub copy: f64,
    /// Floating-point operations per second of a large matrix product.
    pub product: f64,
}

/// Returns the device that `PTL_BENCH_DEVICE` names, once for each precision that it has. If the variable is not set, takes a GPU where
/// one can be used, else the CPU.
pub fn devices() -> Vec<Device> {
    let kind = std::env::var("PTL_BENCH_DEVICE").unwrap_or_else(|_| "auto".into());
    let open = |kind, precision| Device::open(&DeviceOptions { kind, precision, vendor: false });
    let cuda =
        || [Precision::F32, Precision::Tf32, Precision::Bf16].map(|precision| open(DeviceKind::Cuda(0), precision));
    match kind.as_str() {
        "cpu" => vec![Device::cpu()],
        "cuda" => cuda().into_iter().map(|device| device.unwrap_or_else(|error| refuse(&error.to_string()))).collect(),
        "auto" => cuda().into_iter().collect::<Result<_, _>>().unwrap_or_else(|_| vec![Device::cpu()]),
        "emulated" => refuse("the speed of an emulator means nothing: PTL_BENCH_DEVICE=cuda or cpu"),
        other => refuse(&format!("PTL_BENCH_DEVICE={other}: known are cuda and cpu")),
    }
}

fn refuse(reason: &str) -> ! {
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

impl Machine {
    /// Measures the ceilings of `device`.
    pub fn new(criterion: &mut Criterion, device: Device) -> Machine {
        let mut group = group(criterion, &format!("ceilings {}", precision(&device)), 0.5);
        let mut machine = Machine { device, copy: 0.0, product: 0.0 };
        (machine.copy, machine.product) = match machine.device.gpu().cloned() {
            Some(gpu) => (device_copy(&machine, &mut group, &gpu), own_product(&machine, &mut group)),
            None => (host_copy(&mut group), large_gemm(&mut group)),
        };
        machine
    }

    pub fn gpu(&self) -> Option<&Gpu> {
        self.device.gpu()
    }

    pub fn precision(&self) -> Precision {
        precision(&self.device)
    }

    /// Returns the batch sizes that are worth measuring on this device.
    pub fn batches(&self) -> &'static [usize] {
        if self.gpu().is_some() { &[16, 64] } else { &[16] }
    }

    /// Measures the time of `pass`, which runs twice before anything is measured. On a GPU it is recorded, so it must only launch kernels.
    pub fn time(
        &self,
        group: &mut Group<'_>,
        id: BenchmarkId,
        work: u64,
        mut pass: impl FnMut() -> ptl::Result<()>,
    ) -> Duration {
        let done = |result: ptl::Result<()>| result.expect("a device that works");
        (0..2).for_each(|_| done(pass()));
        let Some(gpu) = self.gpu() else {
            return measure(group, id, Throughput::Elements(work), || done(pass()));
        };
        let recorded = gpu.record(&mut || (0..PASSES).try_for_each(|_| pass())).expect("launches can be recorded");
        let wait = || done(gpu.synchronize());
        let work = Throughput::Elements(PASSES * work);
        measure_all(group, id, work, || done(recorded.replay()), wait) / PASSES as u32
    }
}

fn precision(device: &Device) -> Precision {
    device.gpu().map_or(Precision::F32, Gpu::precision)
}

/// Measures this crate's own copy of 1.5 GB.
fn device_copy(machine: &Machine, group: &mut Group<'_>, gpu: &Gpu) -> f64 {
    let len = 375_000_000usize;
    let [from, to] = [(); 2].map(|()| gpu.allocate(4 * len).expect("3 GB of the GPU's memory"));
    kernels::fill_f32(gpu, Grid::any(len), from.ptr(), 1.0, len as i64).expect("a GPU that works");
    let bytes = 8 * len as u64;
    let time = machine.time(group, BenchmarkId::from_parameter("copy"), bytes, || {
        kernels::put_f32(gpu, Grid::any(len), from.ptr(), to.ptr(), len as i64, 0)
    });
    bytes as f64 / time.as_secs_f64()
}

/// Measures this crate's own product of 8192x4096 with 4096x4096, as a 1x1 convolution.
fn own_product(machine: &Machine, group: &mut Group<'_>) -> f64 {
    let case = OpCase {
        name: "product",
        inputs: vec![Shape::new(16, 32, 16, 4096)],
        params: vec![(vec![4096, 4096, 1, 1], Layout::Conv)],
        build: |g, s, x, p, _| conv2d(g, s, x[0], p[0], None, [1, 1], [0, 0]),
        fixed: None,
        smooth: true,
    };
    let mut run = CaseRun::on(&machine.device, &case, Mode::Eval, 1);
    run.forward().expect("a GPU that works");
    let flops = run.session.graph().flops();
    let time = machine.time(group, BenchmarkId::from_parameter("product"), flops, || run.forward_again());
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
