//! What a training will take: memory, and time that is measured on a few batches.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Result;
use crate::app::cli::profile::{LR, generated};
use crate::base::text::plural;
use crate::config::Config;
use crate::engine::collective::Collective;
use crate::engine::device::Device;
use crate::train::Trainer;
use crate::train::cost::{DataSizes, ensure_training};

/// Batches that are measured after one to warm up.
pub(crate) const MEASURED: usize = 3;

/// Cost of a training.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cost {
    pub network: String,
    pub device: String,
    pub parameters: usize,
    /// Bytes of memory, without the cache of images.
    pub memory: u64,
    /// Images of a batch.
    pub batch: usize,
    /// Batches of an epoch.
    pub batches: usize,
    pub epochs: usize,
    /// Seconds of a batch: the median of those measured, on generated images.
    pub seconds_of_a_batch: f64,
    /// Seconds of an epoch without its evaluation.
    pub seconds_of_an_epoch: f64,
    /// Seconds that decoding all images took.
    pub seconds_of_decoding: f64,
}

/// Measures a few training batches. `done` is called after each; `decoding` is the time that decoding all images took.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory); settings from which no network can be built; the device fails.
pub(crate) fn measure(
    config: &Config,
    device: &Device,
    classes: usize,
    data: DataSizes,
    decoding: Duration,
    mut done: impl FnMut(),
) -> Result<Cost> {
    let cost = ensure_training(config, classes, data, device, &Collective::single())?;
    let mut trainer = Trainer::on(device.clone(), config, classes, |_, _| Ok(()))?;
    let batch = generated(config, config.batch(), classes);
    let mut times = Vec::new();
    for _ in 0..=MEASURED {
        let start = Instant::now();
        trainer.step(&batch, None, LR)?;
        times.push(start.elapsed());
        done();
    }
    let mut times = times.split_off(1);
    times.sort_unstable();
    let seconds = times[times.len() / 2].as_secs_f64();
    Ok(Cost {
        network: config.model.arch.clone(),
        device: device.to_string(),
        parameters: cost.parameters,
        memory: cost.training.bytes(),
        batch: config.batch(),
        batches: data.batches,
        epochs: config.schedule.epochs,
        seconds_of_a_batch: seconds,
        seconds_of_an_epoch: seconds * data.batches as f64,
        seconds_of_decoding: decoding.as_secs_f64(),
    })
}

/// Writes seconds in the unit that suits them.
fn time(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.0} ms", 1e3 * seconds),
        ..120.0 => format!("{seconds:.1} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "cost: {}, {:.2} M parameters, {} MiB of memory beside the cache of images, on {}",
            self.network,
            self.parameters as f64 / 1e6,
            self.memory.div_ceil(1 << 20),
            self.device
        )?;
        write!(
            f,
            "a batch of {} takes {} (median of {MEASURED}, generated images), an epoch of {} {}, {} {}, without evaluations; decoding all \
             images once took {}",
            plural(self.batch, "image", "images"),
            time(self.seconds_of_a_batch),
            plural(self.batches, "batch", "batches"),
            time(self.seconds_of_an_epoch),
            plural(self.epochs, "epoch", "epochs"),
            time(self.seconds_of_an_epoch * self.epochs as f64),
            time(self.seconds_of_decoding)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_have_fitting_units() {
        let shown: Vec<String> = [0.0123, 1.0, 119.96, 300.0, 9000.0].map(time).to_vec();
        assert_eq!(shown, ["12 ms", "1.0 s", "120.0 s", "5 min", "2.5 h"]);
    }
}
