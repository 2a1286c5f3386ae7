//! The command `ptl-train`: parses its arguments, calls the library, prints and draws the results, and returns an exit code.

mod args;
mod bars;
mod check;
mod commands;
mod exit_code;
mod flags;
mod html;
mod info;
mod output;
mod pictures;
mod plot;
mod profile;
mod ranks;
mod report;
mod signals;

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

use crate::base::error::IoContext;
use crate::engine::cpu::InstructionSet;
use crate::{Error, Result};
use args::{Cli, Command};
pub use exit_code::ExitCode;

/// Runs the command line `args`, whose first word is the program's name. Returns 0 after success, 1 after an error, 2 for an invalid
/// command line, 3 if `check` found a problem or `compare-images` two identities, 4 if that has no threshold, and 128 plus the number of the
/// signal if it was stopped (130 after Ctrl-C).
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    output::escape_panics();
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            output::print_usage(error, &args);
            return ExitCode::from(if asked { 0 } else { 2 });
        }
    };
    let watched = signals::watch().at("watch for", "signals");
    let checked = watched.and_then(|()| InstructionSet::requested());
    let result = checked.and_then(|_| run_command(cli.command, &args));
    match result {
        Ok(code) => code,
        Err(Error::Stopped) => output::interrupted(),
        Err(error) => {
            if ranks::let_first_report() {
                output::print_error(&error);
            }
            ExitCode::from(1)
        }
    }
}

fn run_command(command: Command, args: &[OsString]) -> Result<ExitCode> {
    if !matches!(command, Command::Train(_) | Command::Evaluate(_) | Command::Extract(_) | Command::Info(_)) {
        ranks::refuse_several(&args.get(1).map_or("".into(), |name| name.to_string_lossy()))?;
    }
    match command {
        Command::Demo(args) => commands::demo(&args),
        Command::Compare(args) => commands::compare(&args),
        Command::Ablate(args) => commands::ablate(&args),
        Command::Check(args) => commands::check(&args),
        Command::Train(args) => commands::train(&args),
        Command::Evaluate(args) => commands::evaluate(&args),
        Command::Predict(args) => commands::predict(&args),
        Command::Rank(args) => commands::rank(&args),
        Command::Extract(args) => commands::extract(&args),
        Command::Calibrate(args) => commands::calibrate(&args),
        Command::CompareImages(args) => commands::compare_images(&args),
        Command::Search(args) => commands::search(&args),
        Command::Export(args) => commands::export(&args),
        Command::Report(args) => commands::report(&args),
        Command::State(command) => commands::state(&command),
        Command::Synth(args) => commands::synth(&args),
        Command::Convert(args) => commands::convert(&args),
        Command::Selftest(args) => commands::selftest(&args),
        Command::Profile(args) => commands::profile(&args),
        Command::Info(args) => commands::info(&args),
    }
}
