//! Helpers that several benches share.
#![allow(dead_code)] // Each bench takes a part of it.

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};
use gemm::Parallelism;
use ptl::base::rng::{Purpose, stream};
use ptl::config::Config;
use ptl::data::{AugmentParams, Batch};
use ptl::engine::geometry::Conv2dGeometry;
use rand::RngExt;

/// Side of the large product.
pub const LARGE: usize = 2048;

/// Identities of Market-1501.
pub const CLASSES: usize = 751;

pub fn uniform(len: usize) -> Vec<f32> {
    let mut rng = stream(0, Purpose::Test, 0, len as u64);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Measures `f` with criterion and returns its median time over criterion's samples, warm-up included.
pub fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    work: Throughput,
    f: impl FnMut(),
) -> Duration {
    measure_all(group, id, work, f, || ())
}

/// Measures like [`measure`] an `f` that only launches work: `wait` returns when the work is done.
pub fn measure_all(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    work: Throughput,
    mut f: impl FnMut(),
    wait: impl Fn(),
) -> Duration {
    group.throughput(work);
    let mut samples = Vec::new();
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|iterations| {
            wait();
            let start = Instant::now();
            (0..iterations).for_each(|_| f());
            wait();
            let elapsed = start.elapsed();
            samples.push(elapsed / iterations.max(1) as u32);
            elapsed
        });
    });
    samples.sort();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

/// Measures `f`; `prepare` runs before each call and is not measured.
pub fn measure_prepared<S>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    work: Throughput,
    state: &mut S,
    prepare: impl Fn(&mut S),
    f: impl Fn(&mut S),
) -> Duration {
    group.throughput(work);
    let mut samples = Vec::new();
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|iterations| {
            let mut elapsed = Duration::ZERO;
            for _ in 0..iterations {
                prepare(state);
                let start = Instant::now();
                f(state);
                elapsed += start.elapsed();
            }
            samples.push(elapsed / iterations.max(1) as u32);
            elapsed
        });
    });
    samples.sort();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

/// Measures the FLOP/s of a large product with the crate `gemm` on all cores.
pub fn large_gemm(group: &mut BenchmarkGroup<'_, WallTime>) -> f64 {
    let (a, b, mut c) = (uniform(LARGE * LARGE), uniform(LARGE * LARGE), vec![0.0f32; LARGE * LARGE]);
    let flops = 2 * (LARGE * LARGE * LARGE) as u64;
    let n = LARGE as isize;
    let id = BenchmarkId::new("crate gemm", format!("{LARGE}^3"));
    let time = measure(group, id, Throughput::Elements(flops), || {
        // SAFETY: three square row-major matrices of side LARGE.
        unsafe {
            gemm::gemm(
                LARGE,
                LARGE,
                LARGE,
                c.as_mut_ptr(),
                1,
                n,
                false,
                a.as_ptr(),
                1,
                n,
                b.as_ptr(),
                1,
                n,
                0.0,
                1.0,
                false,
                false,
                false,
                Parallelism::Rayon(0),
            );
        }
    });
    flops as f64 / time.as_secs_f64()
}

/// A kind of convolution and how often ResNet-50 has it.
pub struct Layer {
    pub name: String,
    pub geometry: Conv2dGeometry,
    pub count: usize,
}

/// Returns all 53 convolutions of ResNet-50 on `batch` images of 256x128, equal ones together. The last stage has stride 1, as in the
/// re-identification models.
pub fn resnet50_layers(batch: usize) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    let mut conv = |name: String, size: [usize; 2], input, output, kernel: usize, stride: usize| {
        let [kernel, stride, padding] = [kernel, stride, kernel / 2].map(|v| [v, v]);
        let geometry =
            Conv2dGeometry::new(batch, size, input, output, kernel, stride, padding).expect("ResNet-50 fits");
        match layers.iter_mut().find(|layer| layer.geometry == geometry) {
            Some(layer) => layer.count += 1,
            None => layers.push(Layer { name, geometry, count: 1 }),
        }
        [geometry.out_h(), geometry.out_w()]
    };
    let [h, w] = conv("conv1".into(), [256, 128], 3, 64, 7, 2);
    let mut size = [h / 2, w / 2];
    let mut input = 64;
    for (stage, (width, blocks, stride)) in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 1)].into_iter().enumerate()
    {
        for block in 0..blocks {
            let stride = if block == 0 { stride } else { 1 };
            let name = |layer: &str| format!("layer{}.{block}.{layer}", stage + 1);
            if block == 0 {
                conv(name("downsample"), size, input, 4 * width, 1, stride);
            }
            conv(name("conv1"), size, input, width, 1, 1);
            let inner = conv(name("conv2"), size, width, width, 3, stride);
            size = conv(name("conv3"), inner, width, 4 * width, 1, 1);
            input = 4 * width;
        }
    }
    assert_eq!(layers.iter().map(|layer| layer.count).sum::<usize>(), 53);
    layers
}

/// Returns a batch of random images of the size and number that `config` trains on.
pub fn batch(config: &Config) -> Batch {
    let mut rng = stream(0, Purpose::Test, 0, 0);
    let size = [config.model.height, config.model.image_width];
    let count = config.sampler.ids * config.sampler.images;
    Batch {
        pixels: (0..count * size[0] * size[1] * 3).map(|_| rng.random()).collect(),
        size,
        params: vec![AugmentParams::default(); count],
        labels: (0..count).map(|i| (i / config.sampler.images) as u32).collect(),
        indices: (0..count).collect(),
        mix: None,
    }
}
