//! Tests that bounds hold, and that the CPU takes over where a GPU has too little memory.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::RngExt;

use super::*;
use crate::base::rng::{Purpose, stream};
use crate::engine::device::{Backend, Gpu, Kernel, Recording, Vendor};
use crate::engine::precision::Precision;
use crate::eval::rerank::RerankVariant;

/// A device that computes nothing and refuses memory beyond a limit.
#[derive(Debug)]
struct Small {
    limit: u64,
    used: AtomicU64,
}

impl Backend for Small {
    fn description(&self) -> String {
        "small".into()
    }

    fn memory(&self) -> Result<[u64; 2]> {
        Ok([self.limit; 2])
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        let (needed, total) = (bytes as u64, self.limit);
        let used = self.used.fetch_add(needed, Ordering::Relaxed);
        if used + needed > total {
            let (purpose, advice) = ("a test".into(), "take a larger one".into());
            return Err(Error::DeviceMemory { purpose, needed, free: total - used.min(total), total, advice });
        }
        Ok(256)
    }

    fn release(&self, _: u64) {}

    fn upload(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn upload_async(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download(&self, _: &mut [(&mut [u8], u64)]) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    unsafe fn launch(&self, _: &'static Kernel, _: [u32; 3], _: u32, _: &mut [*mut c_void]) -> Result<()> {
        Ok(())
    }

    fn record(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>> {
        unimplemented!("nothing is recorded")
    }

    fn vendor(&self) -> Option<&Vendor> {
        None
    }
}

#[test]
fn what_does_not_fit_into_the_gpus_memory_is_left_to_the_cpu() {
    let row = |i: usize| [(i as f32).sin(), (1.7 * i as f32).cos(), 0.3];
    let query: Vec<f32> = (0..5).flat_map(row).collect();
    let gallery: Vec<f32> = (7..60).flat_map(row).collect();
    let options = RerankOptions::new(RerankVariant::Zhong);
    let want = reranked_distances(&query, &gallery, 3, options, &Device::cpu()).unwrap();
    // Features and row terms take 2028 bytes; the rest of the re-ranking takes more than 100 kB.
    for (limit, ranks) in [(1000, false), (4000, true)] {
        let small = Small { limit, used: AtomicU64::new(0) };
        let device = Device::Gpu(Gpu::new(Arc::new(small), Precision::F32));
        let mut distances = Distances::new([&query, &gallery], 3, &device).unwrap();
        assert_eq!(distances.cpu_because.is_none(), ranks, "{limit}");
        distances.prepare_reranking(options, &Reporter::silent()).unwrap();
        let reason = distances.cpu_because.as_ref().unwrap();
        assert!(reason.starts_with("a test needs"), "{reason}");
        let mut block = DistanceBlock::default();
        distances.fill(0..5, &mut block).unwrap();
        for (row, want) in distances.reranked(0..5, &block).iter().zip(want.chunks(53)) {
            let got = row.nearest(0..53, 53);
            assert!(got.iter().all(|(g, d)| (d - want[*g]).abs() < 1e-5), "{limit}");
        }
    }
}

/// Returns random rows with a common offset and scale. The last row is a copy of the first.
fn rows(n: usize, dim: usize, offset: f32, scale: f32, seed: u64) -> Vec<f32> {
    let mut rng = stream(seed, Purpose::Test, 7, 0);
    let mut rows: Vec<f32> = (0..n * dim).map(|_| (offset + rng.random_range(-1.0f32..1.0)) * scale).collect();
    rows.copy_within(0..dim, (n - 1) * dim);
    rows
}

#[test]
fn bounds_hold_and_are_narrow_for_ordinary_features() {
    for dim in [1, 3, 31, 70, 256, 600, 2048] {
        for offset in [0.0, 0.3, 1e3, 1e6] {
            for scale in [1e-38, 1e-20, 1.0, 1e15, 1e32] {
                let [query, gallery] = [rows(7, dim, offset, scale, 1), rows(40, dim, offset, scale, 2)];
                let distances = Distances::new([&query, &gallery], dim, &Device::cpu()).unwrap();
                let mut block = DistanceBlock::default();
                distances.fill(0..7, &mut block).unwrap();
                for (q, row) in distances.plain(0..7, &block).iter().enumerate() {
                    for g in 0..40 {
                        let difference = |k: usize| f64::from(query[q * dim + k]) - f64::from(gallery[g * dim + k]);
                        let want = (0..dim).map(|k| difference(k).powi(2)).sum::<f64>().sqrt();
                        let exact = row.exact(g);
                        let case = format!("{dim} numbers, offset {offset}, scale {scale}, pair {q} {g}");
                        assert!(f64::from(row.lower(g)) <= exact && exact <= f64::from(row.upper(g)), "{case}");
                        assert!((row.distance(exact) - want).abs() <= 1e-12 * want, "{case}");
                        assert!(want <= distances.largest(), "{case}");
                        if offset < 1.0 && dim > 3 && scale > 1e-30 {
                            assert!(f64::from(row.upper(g) - row.lower(g)) < 1.5e-4 * exact, "{case}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_nearest_are_in_order_and_twins_are_at_distance_0() {
    let gallery = rows(50, 40, 1e5, 1.0, 3);
    let distances = Distances::new([&gallery, &gallery], 40, &Device::cpu()).unwrap();
    let mut block = DistanceBlock::default();
    distances.fill(0..50, &mut block).unwrap();
    let rows = distances.plain(0..50, &block);
    assert_eq!(rows[0].nearest(0..50, 2), [(0, 0.0), (49, 0.0)]);
    assert_eq!(rows[49].nearest((0..50).filter(|g| *g > 0), 1), [(49, 0.0)]);
    let all = rows[3].nearest(0..50, 50);
    assert!(all.is_sorted_by(|a, b| (a.1, a.0) <= (b.1, b.0)) && all.len() == 50);
    assert_eq!(rows[3].nearest(0..50, 7), all[..7]);
    assert!(rows[3].nearest(0..0, 7).is_empty());
}
