//! The forms of the values of settings.

use std::path::PathBuf;

use toml::Value;

/// The form of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number of at least 0.
    Count,
    /// A number.
    Real,
    /// `true` or `false`; the flag alone means `true`.
    Switch,
    /// A path.
    Path,
    /// Any text.
    Word,
    /// Whole numbers; `1,2,3` on the command line.
    Counts,
    /// Two numbers; `0.9,0.999` on the command line.
    Pair,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// One of these words, or `cuda:` and the number of a GPU.
    Device(&'static [&'static str]),
}

use Kind::{Choice, Count, Counts, Device, Pair, Path, Real, Switch, Word};

/// A type that the field of a setting may have.
pub(crate) trait SettingType {
    /// The form of its values in files and flags.
    const KIND: Kind;
}

macro_rules! setting_types {
    ($($($type:ty),+ => $kind:ident;)+) => {
        $($(impl SettingType for $type {
            const KIND: Kind = $kind;
        })+)+
    };
}

setting_types! {
    u64, usize, Option<usize> => Count;
    f32, f64, Option<f32> => Real;
    bool => Switch;
    PathBuf, Option<PathBuf> => Path;
    String, Option<String> => Word;
    Vec<u64>, Vec<usize> => Counts;
    [f32; 2], [f64; 2] => Pair;
}

impl Kind {
    /// Describes in words what a value must be.
    pub fn expected(self) -> String {
        match self {
            Count => "a whole number of at least 0".into(),
            Real => "a number".into(),
            Switch => "true or false".into(),
            Path => "a path in quotes".into(),
            Word => "text in quotes".into(),
            Counts => "a list of whole numbers such as [1, 2]".into(),
            Pair => "two numbers such as [0.9, 0.999]".into(),
            Choice(words) => {
                let (last, rest) = words.split_last().expect("a choice has words");
                format!("{} or {last}", rest.join(", "))
            }
            Device(words) => format!("{}, or the number of a GPU such as cuda:1", words.join(", ")),
        }
    }

    /// Returns the placeholder for values in help.
    pub(crate) fn placeholder(self) -> &'static str {
        match self {
            Count => "N",
            Real => "X",
            Switch => "BOOL",
            Path => "DIR",
            Word => "NAME",
            Counts => "N,N..",
            Pair => "X,X",
            Choice(_) => "WORD",
            Device(_) => "DEVICE",
        }
    }

    /// Parses a value from the command line.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let list = || text.trim().trim_start_matches('[').trim_end_matches(']').split(',').map(str::trim);
        let value = match self {
            Count => text.parse().ok().map(Value::Integer),
            Real => text.parse().ok().map(Value::Float),
            Switch => text.parse().ok().map(Value::Boolean),
            Path | Word | Choice(_) | Device(_) => Some(Value::String(text.into())),
            Counts => list().map(|n| n.parse().ok().map(Value::Integer)).collect::<Option<_>>().map(Value::Array),
            Pair => list().map(|x| x.parse().ok().map(Value::Float)).collect::<Option<_>>().map(Value::Array),
        };
        value.filter(|value| self.fits(value)).ok_or_else(|| match self {
            Counts => "expected whole numbers such as 1,2".into(),
            Pair => "expected two numbers such as 0.9,0.999".into(),
            _ => format!("expected {}", self.expected()),
        })
    }

    /// Returns whether `value` has this form.
    pub fn fits(self, value: &Value) -> bool {
        match (self, value) {
            (Count, Value::Integer(n)) => *n >= 0,
            (Real, Value::Float(_) | Value::Integer(_)) | (Switch, Value::Boolean(_)) => true,
            (Path | Word, Value::String(_)) => true,
            (Counts, Value::Array(items)) => items.iter().all(|item| Count.fits(item)),
            (Pair, Value::Array(items)) => items.len() == 2 && items.iter().all(|item| Real.fits(item)),
            (Choice(words), Value::String(word)) => words.contains(&word.as_str()),
            (Device(words), Value::String(word)) => words.contains(&word.as_str()) || gpu_number(word).is_some(),
            _ => false,
        }
    }
}

/// Returns the number in `cuda:1`; `None` for other texts.
pub(crate) fn gpu_number(text: &str) -> Option<usize> {
    let digits = text.strip_prefix("cuda:").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}
