//! Settings as flags, made from the table of settings.

use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use toml::Value;

use crate::config::{Config, Kind, Overrides, SETTINGS, Setting, section_title};

/// Flags of all settings.
#[derive(Debug)]
pub struct TrainFlags(pub Overrides);

/// Flags of the settings that matter to a trained model.
#[derive(Debug)]
pub struct EvalFlags(pub Overrides);

/// Flags of the settings that matter to the features of a trained model.
#[derive(Debug)]
pub struct ExtractFlags(pub Overrides);

/// Flags of the settings that matter to a ranking.
#[derive(Debug)]
pub struct RankFlags(pub Overrides);

/// Flags of the settings that matter to the predictions of a classifier.
#[derive(Debug)]
pub struct PredictFlags(pub Overrides);

/// Flags of the settings that matter to what a network costs.
#[derive(Debug)]
pub struct InfoFlags(pub Overrides);

fn all() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter()
}

/// Without what only training asks for. What makes the network is for checkpoints from elsewhere; where a checkpoint says
/// itself what it is, [`TrainedModel::open`](crate::model::TrainedModel::open) refuses another one.
fn for_evaluation() -> impl Iterator<Item = &'static Setting> {
    const SECTIONS: [&str; 3] = ["", "data", "eval"];
    const ALSO: [&str; 8] = [
        "train.weights_dict",
        "model.height",
        "model.image_width",
        "ptl.eval_state",
        "augment.interpolation",
        "augment.crop",
        "train.workers",
        "gpu.vendor",
    ];
    const NOT: [&str; 3] = ["data.target", "data.target_kind", "data.cache_mb"];
    let wanted = |s: &Setting| SECTIONS.contains(&s.section()) || ALSO.contains(&s.path) || s.makes_network();
    SETTINGS.iter().filter(move |s| wanted(s) && !NOT.contains(&s.path))
}

/// Settings of the ranking alone.
const RANKING: [&str; 4] = ["eval.rerank", "eval.k1", "eval.k2", "eval.lambda"];

/// Without the ranking.
fn without_ranking() -> impl Iterator<Item = &'static Setting> {
    for_evaluation().filter(|s| !RANKING.contains(&s.path))
}

/// Features are no CSV file.
fn for_extraction() -> impl Iterator<Item = &'static Setting> {
    without_ranking().filter(|s| s.path != "eval.raw_csv")
}

/// Of images that belong to no data set.
fn for_prediction() -> impl Iterator<Item = &'static Setting> {
    const DATA: [&str; 2] = ["data.skip_broken", "data.exif_orientation"];
    without_ranking().filter(|s| s.section() != "data" || DATA.contains(&s.path))
}

/// What matters to features that are there already.
fn for_ranking() -> impl Iterator<Item = &'static Setting> {
    const ALSO: [&str; 2] = ["threads", "device"];
    SETTINGS.iter().filter(|s| RANKING.contains(&s.path) || ALSO.contains(&s.path))
}

/// What decides about parameters, operations and memory, but for the network's name.
fn for_cost() -> impl Iterator<Item = &'static Setting> {
    const ALSO: [&str; 8] = [
        "model.height",
        "model.image_width",
        "sampler.ids",
        "sampler.images",
        "sampler.batch",
        "optim.kind",
        "optim.amsgrad",
        "optim.momentum",
    ];
    SETTINGS.iter().filter(|s| s.path != "model.arch" && (s.makes_network() || ALSO.contains(&s.path)))
}

fn add_flags(command: Command, settings: impl Iterator<Item = &'static Setting>) -> Command {
    let defaults = Value::try_from(Config::default()).expect("a configuration is valid TOML");
    settings.fold(command, |command, setting| command.arg(flag(setting, &defaults)))
}

fn flag(setting: &'static Setting, defaults: &Value) -> Arg {
    let kind = setting.kind;
    let default = setting.path.split('.').try_fold(defaults, |value, key| value.get(key)).and_then(shown);
    let default = default.map_or(String::new(), |value| format!(" [default: {value}]"));
    let mut arg = Arg::new(setting.path)
        .long(setting.flag())
        .value_name(kind.placeholder())
        .help(format!("{}{default}", setting.help))
        .help_heading(section_title(setting.section()))
        .hide_short_help(setting.alias.is_none())
        .value_parser(parser(kind));
    if setting.path != setting.flag() {
        arg = arg.visible_alias(setting.path);
    }
    if setting.path.contains('_') {
        arg = arg.alias(setting.path.replace('_', "-"));
    }
    match kind {
        Kind::Switch => arg.num_args(0..=1).default_missing_value("true"),
        _ if setting.path == "eval.rerank" => arg.num_args(0..=1).default_missing_value("auto"),
        Kind::Count | Kind::Real => arg.allow_negative_numbers(true),
        _ => arg,
    }
}

fn parser(kind: Kind) -> ValueParser {
    match kind {
        Kind::Choice(words) => PossibleValuesParser::new(words).map(Value::String).into(),
        _ => ValueParser::new(move |text: &str| kind.parse(text)),
    }
}

/// A default in help; `None` where nothing is set.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        // Through f32, which has no digits that nobody wrote.
        Value::Float(x) => Some((*x as f32).to_string()),
        Value::Array(items) => Some(items.iter().filter_map(shown).collect::<Vec<_>>().join(",")),
        other => Some(other.to_string()),
    }
}

fn given(matches: &ArgMatches, settings: impl Iterator<Item = &'static Setting>) -> Overrides {
    let mut overrides = Overrides::default();
    for setting in settings {
        if let Some(value) = matches.get_one::<Value>(setting.path) {
            overrides.push(setting, value.clone());
        }
    }
    overrides
}

macro_rules! settings_as_args {
    ($flags:ty, $settings:ident) => {
        impl FromArgMatches for $flags {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self(given(matches, $settings())))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }

        impl Args for $flags {
            fn augment_args(command: Command) -> Command {
                add_flags(command, $settings())
            }

            fn augment_args_for_update(command: Command) -> Command {
                add_flags(command, $settings())
            }
        }
    };
}

settings_as_args!(TrainFlags, all);
settings_as_args!(EvalFlags, for_evaluation);
settings_as_args!(ExtractFlags, for_extraction);
settings_as_args!(RankFlags, for_ranking);
settings_as_args!(InfoFlags, for_cost);
settings_as_args!(PredictFlags, for_prediction);

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::app::cli::args;
    use crate::config::{DEFAULT_ARCH, Rerank};

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
        for setting in SETTINGS {
            // What some need beside them.
            let beside: &[&str] = match setting.path {
                "augment.mixup" | "augment.cutmix" => &["--task", "classify"],
                "train.patience" => &["--eval-every", "5"],
                "ptl.cell_channels" => &["--ptl-stages", "1,2"],
                _ => &[],
            };
            let config = |flags: &[&str]| config(&[beside, flags].concat());
            let values: &[&str] = match setting.kind {
                Kind::Choice(words) => words,
                Kind::Switch => &["true", "false"],
                Kind::Path | Kind::Word => &["some/where"],
                Kind::Counts => &["2,3"],
                Kind::Pair => &["0.4,0.6"],
                // Within the bounds of every setting.
                Kind::Count
                    if ["model.last_stride", "augment.rand_ops", "augment.rand_magnitude"].contains(&setting.path) =>
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
            assert_eq!(config(&[&format!("--{}", setting.flag()), value]), long);
        }
    }

    #[test]
    fn a_switch_alone_means_true() {
        assert!(config(&["--freeze-backbone", "--seed", "1"]).train.freeze_backbone);
        assert!(!config(&["--eval.flip", "false"]).eval.flip);
        assert_eq!(config(&["--rerank", "--k1", "9"]).eval.rerank, Rerank::Auto);
    }
}
