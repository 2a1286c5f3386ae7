//! `ptl-train ablate`.

use std::process::ExitCode;

use super::shared::{check_device, data_root, describe_datasets, new_run, open_dataset, refuse_unused, set_threads};
use crate::Result;
use crate::cli::args::AblateArgs;
use crate::cli::output::{interrupted, print, stop_on_ctrl_c};
use crate::config::{Config, DEFAULT_ARCH};
use crate::data::Subsets;
use crate::eval::model_file;
use crate::progress::Reporter;
use crate::study::Study;
use crate::study::ablation::{self, Ablation};
use crate::text::Shown;

/// `ptl-train ablate`.
pub fn ablate(args: &AblateArgs) -> Result<ExitCode> {
    let config = Config::load_recipe(DEFAULT_ARCH, args.config.as_deref(), &args.settings.0)?;
    ablation::check_settings(&config, &args.seeds)?;
    refuse_unused(&args.settings.0, &["seed", "ptl.state_policy", "ptl.eval_state"])?;
    set_threads(&config)?;
    let terminal = Reporter::stderr();
    let dataset = open_dataset(data_root(&config)?, config.data.kind, Subsets::All, &config, &terminal)?;
    dataset.check_for_training(config.sampler.ids)?;
    let open = |root| open_dataset(root, config.data.target_kind, Subsets::Test, &config, &terminal);
    let target = config.data.target.as_deref().map(open).transpose()?;
    target.as_ref().unwrap_or(&dataset).check_for_evaluation()?;
    let init = args.init.as_deref().map(model_file).transpose()?;
    check_device(&config)?;

    let run = new_run(args.out.as_deref(), "ablate")?;
    run.write_config(&config)?;
    let reporter = terminal.with_log(&run.log_path())?;
    reporter.message(&format!("run folder: {}", run.root().shown()));
    describe_datasets(&reporter, [Some(&dataset), target.as_ref()]);
    let stop = stop_on_ctrl_c(&reporter);
    let study = Study { seeds: args.seeds.clone(), run: &run, reporter: &reporter, stop: &stop };
    let ablation = Ablation { config, dataset: &dataset, target: target.as_ref(), init, study };
    match ablation::run(&ablation)? {
        Some(results) => {
            print(&format!("{}\n", ablation::table(&results)))?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            reporter.message("stopped; what was finished is in the run folder");
            Ok(interrupted())
        }
    }
}
