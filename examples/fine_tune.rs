//! Fine-tunes a small network with BConv-Cells on generated pedestrians and prints its accuracy:
//! `cargo run --release --example fine_tune -- FOLDER`
//!
//! Writes `data/` and `run/` into FOLDER. `ptl-train evaluate --checkpoint FOLDER/run` measures the run again.

use std::path::PathBuf;

use ptl::base::progress::Reporter;
use ptl::base::stop::StopFlag;
use ptl::config::Config;
use ptl::data::synth::{self, SynthConfig};
use ptl::data::{DatasetKind, LoadOptions, load};
use ptl::run_dir::RunDir;
use ptl::train::{self, Job, Outcome, Reid, Start};

fn main() -> ptl::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "fine-tuned".into()));
    let stop = StopFlag::default();

    // 8 training and 4 test identities, seen by two cameras. `load` reads Market-1501 and other data sets in the same way.
    let drawing = SynthConfig { train_ids: 8, test_ids: 4, cams: 2, height: 64, width: 32, ..SynthConfig::default() };
    synth::generate(&folder.join("data"), &drawing, &stop, &|_, _| {})?;
    let dataset = load(&folder.join("data"), DatasetKind::Auto, &LoadOptions::default())?;

    // The default settings of resnet18-ptl, with a small network and small images.
    let mut config = Config::default();
    config.model.arch = "resnet18-ptl".into();
    config.model.width = 0.125;
    (config.model.height, config.model.image_width) = (64, 32);
    (config.sampler.ids, config.sampler.images) = (4, 4);
    config.schedule.epochs = 30;
    config.optim.lr = 1e-3;
    config.validate()?;

    let run = RunDir::create(&folder.join("run"))?;
    let task = Reid { dataset: &dataset, target: None };
    let reporter = Reporter::stderr();
    let job = Job { config: &config, task: &task, start: Start::Scratch, run: &run, reporter: &reporter, stop: &stop };
    match train::run(&job)? {
        Outcome::Finished(report) => println!("{report}"),
        Outcome::Stopped(position) => println!("stopped after step {}", position.step),
    }
    Ok(())
}
