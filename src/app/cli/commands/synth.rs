//! `ptl-train synth`.

use super::shared::synthesise;
use crate::app::cli::ExitCode;
use crate::app::cli::args::{self, SynthArgs};
use crate::app::cli::output::{interrupted, stderr_reporter, stop_with_message};
use crate::data::synth::{Domain, Outcome, SynthConfig};
use crate::{Error, Result};

/// Runs `ptl-train synth`.
pub(crate) fn synth(args: &SynthArgs) -> Result<ExitCode> {
    let ids = args.ids as usize;
    let domain = match args.domain {
        args::Domain::Source => Domain::Source,
        args::Domain::Target => Domain::Target,
    };
    if domain == Domain::Source
        && let Some(gap) = args.gap
    {
        return Err(Error::Setting {
            setting: "--gap".into(),
            value: gap.to_string(),
            reason: "the source is the same with every gap: leave it out, or add --domain target".into(),
        });
    }
    let config = SynthConfig {
        domain,
        gap: args.gap.unwrap_or_default(),
        train_ids: ids / 2,
        test_ids: ids - ids / 2,
        cams: args.cams as usize,
        seed: args.seed,
        ..SynthConfig::default()
    };
    let reporter = stderr_reporter();
    let stop = stop_with_message(
        &reporter,
        "stopping and removing what is unfinished; Ctrl-C again stops at once and leaves it",
    );
    match synthesise(&args.out, &config, &stop, &reporter)? {
        Outcome::Finished => Ok(ExitCode::SUCCESS),
        Outcome::Stopped => {
            reporter.message("stopped; nothing was written");
            Ok(interrupted())
        }
    }
}
