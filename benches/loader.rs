//! Measures the images per second that loader threads prepare: JPEGs of 500x375 to random parts of 224x224, without and with RandAugment.

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptl::data::{Augment, Crop, ImageCache, ImageSource, Interpolation, Loader, LoaderOptions, Sample, Transform};

const IMAGES: usize = 32;

/// Writes images of smooth colours with some noise, so that decoding takes about as long as for photographs.
fn jpegs(folder: &std::path::Path) -> Arc<[Sample]> {
    let sample = |i: usize| {
        let path = folder.join(format!("{i}.jpg"));
        let pixel = |x: u32, y: u32| {
            let noise = (x * 31 + y * 17 + i as u32).wrapping_mul(2_654_435_761) >> 27;
            image::Rgb([x / 2, y / 2, (x + y) / 4].map(|v| (v + noise) as u8))
        };
        image::RgbImage::from_fn(500, 375, pixel).save(&path).expect("a folder that can be written");
        Sample { image: ImageSource::File(path), label: 0 }
    };
    (0..IMAGES).map(sample).collect()
}

fn loading(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let samples = jpegs(folder.path());
    let whole = Transform::squeeze([224, 224], Interpolation::Bilinear);
    let random =
        Transform { crop: Crop::RandomResized, crop_scale: [0.08, 1.0], crop_ratio: [0.75, 4.0 / 3.0], ..whole };
    let plain = Augment { flip: 0.5, ..Augment::none() };
    let rand_augment = Augment { rand_ops: 2, rand_magnitude: 9, ..plain.clone() };
    let mut group = criterion.benchmark_group("loader, one worker");
    group.sample_size(10).throughput(Throughput::Elements(IMAGES as u64));
    let batches: Vec<Vec<usize>> = (0..IMAGES).collect::<Vec<_>>().chunks(8).map(<[usize]>::to_vec).collect();
    for (name, augment, megabytes) in [
        ("random-resized", &plain, 0),
        ("random-resized, RandAugment", &rand_augment, 0),
        ("random-resized, decoded before", &plain, 64),
    ] {
        let cache = ImageCache::new(IMAGES, &random, megabytes);
        let mut epoch = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                epoch += 1;
                let options =
                    LoaderOptions { transform: random, augment: Some(augment.clone()), seed: 0, epoch, workers: 1 };
                let loader = Loader::new(samples.clone(), &batches, 0, options, cache.clone()).unwrap();
                assert_eq!(
                    loader.map(|batch| batch.expect("images that can be read").indices.len()).sum::<usize>(),
                    IMAGES
                );
            });
        });
    }
    group.finish();
}

criterion_group!(benches, loading);
criterion_main!(benches);
