//! Settings as data: the name of each, its flag, the values that it takes, its defaults, and which commands take it.
//!
//! A section of settings is a struct that `settings!` declares in the module that it governs, each setting once:
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
//! The doc comment is the help text, too. What follows the type is the default, then those of certain [`Recipe`]s. The methods of
//! [`Setting`] that are called in `#[setting(...)]` say the rest. `crate::config` composes the sections; flags, keys of files, help and
//! checks follow from the declarations.

mod bounds;
mod kind;
mod needs;

pub use bounds::Bounds;
pub use kind::{Kind, SettingType};
pub use needs::{
    ADAM, CELL_WIDTHS, CELLS, CLASSES, COSINE, CROSS_ENTROPY, Chosen, DROPS, FROZEN_BACKBONE, GPU, HELD_OUT, INIT,
    MIDDLE, MSMT17, MULTISTEP, Need, RAND_AUGMENT, RANDOM_CROP, REID, RERANK, SGD, SPLITS, STEP, TARGET,
    TRAINED_BACKBONE, TRIPLET, WARMUP,
};

use toml::{Table, Value};

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// `section.key`, or the key alone for the settings at the top. Its key in files, and its long flag.
    pub path: &'static str,
    /// Short flag, without the dashes.
    pub alias: Option<&'static str>,
    /// Which values it takes.
    pub kind: Kind,
    /// Limits of its numbers.
    pub bounds: Bounds,
    /// What else must be chosen for it to have an effect; checked in this order.
    pub needs: &'static [Need],
    /// The commands that take it as a flag; `train`, `compare` and `ablate` take every setting.
    pub commands: &'static [Command],
    /// Whether it decides about the network's parameters or operations: a trained model cannot change it.
    pub is_of_network: bool,
    /// Whether another value may give other results. Device and threads are not counted: they change the last bits at most.
    pub changes_results: bool,
    /// Whether a finished run may be resumed with another value.
    pub is_free_at_end: bool,
    /// What the flag means where no value follows it.
    pub value_of_bare_flag: Option<&'static str>,
    doc: &'static str,
}

/// A section of settings.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// The name in files, `[optim]`; empty for the settings at the top.
    pub name: &'static str,
    /// Its title in help.
    pub title: &'static str,
    /// Its settings.
    pub settings: &'static [Setting],
}

/// Whose defaults are taken, beside those of re-identification with a ResNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// MGN and MGN_PTL as published (Yu et al., 2019, and their code).
    Mgn,
    /// Fine-tuning of a classifier that was trained on ImageNet.
    Classify,
    /// Images of 32 pixels, whose objects fill them.
    SmallImages,
    /// CIFAR's ResNets, which have three stages.
    ThreeStages,
}

/// A command of the program that takes some of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Evaluate,
    Extract,
    Predict,
    Rank,
    Info,
}

/// Every command that computes something for images or features.
pub const EVERYWHERE: &[Command] = &[Command::Evaluate, Command::Extract, Command::Predict, Command::Rank];
/// The commands that run a network on images.
pub const ON_IMAGES: &[Command] = &[Command::Evaluate, Command::Extract, Command::Predict];
/// The commands that read a data set.
pub const ON_DATA_SETS: &[Command] = &[Command::Evaluate, Command::Extract];
/// The commands that write CSV files.
pub const ON_CSV: &[Command] = &[Command::Evaluate, Command::Predict];
/// The commands that rank galleries.
pub const ON_RANKINGS: &[Command] = &[Command::Evaluate, Command::Rank];
/// The commands that build a network.
pub const ON_NETWORKS: &[Command] = &[Command::Evaluate, Command::Extract, Command::Predict, Command::Info];
/// The command that counts what a training costs.
pub const ON_COST: &[Command] = &[Command::Info];

impl Setting {
    /// A setting that only training takes. `doc` is its documentation, with a space before each line.
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

    /// Gives it a short flag, without the dashes.
    pub const fn flag(self, alias: &'static str) -> Setting {
        Setting { alias: Some(alias), ..self }
    }

    /// Takes one of these words.
    pub const fn choice(self, words: &'static [&'static str]) -> Setting {
        Setting { kind: Kind::Choice(words), ..self }
    }

    /// Refuses numbers below `least`.
    pub const fn at_least(self, least: f64) -> Setting {
        Setting { bounds: self.bounds.at_least(least), ..self }
    }

    /// Refuses numbers up to `limit`.
    pub const fn above(self, limit: f64) -> Setting {
        Setting { bounds: self.bounds.above(limit), ..self }
    }

    /// Refuses numbers above `most`.
    pub const fn at_most(self, most: f64) -> Setting {
        Setting { bounds: self.bounds.at_most(most), ..self }
    }

    /// Refuses numbers from `limit` on.
    pub const fn below(self, limit: f64) -> Setting {
        Setting { bounds: self.bounds.below(limit), ..self }
    }

    /// Adds to the message about numbers beyond the limits why there are limits.
    pub const fn because(self, why: &'static str) -> Setting {
        Setting { bounds: self.bounds.because(why), ..self }
    }

    /// Says what else must be chosen for it to have an effect.
    pub const fn needs(self, needs: &'static [Need]) -> Setting {
        Setting { needs, ..self }
    }

    /// Makes it a flag of these commands, too.
    pub const fn taken_by(self, commands: &'static [Command]) -> Setting {
        Setting { commands, ..self }
    }

    /// Says that it decides about the network's parameters or operations.
    pub const fn of_network(self) -> Setting {
        Setting { is_of_network: true, commands: ON_NETWORKS, ..self }
    }

    /// Says that it never changes results.
    pub const fn same_results(self) -> Setting {
        Setting { changes_results: false, ..self }
    }

    /// Lets a finished run be resumed with another value.
    pub const fn free_at_end(self) -> Setting {
        Setting { is_free_at_end: true, ..self }
    }

    /// Says what the flag means where no value follows it.
    pub const fn bare(self, value: &'static str) -> Setting {
        Setting { value_of_bare_flag: Some(value), ..self }
    }

    /// Its meaning, for help: the doc comment without its last full stop.
    pub fn help(&self) -> &'static str {
        let text = self.doc.trim();
        text.strip_suffix('.').unwrap_or(text)
    }

    /// `optim` of `optim.lr`; empty at the top.
    pub fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(section, _)| section)
    }

    /// Its value in a file of settings; `None` where an optional one is not set.
    pub fn value_in<'a>(&self, file: &'a Table) -> Option<&'a Value> {
        match self.path.split_once('.') {
            None => file.get(self.path),
            Some((section, key)) => file.get(section)?.get(key),
        }
    }

    /// The flag shown first, without the dashes.
    pub fn flag_name(&self) -> &'static str {
        self.alias.unwrap_or(self.path)
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
                /// The declarations of all sections, the settings at the top first.
                pub const SECTIONS: &[$crate::base::settings::Section] = &[Self::SECTION, $(<$options>::SECTION),+];
            )?

            /// The defaults; where several of `recipes` have a default for a setting, that of the last one.
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

/// Declares an enum whose values settings name by words: `Adam = "adam"`. It can be shown, stored and chosen by them.
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

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self {
                    $($name::$variant => $word,)+
                })
            }
        }
    };
}

pub(crate) use {choice, settings};
