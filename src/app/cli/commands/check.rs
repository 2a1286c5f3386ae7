//! `ptl-train check`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::shared::{check_outputs, set_threads};
use crate::Result;
use crate::app::cli::ExitCode;
use crate::app::cli::args::CheckArgs;
use crate::app::cli::check::{MEASURED, Report, measure, write_html};
use crate::app::cli::output::{print, stderr_reporter, with_flags};
use crate::base::atomic::atomic_write;
use crate::base::progress::Reporter;
use crate::base::text::Shown;
use crate::config::Config;
use crate::data::check::{Finding, Severity, Subject, Wanted};
use crate::data::{ClassOptions, Subsets, read, read_classes};
use crate::engine::device::Device;
use crate::nn::{DEFAULT_ARCH, TaskKind};
use crate::train::cost::DataSizes;
use crate::train::{Classify, Reid, Task};

/// Exit code if there are problems.
const PROBLEMS: u8 = 3;

/// Runs `ptl-train check`.
pub(crate) fn check(args: &CheckArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    flags.refuse(&["data.root"], "the data set is named without a flag: leave it out")?;
    flags.refuse(&["data.target", "data.target_kind"], "one data set is checked at a time: leave it out")?;
    let mut config = Config::load_recipe(DEFAULT_ARCH, args.config.as_deref(), flags)?;
    config.data.root.clone_from(&args.data);
    flags.refuse_without_effect(&config, false)?;
    check_outputs(&[("--html", args.html.as_deref()), ("--json", args.json.as_deref())], &[&args.data])?;
    set_threads(&config)?;
    let device = (!args.no_cost).then(|| Device::open(&config.device_options())).transpose()?;
    let reporter = stderr_reporter();
    let (name, label, warnings, subject, task_report) = match config.task {
        TaskKind::Reid => {
            let dataset = read(&args.data, config.data.kind, &config.data.load_options(Subsets::All))?;
            let task = Reid { dataset: &dataset, target: None };
            let label = format!("{}; {}", dataset.label, dataset.verdict());
            let trains = Trains::of(
                &task,
                &config,
                dataset.check_for_training(config.sampler.ids),
                dataset.check_for_evaluation(),
            );
            (dataset.name.clone(), label, dataset.warnings.clone(), Subject::of_identities(&dataset), trains)
        }
        TaskKind::Classify => {
            let (share, seed) = (Some(config.data.val_share), config.data.split as u64);
            let options = ClassOptions { val_share: share, seed, subsets: Subsets::All };
            let dataset = read_classes(&args.data, config.data.kind, &options)?;
            let task = Classify { dataset: &dataset };
            let trains = Trains::of(
                &task,
                &config,
                dataset.check_for_training(config.sampler.batch),
                dataset.check_for_evaluation(),
            );
            (
                dataset.name.clone(),
                dataset.label.clone(),
                dataset.warnings.clone(),
                Subject::of_classes(&dataset),
                trains,
            )
        }
    };
    let (mut findings, decoding) = inspect(&subject, &name, &config, &reporter);
    findings.splice(0..0, task_report.findings);
    let cost = match (&device, task_report.sizes) {
        (Some(device), Some((classes, sizes))) => {
            let mut task = reporter.start("measuring batches", 1 + MEASURED as u64, "batches");
            let cost = measure(&config, device, classes, sizes, decoding, || task.advance(1, ""))?;
            task.finish("");
            Some(cost)
        }
        _ => None,
    };
    let report = Report { name, label, counts: subject.counts(), findings, warnings, cost };
    if let Some(path) = &args.json {
        let json = report.to_json(&subject);
        atomic_write(path, |file| writeln!(file, "{json:#}"))?;
        reporter.message(&format!("report written to {}", path.shown()));
    }
    if let Some(path) = &args.html {
        write_html(path, &report, &subject, config.data.exif_orientation)?;
        reporter.message(&format!("report with pictures written to {}", path.shown()));
    }
    print(&format!("{}\n", report.to_text(&subject)))?;
    Ok(if report.problems() == 0 { ExitCode::SUCCESS } else { ExitCode::from(PROBLEMS) })
}

/// Whether a training can begin.
struct Trains {
    /// Why not.
    findings: Vec<Finding>,
    /// Number of identities or classes, and sizes of the data, if a training can begin.
    sizes: Option<(usize, DataSizes)>,
}

impl Trains {
    fn of(task: &impl Task, config: &Config, training: Result<()>, evaluation: Result<()>) -> Trains {
        let finding = |kind, result: &Result<()>| {
            let text = with_flags(&result.as_ref().err()?.to_string());
            Some(Finding { kind, severity: Severity::Problem, text, cases: Vec::new() })
        };
        let findings = [finding("no-training", &training), finding("no-evaluation", &evaluation)];
        let sizes = training.is_ok().then(|| {
            let sizes = DataSizes { measured: task.measured(), batches: task.sampler(config).batches() };
            (task.classes(), sizes)
        });
        Trains { findings: findings.into_iter().flatten().collect(), sizes }
    }
}

/// Decodes all images and compares them, and returns what was found and how long that took.
fn inspect(subject: &Subject, name: &str, config: &Config, reporter: &Reporter) -> (Vec<Finding>, Duration) {
    let wanted = Wanted {
        size: [config.model.height, config.model.image_width],
        images: if config.task == TaskKind::Reid { config.sampler.images } else { 0 },
        upright: config.data.exif_orientation,
        skip_broken: config.data.skip_broken,
    };
    let task = Mutex::new(reporter.start(&format!("checking {name}"), subject.items.len() as u64, "images"));
    let start = Instant::now();
    let decoding = Mutex::new(start.elapsed());
    let (findings, _) = subject.inspect(wanted, &|| {
        task.lock().expect("no panic while checking").advance(1, "");
        *decoding.lock().expect("no panic while checking") = start.elapsed();
    });
    task.into_inner().expect("no panic while checking").finish("");
    (findings, decoding.into_inner().expect("no panic while checking"))
}
