//! `ptl-train profile`.

use std::fs;

use serde_json::{Value, json};

use super::shared::set_threads;
use crate::app::cli::ExitCode;
use crate::app::cli::args::ProfileArgs;
use crate::app::cli::output::{print, stderr_reporter};
use crate::app::cli::profile::{Machine, evaluation, steps, table, to_json, training};
use crate::base::atomic::atomic_write;
use crate::base::error::IoContext;
use crate::base::text::{Shown, plural};
use crate::config::Config;
use crate::engine::cpu::isa_name;
use crate::engine::device::{Device, DeviceKind};
use crate::nn::{DEFAULT_ARCH, TaskKind};
use crate::{Error, Result};

/// Settings that change a training step and not an evaluation, and the other way round.
const OF_TRAINING: [&str; 13] = [
    "sampler.ids",
    "sampler.images",
    "sampler.batch",
    "optim.kind",
    "optim.amsgrad",
    "optim.momentum",
    "optim.nesterov",
    "optim.clip_norm",
    "train.freeze_backbone",
    "train.freeze_bn",
    "train.ema",
    "augment.mixup",
    "augment.cutmix",
];
const OF_EVALUATION: [&str; 2] = ["eval.batch", "eval.flip"];

/// Runs `ptl-train profile`.
pub(crate) fn profile(args: &ProfileArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    let config = Config::load_recipe(DEFAULT_ARCH, args.config.as_deref(), flags)?;
    flags.refuse_without_effect(&config, false)?;
    match args.eval {
        true => flags.refuse(&OF_TRAINING, "it has no effect with --eval: leave one of the two out")?,
        false => flags.refuse(&OF_EVALUATION, "it has no effect without --eval: add that, or leave it out")?,
    }
    let device = cpu(&config)?;
    if let Some(path) = args.out.as_ref().filter(|path| path.is_dir()) {
        let reason = "it is a folder: name a file, such as profile.json in it".into();
        return Err(Error::Setting { setting: "--out".into(), value: path.shown().to_string(), reason });
    }
    if let Some(folder) = args.out.as_ref().and_then(|path| path.parent()) {
        fs::create_dir_all(folder).at("create", folder)?;
    }
    set_threads(&config)?;

    let reporter = stderr_reporter();
    reporter.message("measuring a large product and a large copy");
    let machine = Machine::measure(config.precision)?;
    let (count, classes) = (args.steps as usize, args.classes as usize);
    let what = if args.eval { "evaluation" } else { "training step" };
    let mut task = reporter.start("profiling", 1 + u64::from(args.steps), "steps");
    let done = || task.advance(1, "");
    let profile = match args.eval {
        true => evaluation(&config, &device, classes, count, done)?,
        false => training(&config, &device, classes, count, done)?,
    };
    task.finish("");

    let threads = rayon::current_num_threads();
    let size = [config.model.height, config.model.image_width];
    let heading = format!(
        "{} ({}), {} of {}x{}, {}, {}, {}, {}\n\
         this machine: product {:.0} GFLOP/s, copy {:.1} GB/s\n\
         {what}: {}\n",
        config.model.arch,
        config.task,
        plural(profile.batch, "image", "images"),
        size[0],
        size[1],
        match config.task {
            TaskKind::Reid => plural(classes, "identity", "identities"),
            TaskKind::Classify => plural(classes, "class", "classes"),
        },
        plural(threads, "thread", "threads"),
        isa_name(),
        config.precision,
        machine.product / 1e9,
        machine.copy / 1e9,
        steps(&profile),
    );
    print(&format!("{heading}\n{}", table(&profile, machine, args.nodes)))?;
    if let Some(path) = &args.out {
        let mut report = json!({
            "network": config.model.arch,
            "task": config.task.name(),
            "what": what,
            "height": size[0],
            "width": size[1],
            "classes": classes,
            "threads": threads,
            "instructions": isa_name(),
            "precision": config.precision.name(),
        });
        if let (Value::Object(report), Value::Object(measured)) = (&mut report, to_json(&profile, machine)) {
            report.extend(measured);
        }
        atomic_write(path, |file| writeln!(file, "{report:#}"))?;
        reporter.message(&format!("profile written to {}", path.shown()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the CPU; refuses a GPU, whose time by op only its own profilers know.
fn cpu(config: &Config) -> Result<Device> {
    let value = match config.device {
        DeviceKind::Cuda(_) | DeviceKind::Emulated => config.device.to_string(),
        DeviceKind::Auto | DeviceKind::Cpu => match Device::open(&config.device_options())? {
            Device::Gpu(gpu) => gpu.description(),
            cpu @ Device::Cpu(_) => return Ok(cpu),
        },
    };
    Err(Error::Setting {
        setting: "`device`".into(),
        value,
        reason: "this command measures the CPU only: pass `device` cpu, or profile a GPU with nsys (docs/profiling.md)"
            .into(),
    })
}
