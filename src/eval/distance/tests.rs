//! Who computes where a GPU's memory does not suffice.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::device::{Backend, Gpu, Kernel, Precision, Recording, Vendor};
use crate::eval::rerank::{RerankVariant, rerank};

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

    fn upload_beside(&self, _: u64, _: &[u8]) -> Result<()> {
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

    fn vendor(&self) -> Option<&dyn Vendor> {
        None
    }
}

#[test]
fn what_does_not_fit_into_the_gpus_memory_is_left_to_the_cpu() {
    let row = |i: usize| [(i as f32).sin(), (1.7 * i as f32).cos(), 0.3];
    let query: Vec<f32> = (0..5).flat_map(row).collect();
    let gallery: Vec<f32> = (7..60).flat_map(row).collect();
    let options = RerankOptions::new(RerankVariant::Zhong);
    let want = rerank(&query, &gallery, 3, options, &Device::Cpu).unwrap();
    // Features and their scales take 1796 bytes; what else re-ranking holds takes more than 100 kB.
    for (limit, ranks) in [(1000, false), (4000, true)] {
        let small = Small { limit, used: AtomicU64::new(0) };
        let device = Device::Gpu(Gpu::new(Arc::new(small), Precision::F32));
        let norms = [&query, &gallery].map(|features| squared_norms(features, 3));
        let mut distances = Distances::new([&query, &gallery], norms, 3, &device).unwrap();
        assert_eq!(distances.cpu_because.is_none(), ranks, "{limit}");
        distances.prepare_reranking(options, &Reporter::silent()).unwrap();
        let reason = distances.cpu_because.as_ref().unwrap();
        assert!(reason.starts_with("a test needs"), "{reason}");
        let mut block = DistanceBlock::default();
        distances.fill(0..5, &mut block).unwrap();
        assert_eq!(block.reranked, want, "{limit}");
    }
}
