//! A device that is lost, and losses that are not finite, in the middle of a training.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ptl::Error;
use ptl::config::Config;
use ptl::data::{AugmentParams, Batch};
use ptl::engine::device::{Backend, Call, Device, Emulator, Gpu, Kernel, Recording, Simulated, Vendor, VendorUse};
use ptl::engine::latent_state::{EvalState, StateInit};
use ptl::engine::precision::Precision;
use ptl::model::Record;
use ptl::nn::TaskKind;
use ptl::train::Trainer;
use ptl::train::state::{self, ModelInfo};

use crate::WITH_AND_WITHOUT_VENDOR;

/// The emulated GPU until so many calls are done; then every call fails.
#[derive(Debug)]
struct Fragile {
    emulator: Emulator,
    left: AtomicI64,
}

impl Fragile {
    fn call(&self) -> ptl::Result<()> {
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            ..=0 => Err(Error::Device { device: "GPU", action: "a call".into(), reason: "it was lost".into() }),
            _ => Ok(()),
        }
    }
}

impl Backend for Fragile {
    fn description(&self) -> String {
        "fragile".into()
    }

    fn memory(&self) -> ptl::Result<[u64; 2]> {
        self.emulator.memory()
    }

    fn allocate(&self, bytes: usize) -> ptl::Result<u64> {
        self.call()?;
        self.emulator.allocate(bytes)
    }

    fn release(&self, address: u64) {
        self.emulator.release(address);
    }

    fn upload(&self, to: u64, from: &[u8]) -> ptl::Result<()> {
        self.call()?;
        self.emulator.upload(to, from)
    }

    fn upload_async(&self, to: u64, from: &[u8]) -> ptl::Result<()> {
        self.call()?;
        self.emulator.upload_async(to, from)
    }

    fn download(&self, copies: &mut [(&mut [u8], u64)]) -> ptl::Result<()> {
        self.call()?;
        self.emulator.download(copies)
    }

    fn synchronize(&self) -> ptl::Result<()> {
        self.call()?;
        self.emulator.synchronize()
    }

    unsafe fn launch(
        &self,
        kernel: &'static Kernel,
        grid: [u32; 3],
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> ptl::Result<()> {
        self.call()?;
        // SAFETY: the caller's own promises.
        unsafe { self.emulator.launch(kernel, grid, shared_bytes, arguments) }
    }

    fn compare(&self, bytes: usize, works: &mut [&mut dyn FnMut(u64) -> ptl::Result<()>; 2]) -> ptl::Result<[f64; 2]> {
        self.call()?;
        self.emulator.compare(bytes, works)
    }

    fn record(&self, work: &mut dyn FnMut() -> ptl::Result<()>) -> ptl::Result<Box<dyn Recording>> {
        self.call()?;
        self.emulator.record(work)
    }

    fn vendor(&self) -> Option<&Vendor> {
        self.emulator.vendor()
    }
}

fn config() -> Config {
    let mut config = Config::recipe(TaskKind::Reid, "cifar-resnet20-ptl");
    (config.model.width, config.model.embedding) = (0.25, 8);
    (config.model.height, config.model.image_width) = (16, 16);
    (config.sampler.ids, config.sampler.images) = (2, 2);
    // All that can lie on a device: states that are drawn, an average, moments.
    (config.train.ema, config.ptl.state_init) = (0.9, StateInit::Normal);
    config
}

fn batch(config: &Config) -> Batch {
    let size = [config.model.height, config.model.image_width];
    Batch {
        pixels: (0..4 * size[0] * size[1] * 3).map(|i| (i * 7 % 251) as u8).collect(),
        size,
        params: vec![AugmentParams::default(); 4],
        labels: vec![0, 0, 1, 1],
        indices: (0..4).collect(),
        mix: None,
    }
}

/// Two steps, two epochs, a checkpoint, and what an evaluation from the mean state reads.
fn train(config: &Config, device: Device) -> ptl::Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = Trainer::on(device, config, 2, |_, _| Ok(()))?;
    for _ in 0..2 {
        trainer.begin_epoch();
        trainer.step(&batch(config), None, 1e-3)?;
        let states = trainer.states.for_evaluation(EvalState::Mean, trainer.state_decls(), 4, 0)?;
        drop(states);
    }
    let info = ModelInfo { classes: 2, class_names: &[] };
    state::save(folder.path(), &mut trainer, info, &Record::default())?;
    Ok(())
}

#[test]
fn a_lost_device_is_an_error_whenever_it_is_lost() {
    for vendor in WITH_AND_WITHOUT_VENDOR {
        loses_the_device(&config(), (vendor != VendorUse::Never).then_some(|_| Simulated::Takes));
    }
}

fn loses_the_device(config: &Config, libraries: Option<fn(&Call) -> Simulated>) {
    let fragile = |calls: i64| Arc::new(Fragile { emulator: Emulator::new(libraries), left: calls.into() });
    let whole = fragile(i64::MAX);
    train(config, Device::Gpu(Gpu::new(whole.clone(), Precision::F32))).unwrap();
    let calls = i64::MAX - whole.left.load(Ordering::Relaxed);
    // A few of the many calls that launch; more of the last ones, which read.
    let steps =
        (0..calls - 60).step_by((calls / 6) as usize).chain((calls - 60..calls - 1).step_by(12)).chain([calls - 1]);
    for lost_after in steps {
        let device = Device::Gpu(Gpu::new(fragile(lost_after), Precision::F32));
        match train(config, device) {
            Err(Error::Device { reason, .. }) => {
                assert_eq!(reason, "it was lost", "after {lost_after} of {calls} calls")
            }
            other => panic!("after {lost_after} of {calls} calls: {other:?}"),
        }
    }
}

/// Labels that the network rules out have an infinite loss, whose gradients are finite.
#[test]
fn an_infinite_loss_changes_no_weights() {
    for device in [Device::cpu(), Device::Gpu(Gpu::new(Arc::new(Emulator::default()), Precision::F32))] {
        let mut config = Config::recipe(TaskKind::Classify, "cifar-resnet20");
        (config.model.height, config.model.image_width, config.sampler.batch) = (32, 16, 4);
        (config.model.width, config.loss.label_smoothing) = (0.25, 0.0);
        let mut trainer = Trainer::on(device, &config, 2, |_, store| {
            // The difference of the logits is beyond f32's largest number.
            let bias = store.params.iter().find(|param| param.name == "fc.bias").unwrap().range.clone();
            store.values[bias].copy_from_slice(&[-3e38, 3e38]);
            Ok(())
        })
        .unwrap();
        let before = trainer.store.values.to_vec();
        let batch = Batch { labels: vec![0; 4], ..batch(&config) };
        let error = trainer.step(&batch, None, 1e-2).unwrap_err();
        assert!(matches!(error, Error::NonFinite { what: "loss", .. }), "{error}");
        trainer.fetch().unwrap();
        assert!(trainer.store.values[..] == before[..], "{}: the weights have changed", trainer.device);
    }
}
