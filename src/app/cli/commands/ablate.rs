//! `ptl-train ablate`.

use super::shared::{
    check_device, data_root, describe_datasets, new_run, open_dataset, open_training, refuse_unused, say_stopped,
    set_threads,
};
use crate::Result;
use crate::app::cli::ExitCode;
use crate::app::cli::args::AblateArgs;
use crate::app::cli::output::{interrupted, print, stderr_reporter, stop_on_ctrl_c};
use crate::app::cli::pictures::draw_training;
use crate::base::text::Shown;
use crate::config::{Config, whole_path};
use crate::data::Subsets;
use crate::model::model_file;
use crate::nn::DEFAULT_ARCH;
use crate::run_dir::RunDir;
use crate::study::ablation::{self, Ablation};
use crate::study::{Study, StudyFile, StudyKind};

/// Runs `ptl-train ablate`.
pub(crate) fn ablate(args: &AblateArgs) -> Result<ExitCode> {
    let (run, file) = match &args.resume {
        Some(folder) => {
            let (run, file) = StudyFile::resume(folder, StudyKind::Ablate, &args.settings.0)?;
            (Some(run), file)
        }
        None => (None, new_study(args)?),
    };
    let StudyFile { config, seeds, init, .. } = file.clone();
    set_threads(&config)?;
    let terminal = stderr_reporter();
    let dataset = open_training(&config, &terminal)?;
    dataset.check_for_training(config.sampler.ids)?;
    let open = |root| open_dataset(root, config.data.target_kind, Subsets::Test, &config, &terminal);
    let target = config.data.target.as_deref().map(open).transpose()?;
    target.as_ref().unwrap_or(&dataset).check_for_evaluation()?;
    check_device(&config)?;

    let run = match run {
        Some(run) => run,
        None => begin(args, &file)?,
    };
    let reporter = terminal.with_log(&run.log_path())?;
    reporter.message(&format!("run folder: {}", run.root().shown()));
    describe_datasets(&reporter, [Some(&dataset), target.as_ref()]);
    let stop = stop_on_ctrl_c(&reporter);
    let study = Study { seeds, run: &run, reporter: &reporter, stop: &stop, arm_ended: &draw_training };
    let ablation = Ablation { config, dataset: &dataset, target: target.as_ref(), init, study };
    match ablation::run(&ablation)? {
        Some(results) => {
            print(&format!("{}\n", ablation::table(&results)))?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            say_stopped(&reporter, StudyKind::Ablate, &run);
            Ok(interrupted())
        }
    }
}

/// Returns the study that the flags ask for.
fn new_study(args: &AblateArgs) -> Result<StudyFile> {
    let config = Config::load_recipe(DEFAULT_ARCH, args.config.as_deref(), &args.settings.0)?;
    ablation::check_settings(&config, &args.seeds)?;
    refuse_unused(&args.settings.0, &["seed", "ptl.state_policy", "ptl.eval_state"])?;
    args.settings.0.refuse_without_effect(&config, args.init.is_some())?;
    data_root(&config)?;
    let init = args.init.as_deref().map(|path| whole_path("--init", &model_file(path)?)).transpose()?;
    let seeds = args.seeds.clone();
    Ok(StudyFile { kind: StudyKind::Ablate, seeds, quick: false, init, config, pretraining: None })
}

/// Creates the folder of the study.
fn begin(args: &AblateArgs, file: &StudyFile) -> Result<RunDir> {
    let run = new_run(args.out.as_deref(), "ablate")?;
    file.write(&run)?;
    Ok(run)
}
