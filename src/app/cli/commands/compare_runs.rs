//! `ptl-train compare RUN...`: compares finished runs.

use super::shared::set_threads;
use crate::app::cli::ExitCode;
use crate::app::cli::args::CompareArgs;
use crate::app::cli::output::print;
use crate::base::atomic::atomic_write;
use crate::base::stats::Bootstrap;
use crate::config::{Config, Overrides};
use crate::study::runs::{self, Options};
use crate::{Error, Result};

/// The only settings that apply to a comparison of runs.
const USED: [&str; 2] = ["seed", "threads"];

/// Runs `ptl-train compare RUN...`.
pub(super) fn compare_runs(args: &CompareArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    refuse_settings(flags)?;
    let config = Config::load(&Config::default(), None, flags)?;
    set_threads(&config)?;
    let bootstrap = Bootstrap { resamples: args.resamples as usize, seed: config.seed };
    let found = runs::compare(&args.runs, &Options { bootstrap, baseline: args.baseline.clone() })?;
    if let Some(path) = &args.out {
        let text = serde_json::to_string_pretty(&found.to_json()).expect("plain values");
        atomic_write(path, |file| writeln!(file, "{text}"))?;
    }
    print(&found.text(args.markdown))?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses flags of settings that do not apply to a comparison of runs.
fn refuse_settings(flags: &Overrides) -> Result<()> {
    match Config::settings().find(|setting| !USED.contains(&setting.path) && flags.has(setting.path)) {
        Some(setting) => Err(Error::Setting {
            setting: format!("`{}`", setting.path),
            value: "(given)".into(),
            reason:
                "the settings of finished runs are fixed: leave it out, or name data to train on with --source instead of RUN"
                    .into(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::app::cli::args::{Cli, Command};

    fn parse(line: &str) -> Result<Box<CompareArgs>, String> {
        match Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?.command {
            Command::Compare(args) => Ok(args),
            _ => unreachable!("the line names compare"),
        }
    }

    #[test]
    fn runs_or_a_source() {
        let args = parse("ptl-train compare a b --baseline 2 --markdown --out all.json --seed 7").unwrap();
        assert_eq!((args.runs.len(), args.resamples, args.baseline.as_deref()), (2, 10_000, Some("2")));
        assert!(args.markdown && args.source.is_none());
        assert!(parse("ptl-train compare --source a --target b").unwrap().runs.is_empty());
        let refused = [
            ("compare", "--source"),
            ("compare a --source b", "cannot be used with"),
            ("compare a --seeds 1,2", "cannot be used with"),
            ("compare --source a --markdown", "cannot be used with"),
            ("compare --source a --resamples 500", "cannot be used with"),
            ("compare a --resamples 5", "100..=1000000"),
        ];
        for (line, part) in refused {
            let error = parse(&format!("ptl-train {line}")).unwrap_err();
            assert!(error.contains(part), "{line}: {part} in {error}");
        }
    }

    #[test]
    fn settings_of_a_training_are_refused() {
        let args = parse("ptl-train compare a b --seed 1 --lr 0.5").unwrap();
        let error = compare_runs(&args).unwrap_err().to_string();
        assert!(error.starts_with("`optim.lr` = (given): the settings of finished runs are fixed"), "{error}");
    }
}
