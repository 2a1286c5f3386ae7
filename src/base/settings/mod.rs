//! Settings as data: the name and flag of each, its values and defaults, and the commands that take it.
//!
//! A section of settings is a struct that `settings!` declares in the module that uses it, with each setting once:
//!
//! ```text
//! settings! {
//!     /// How gradients change the weights.
//!     pub struct OptimOptions in "optim", "Optimiser" {
//!         /// Base learning rate.
//!         #[setting(flag("lr").above(0.0))]
//!         pub lr: f64 = 2e-4, Classify => 0.01;
//!     }
//! }
//! ```
//!
//! The doc comment is also the help text. The type is followed by the default, then by the defaults of certain [`Recipe`]s. The methods
//! of [`Setting`] that `#[setting(...)]` calls add the rest. `crate::config` composes the sections; flags, keys of files, help and
//! checks follow from the declarations.

mod bounds;
mod kind;
mod needs;

pub use bounds::Bounds;
pub use kind::Kind;
pub(crate) use kind::{SettingType, gpu_number};
pub(crate) use needs::{
    ADAM, AVERAGED_STATES, BRANCH, CELL_WIDTHS, CELLS, CENTERS, COSINE, COSINE_HEAD, CROSS_ENTROPY, DROPS, EFFECTIVE,
    FROZEN_BACKBONE, HELD_OUT, INIT, LAST_STRIDE, MEMORY, MIDDLE, MULTISTEP, NAMED_FILES, RAND_AUGMENT, RANDOM_CROP,
    REID, RERANK, SGD, SPLITS, STEP, TRAINED_BACKBONE, TRIPLET, WARMUP,
};
pub use needs::{CLASSES, Chosen, GPU, MSMT17, Need, TARGET};

use toml::{Table, Value};

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// `section.key`, or only the key for settings at the top: the key in files and the long flag.
    pub path: &'static str,
    /// Shorter name of the flag, without the dashes, such as `lr` for `optim.lr`.
    pub alias: Option<&'static str>,
    /// The form of its values.
    pub kind: Kind,
    /// Limits of its numbers.
    pub bounds: Bounds,
    /// Conditions under which it has an effect, checked in this order.
    pub needs: &'static [Need],
    /// The commands that take it as a flag; `train`, `compare` and `ablate` take every setting.
    pub commands: &'static [Command],
    /// Whether it determines parameters or operations of the network: a trained model cannot change it.
    pub is_of_network: bool,
    /// Whether it can change results. Device and threads do not count, because they change the last bits at most.
    pub changes_results: bool,
    /// Whether a finished run may be resumed with another value.
    pub is_free_at_end: bool,
    /// The value of the flag if none follows it.
    pub value_of_bare_flag: Option<&'static str>,
    doc: &'static str,
}

/// A section of settings.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// The name in files, as in `[optim]`; empty for the settings at the top.
    pub name: &'static str,
    /// Its title in help.
    pub title: &'static str,
    /// Its settings.
    pub settings: &'static [Setting],
}

/// A set of defaults that differ from those of re-identification with a ResNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// MGN and MGN_PTL as published (Yu et al., 2019, and their code).
    Mgn,
    /// Fine-tuning of a classifier that was trained on ImageNet.
    Classify,
    /// Small images of 32 pixels, such as CIFAR's.
    SmallImages,
    /// Networks with three stages: CIFAR's ResNets and OSNet.
    ThreeStages,
}

/// A command of the program that takes some of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `ptl-train evaluate`.
    Evaluate,
    /// `ptl-train extract`.
    Extract,
    /// `ptl-train predict`.
    Predict,
    /// `ptl-train rank`.
    Rank,
    /// `ptl-train calibrate`.
    Calibrate,
    /// `ptl-train compare-images`.
    CompareImages,
    /// `ptl-train search`.
    Search,
    /// `ptl-train export`.
    Export,
    /// `ptl-train info`.
    Info,
    /// `ptl-train profile`.
    Profile,
}

/// The commands that compute something.
pub(crate) const EVERYWHERE: &[Command] = &[
    Command::Evaluate,
    Command::Extract,
    Command::Predict,
    Command::Rank,
    Command::Calibrate,
    Command::CompareImages,
    Command::Search,
    Command::Export,
    Command::Profile,
];
/// The commands that run a network on images.
pub(crate) const ON_IMAGES: &[Command] = &[
    Command::Evaluate,
    Command::Extract,
    Command::Predict,
    Command::Calibrate,
    Command::CompareImages,
    Command::Search,
    Command::Export,
];
/// The commands that read a data set.
pub(crate) const ON_DATA_SETS: &[Command] = &[Command::Evaluate, Command::Extract, Command::Calibrate];
/// The commands that write CSV files.
pub(crate) const ON_CSV: &[Command] = &[Command::Evaluate, Command::Predict, Command::Search];
/// The commands that rank galleries, and may re-rank them.
pub(crate) const ON_RANKINGS: &[Command] = &[Command::Evaluate, Command::Rank];
/// The commands that read data by a protocol, or compare them by it.
pub(crate) const ON_PROTOCOLS: &[Command] = &[Command::Evaluate, Command::Extract, Command::Rank, Command::Calibrate];
/// The commands that build a network.
pub(crate) const ON_NETWORKS: &[Command] = &[
    Command::Evaluate,
    Command::Extract,
    Command::Predict,
    Command::Calibrate,
    Command::CompareImages,
    Command::Search,
    Command::Export,
    Command::Info,
    Command::Profile,
];
/// The commands that run a network.
pub(crate) const ON_RUNS: &[Command] = &[
    Command::Evaluate,
    Command::Extract,
    Command::Predict,
    Command::Calibrate,
    Command::CompareImages,
    Command::Search,
    Command::Export,
    Command::Profile,
];
/// The commands that tell the cost of a training.
pub(crate) const ON_COST: &[Command] = &[Command::Info, Command::Profile];
/// The command that measures training steps.
pub(crate) const ON_STEPS: &[Command] = &[Command::Profile];

impl Setting {
    /// Returns a setting that only training takes. `doc` is its doc comment, with a space before each line.
    pub const fn new(path: &'static str, kind: Kind, doc: &'static str) -> Setting {
        Setting {
            path,
            alias: None,
            kind,
            bounds: Bounds::NONE,
            needs: &[],
            commands: &[],
            is_of_network: false,
            changes_results: true,
            is_free_at_end: false,
            value_of_bare_flag: None,
            doc,
        }
    }

    /// Sets the shorter name of the flag, without the dashes.
    pub const fn flag(self, alias: &'static str) -> Setting {
        Setting { alias: Some(alias), ..self }
    }

    /// Accepts only these words.
    pub(crate) const fn choice(self, words: &'static [&'static str]) -> Setting {
        Setting { kind: Kind::Choice(words), ..self }
    }

    /// Refuses numbers below `least`.
    pub const fn at_least(self, least: f64) -> Setting {
        Setting { bounds: self.bounds.at_least(least), ..self }
    }

    /// Refuses `limit` and smaller numbers.
    pub const fn above(self, limit: f64) -> Setting {
        Setting { bounds: self.bounds.above(limit), ..self }
    }

    /// Refuses numbers above `most`.
    pub(crate) const fn at_most(self, most: f64) -> Setting {
        Setting { bounds: self.bounds.at_most(most), ..self }
    }

    /// Refuses `limit` and larger numbers.
    pub const fn below(self, limit: f64) -> Setting {
        Setting { bounds: self.bounds.below(limit), ..self }
    }

    /// Adds the reason for the limits to the message about numbers beyond them.
    pub const fn because(self, why: &'static str) -> Setting {
        Setting { bounds: self.bounds.because(why), ..self }
    }

    /// Sets the conditions under which it has an effect.
    pub const fn needs(self, needs: &'static [Need]) -> Setting {
        Setting { needs, ..self }
    }

    /// Makes it a flag of these commands, too.
    pub(crate) const fn taken_by(self, commands: &'static [Command]) -> Setting {
        Setting { commands, ..self }
    }

    /// Marks it as determining parameters or operations of the network.
    pub(crate) const fn of_network(self) -> Setting {
        Setting { is_of_network: true, commands: ON_NETWORKS, ..self }
    }

    /// Marks it as never changing results.
    pub const fn same_results(self) -> Setting {
        Setting { changes_results: false, ..self }
    }

    /// Lets a finished run be resumed with another value.
    pub(crate) const fn free_at_end(self) -> Setting {
        Setting { is_free_at_end: true, ..self }
    }

    /// Sets the value of the flag if none follows it.
    pub(crate) const fn bare(self, value: &'static str) -> Setting {
        Setting { value_of_bare_flag: Some(value), ..self }
    }

    /// Returns the help text: the doc comment without its last full stop.
    pub fn help(&self) -> &'static str {
        let text = self.doc.trim();
        text.strip_suffix('.').unwrap_or(text)
    }

    /// Returns the section, such as `optim` for `optim.lr`; empty for settings at the top.
    pub(crate) fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(section, _)| section)
    }

    /// Returns its value in a table of settings; `None` if an optional setting is not set.
    pub(crate) fn value_in<'a>(&self, file: &'a Table) -> Option<&'a Value> {
        value_at(file, self.path)
    }

    /// Returns the flag that is shown first, without the dashes.
    pub(crate) fn flag_name(&self) -> &'static str {
        self.alias.unwrap_or(self.path)
    }
}

/// Returns the value at `path`, such as `optim.lr`, in a table of settings; `None` if there is none.
pub(crate) fn value_at<'a>(file: &'a Table, path: &str) -> Option<&'a Value> {
    match path.split_once('.') {
        None => file.get(path),
        Some((section, key)) => file.get(section)?.get(key),
    }
}

/// Declares a section of settings, or with `sections` the struct that composes several: see the [module](self).
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident in $section:tt, $title:literal {
            $(
                $(#[doc = $doc:literal])+
                $(#[setting($($attributes:tt)+)])?
                $(#[serde($($serde:tt)+)])?
                pub $field:ident: $type:ty = $default:expr $(, $recipe:ident => $value:expr)*;
            )+
        }
        $(sections {
            $($(#[doc = $inner_doc:literal])+ pub $inner:ident: $options:ty;)+
        })?
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $(
                $(#[doc = $doc])+
                $(#[serde($($serde)+)])?
                pub $field: $type,
            )+
            $($(
                $(#[doc = $inner_doc])+
                pub $inner: $options,
            )+)?
        }

        impl $name {
            /// The declarations of these settings.
            pub const SECTION: $crate::base::settings::Section = $crate::base::settings::Section {
                name: $section,
                title: $title,
                settings: &[$(
                    $crate::base::settings::Setting::new(
                        $crate::base::settings::settings!(@path $section $field),
                        <$type as $crate::base::settings::SettingType>::KIND,
                        concat!($($doc),+),
                    )
                    $(.$($attributes)+)?
                ),+],
            };
            $(
                /// The declarations of all sections; first the settings at the top.
                pub const SECTIONS: &[$crate::base::settings::Section] = &[Self::SECTION, $(<$options>::SECTION),+];
            )?

            /// Returns the defaults. If several of `recipes` have a default for a setting, the last of them counts.
            #[allow(unused_variables)] // A section may be the same in all recipes.
            pub fn defaults(recipes: &[$crate::base::settings::Recipe]) -> $name {
                $name {
                    $($field: $crate::base::settings::settings!(@default recipes, $default $(, $recipe => $value)*),)+
                    $($($inner: <$options>::defaults(recipes),)+)?
                }
            }
        }

        impl Default for $name {
            fn default() -> $name {
                $name::defaults(&[])
            }
        }
    };
    (@path "" $field:ident) => {
        stringify!($field)
    };
    (@path $section:tt $field:ident) => {
        concat!($section, ".", stringify!($field))
    };
    (@default $recipes:ident, $default:expr) => {
        $default
    };
    (@default $recipes:ident, $default:expr, $($recipe:ident => $value:expr),+) => {
        ($recipes.iter().rev())
            .find_map(|recipe| match recipe {
                $($crate::base::settings::Recipe::$recipe => Some($value),)+
                _ => None,
            })
            .unwrap_or($default)
    };
}

/// Declares an enum with a word for each value, as in `Adam = "adam"`. Settings show, store and choose values by these words.
macro_rules! choice {
    (
        $(#[$about:meta])+
        pub enum $name:ident {
            $($(#[$doc:meta])* $variant:ident = $word:literal,)+
        }
    ) => {
        $(#[$about])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $crate::base::settings::SettingType for $name {
            const KIND: $crate::base::settings::Kind = $crate::base::settings::Kind::Choice(&[$($word),+]);
        }

        impl $name {
            /// All values, in the order of their declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// Returns the word of this value.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<$name, String> {
                let found = $name::ALL.iter().find(|value| value.name() == text);
                found.copied().ok_or_else(|| format!("choose {}", [$($word),+].join(", ")))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

pub(crate) use {choice, settings};
