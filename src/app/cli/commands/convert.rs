//! `ptl-train convert`.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::app::cli::ExitCode;
use crate::app::cli::args::{ConvertCommand, Cuhk03Args};
use crate::app::cli::output::{interrupted, stderr_reporter, stop_with_message};
use crate::base::text::{Shown, plural};
use crate::data::convert::cuhk03::{self, BoxKind, Job, Outcome};

/// Runs `ptl-train convert`.
pub(crate) fn convert(command: &ConvertCommand) -> Result<ExitCode> {
    match command {
        ConvertCommand::Cuhk03(args) => cuhk03(args),
    }
}

fn cuhk03(args: &Cuhk03Args) -> Result<ExitCode> {
    let reporter = stderr_reporter();
    let given = [args.detected_config.clone(), args.labeled_config.clone()];
    let beside = |kind: BoxKind| Some(kind.config_beside(&args.mat)).filter(|path| path.is_file());
    let mut configs: [Option<PathBuf>; 2] = [None, None];
    for ((kind, given), config) in BoxKind::ALL.into_iter().zip(given).zip(&mut configs) {
        *config = given.or_else(|| beside(kind));
        if config.is_none() {
            reporter.message(&format!(
                "{name}: no lists of the new protocol ({}): only the classic splits are written; --{name}-config names them",
                kind.config_beside(&args.mat).shown(),
                name = kind.name()
            ));
        }
    }
    let stop = stop_with_message(
        &reporter,
        "stopping and removing what is unfinished; Ctrl-C again stops at once and leaves it",
    );
    let [detected, labeled] = &configs;
    let configs = [detected, labeled].map(|config| config.as_deref());
    let job = Job { mat: &args.mat, configs, out: &args.out, reporter: &reporter, stop: &stop };
    match cuhk03::convert(&job)? {
        Outcome::Finished { images } => {
            reporter.message(&format!(
                "{} written to {}; train on one of",
                plural(images, "image", "images"),
                args.out.shown()
            ));
            for (kind, config) in BoxKind::ALL.into_iter().zip(configs) {
                let name = kind.name();
                let hint = |protocol: &str, folder: &Path| {
                    reporter.message(&format!("  --dataset cuhk03-{protocol}-{name} --data {}", folder.shown()));
                };
                if config.is_some() {
                    hint("np", &args.out.join(name));
                }
                hint("classic", &args.out.join("classic").join(name));
            }
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Stopped => {
            reporter.message("stopped; nothing was written");
            Ok(interrupted())
        }
    }
}
