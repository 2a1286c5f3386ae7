//! Flags of settings, made from their declarations.

use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use clap::{Arg, ArgMatches, Args, Command as ClapCommand, FromArgMatches};
use toml::{Table, Value};

use crate::config::{Command, Config, Kind, Overrides, Section, Setting};

/// Returns the settings that `command` takes as flags, each with its section. `None` stands for a command that trains, which takes all.
fn taken_by(command: Option<Command>) -> impl Iterator<Item = (&'static Section, &'static Setting)> {
    let taken = move |setting: &Setting| command.is_none_or(|command| setting.commands.contains(&command));
    let all =
        Config::SECTIONS.iter().flat_map(|section| section.settings.iter().map(move |setting| (section, setting)));
    all.filter(move |(_, setting)| taken(setting))
}

/// Adds the flags of `settings` to `command`.
fn add_flags(
    command: ClapCommand,
    settings: impl Iterator<Item = (&'static Section, &'static Setting)>,
) -> ClapCommand {
    let defaults = Config::default().to_table().expect("defaults have no large integers");
    settings.fold(command, |command, (section, setting)| command.arg(flag(section, setting, &defaults)))
}

/// Returns the flag of a setting.
fn flag(section: &'static Section, setting: &'static Setting, defaults: &Table) -> Arg {
    let kind = setting.kind;
    let default = setting.value_in(defaults).and_then(shown);
    let default = default.map_or(String::new(), |value| format!(" [default: {value}]"));
    let heading =
        if section.name.is_empty() { section.title.into() } else { format!("{} [{}]", section.title, section.name) };
    let mut arg = Arg::new(setting.path)
        .long(setting.flag_name())
        .value_name(kind.placeholder())
        .help(format!("{}{default}", setting.help()))
        .help_heading(heading)
        .hide_short_help(setting.alias.is_none())
        .value_parser(parser(kind));
    if setting.path != setting.flag_name() {
        arg = arg.visible_alias(setting.path);
    }
    if setting.path.contains('_') {
        arg = arg.alias(setting.path.replace('_', "-"));
    }
    match kind {
        Kind::Switch => arg.num_args(0..=1).default_missing_value("true"),
        Kind::Choice(_) => match setting.value_of_bare_flag {
            Some(value) => arg.num_args(0..=1).default_missing_value(value),
            None => arg,
        },
        Kind::Count | Kind::Real => arg.allow_negative_numbers(true),
        _ => arg,
    }
}

/// Returns the parser for values of `kind`.
fn parser(kind: Kind) -> ValueParser {
    match kind {
        Kind::Choice(words) => PossibleValuesParser::new(words).map(Value::String).into(),
        _ => ValueParser::new(move |text: &str| kind.parse(text)),
    }
}

/// Formats a default for help; returns `None` if there is none.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Float(x) => Some(x.to_string()),
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => Some(items.iter().filter_map(shown).collect::<Vec<_>>().join(",")),
        other => Some(other.to_string()),
    }
}

macro_rules! settings_as_args {
    ($($(#[doc = $doc:literal])+ $flags:ident($command:expr);)+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug)]
        pub(crate) struct $flags(pub Overrides);

        impl FromArgMatches for $flags {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                let mut overrides = Overrides::default();
                for (_, setting) in taken_by($command) {
                    if let Some(value) = matches.get_one::<Value>(setting.path) {
                        overrides.push(setting, value.clone());
                    }
                }
                Ok($flags(overrides))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }

        impl Args for $flags {
            fn augment_args(command: ClapCommand) -> ClapCommand {
                add_flags(command, taken_by($command))
            }

            fn augment_args_for_update(command: ClapCommand) -> ClapCommand {
                add_flags(command, taken_by($command))
            }
        }
    )+};
}

settings_as_args! {
    /// Flags of all settings.
    TrainFlags(None);
    /// Flags of the settings that matter to a trained model. Those of the network are for checkpoints of other programs: if a checkpoint
    /// has a header, [`TrainedModel::open`](crate::model::TrainedModel::open) refuses another network.
    EvalFlags(Some(Command::Evaluate));
    /// Flags of the settings that matter to the features of a trained model.
    ExtractFlags(Some(Command::Extract));
    /// Flags of the settings that matter to a ranking.
    RankFlags(Some(Command::Rank));
    /// Flags of the settings that matter to thresholds of a trained model.
    CalibrateFlags(Some(Command::Calibrate));
    /// Flags of the settings that matter to the comparison of two images.
    CompareImagesFlags(Some(Command::CompareImages));
    /// Flags of the settings that matter to a search.
    SearchFlags(Some(Command::Search));
    /// Flags of the settings that matter to a network in ONNX.
    ExportFlags(Some(Command::Export));
    /// Flags of the settings that matter to the predictions of a classifier.
    PredictFlags(Some(Command::Predict));
    /// Flags of the settings that matter to the cost of a network, except its name.
    InfoFlags(Some(Command::Info));
    /// Flags of the settings that matter to the time of a step.
    ProfileFlags(Some(Command::Profile));
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::app::cli::args;
    use crate::eval::Rerank;
    use crate::nn::DEFAULT_ARCH;

    fn config(flags: &[&str]) -> Config {
        let line = ["ptl-train", "train"].iter().chain(flags);
        match args::Cli::try_parse_from(line).unwrap().command {
            args::Command::Train(train) => Config::load_recipe(DEFAULT_ARCH, None, &train.settings.0).unwrap(),
            _ => unreachable!(),
        }
    }

    #[test]
    fn the_command_is_well_formed() {
        args::Cli::command().debug_assert();
    }

    #[test]
    fn no_flag_changes_nothing() {
        assert_eq!(config(&[]), Config::default());
    }

    #[test]
    fn every_setting_is_a_flag_in_each_of_its_forms() {
        for setting in Config::settings() {
            // Some settings are refused without others.
            let beside: &[&str] = match setting.path {
                "augment.mixup" | "augment.cutmix" => &["--task", "classify"],
                "train.patience" => &["--eval-every", "5"],
                "ptl.cell_channels" => &["--ptl-stages", "1,2"],
                _ => &[],
            };
            let config = |flags: &[&str]| config(&[beside, flags].concat());
            let values: &[&str] = match setting.kind {
                Kind::Choice(words) | Kind::Device(words) => words,
                Kind::Switch => &["true", "false"],
                Kind::Path | Kind::Word => &["some/where"],
                Kind::Counts => &["2,3"],
                Kind::Pair => &["0.4,0.6"],
                // Within the bounds of every setting.
                Kind::Count
                    if ["model.last_stride", "ptl.state_steps", "augment.rand_ops", "augment.rand_magnitude"]
                        .contains(&setting.path) =>
                {
                    &["2"]
                }
                Kind::Count => &["32"],
                Kind::Real if setting.path == "schedule.min_lr" => &["0.0001"],
                Kind::Real => &["0.25"],
            };
            let flag = format!("--{}", setting.path);
            let changed = values.iter().map(|value| (value, config(&[&flag, value])));
            let (value, long) = changed.into_iter().find(|(_, c)| *c != config(&[])).expect(setting.path);
            assert_eq!(config(&[&format!("--{}={value}", setting.path.replace('_', "-"))]), long);
            assert_eq!(config(&[&format!("--{}", setting.flag_name()), value]), long);
        }
    }

    #[test]
    fn a_switch_alone_means_true() {
        assert!(config(&["--freeze-backbone", "--seed", "1"]).train.freeze_backbone);
        assert!(!config(&["--eval.flip", "false"]).eval.flip);
        assert_eq!(config(&["--rerank", "--k1", "9"]).eval.rerank, Rerank::Auto);
    }
}
