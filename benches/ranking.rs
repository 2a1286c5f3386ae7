//! Measures distances with ranking, and re-ranking, on random features around one centre for each identity.
//!
//! `PTL_RANKING=QUERIES,GALLERY,LENGTH,IDENTITIES` sets the size; Market-1501's is `3368,15913,2048,750`. After each group, the largest
//! memory of the process so far is printed, where the system reports it.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use ptl::base::progress::Reporter;
use ptl::engine::device::Device;
use ptl::eval::features_file::FeatureSet;
use ptl::eval::ranking::{RankingOptions, evaluate};
use ptl::eval::report::{Details, Evaluation};
use ptl::eval::rerank::{RerankOptions, RerankVariant};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers of queries, gallery images, values of a feature, identities.
const SMALL: [usize; 4] = [336, 1591, 512, 75];
const CAMERAS: usize = 6;

fn size() -> [usize; 4] {
    let Ok(text) = std::env::var("PTL_RANKING") else { return SMALL };
    let numbers: Vec<usize> = text.split(',').map(|n| n.trim().parse().expect("whole numbers")).collect();
    numbers.try_into().expect("four numbers: queries, gallery, length, identities")
}

fn features(n: usize, dim: usize, identities: usize, seed: u64) -> FeatureSet {
    let mut centres = ChaCha8Rng::seed_from_u64(0);
    let centres: Vec<f32> = (0..identities * dim).map(|_| centres.random_range(-1.0..1.0)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut set = FeatureSet { dim, ..FeatureSet::default() };
    for _ in 0..n {
        let pid = rng.random_range(0..identities);
        set.pids.push(pid as i64);
        set.camids.push(rng.random_range(0..CAMERAS) as i64);
        set.features.extend(centres[pid * dim..][..dim].iter().map(|x| x + rng.random_range(-4.0f32..4.0)));
    }
    set.normalize();
    set
}

fn say_peak(after: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(peak) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
        println!("peak memory after {after}: {}", peak.trim());
    }
}

fn ranking(criterion: &mut Criterion) {
    let [n_query, n_gallery, dim, identities] = size();
    let (query, gallery) = (features(n_query, dim, identities, 1), features(n_gallery, dim, identities, 2));
    let mut group = criterion.benchmark_group(format!("{n_query} x {n_gallery}, {dim} numbers"));
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(1));
    say_peak("drawing features");
    let options = RankingOptions::default();
    group.bench_function("rank", |b| {
        b.iter(|| {
            let report = evaluate(
                &query.features,
                query.labels(),
                &gallery.features,
                gallery.labels(),
                dim,
                &options,
                &Device::cpu(),
            );
            black_box(report.expect("every identity has both"))
        });
    });
    say_peak("rank");
    group.bench_function("rank and re-rank", |b| {
        b.iter(|| {
            let (silent, rerank) = (Reporter::silent(), RerankOptions::new(RerankVariant::Ptl));
            let evaluation = Evaluation::new(&query, &gallery, options, Some(rerank), &Device::cpu(), &silent)
                .expect("finite features");
            black_box(evaluation.run(Details::default(), &silent).expect("every identity has both"))
        });
    });
    say_peak("rank and re-rank");
    group.bench_function("rank, cameras, ROC", |b| {
        b.iter(|| {
            let silent = Reporter::silent();
            let evaluation =
                Evaluation::new(&query, &gallery, options, None, &Device::cpu(), &silent).expect("finite features");
            let details = Details { roc: true, camera_pairs: true };
            black_box(evaluation.run(details, &silent).expect("every identity has both"))
        });
    });
    group.finish();
}

criterion_group!(benches, ranking);
criterion_main!(benches);
