//! `ptl-train synth`.

use std::process::ExitCode;

use super::shared::synthesise;
use crate::Result;
use crate::cli::args::{self, SynthArgs};
use crate::data::synth::{Domain, SynthConfig};
use crate::progress::Reporter;

/// `ptl-train synth`.
pub fn synth(args: &SynthArgs) -> Result<ExitCode> {
    let ids = args.ids as usize;
    let domain = match args.domain {
        args::Domain::Source => Domain::Source,
        args::Domain::Target => Domain::Target,
    };
    let config = SynthConfig {
        domain,
        train_ids: ids / 2,
        test_ids: ids - ids / 2,
        cams: args.cams as usize,
        seed: args.seed,
        ..SynthConfig::default()
    };
    synthesise(&args.out, &config, &Reporter::stderr())?;
    Ok(ExitCode::SUCCESS)
}
