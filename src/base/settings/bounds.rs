//! The limits of the numbers of a setting.

use std::fmt;

use toml::Value;

/// The limits of the numbers of a setting, with the reason for them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    low: f64,
    /// Whether `low` itself is refused.
    above_low: bool,
    high: f64,
    /// Whether `high` itself is refused.
    below_high: bool,
    why: &'static str,
}

impl Bounds {
    /// No limits.
    pub(crate) const NONE: Bounds =
        Bounds { low: f64::NEG_INFINITY, above_low: false, high: f64::INFINITY, below_high: false, why: "" };

    pub(super) const fn at_least(self, low: f64) -> Bounds {
        Bounds { low, above_low: false, ..self }
    }

    pub(super) const fn above(self, low: f64) -> Bounds {
        Bounds { low, above_low: true, ..self }
    }

    pub(super) const fn at_most(self, high: f64) -> Bounds {
        Bounds { high, below_high: false, ..self }
    }

    pub(super) const fn below(self, high: f64) -> Bounds {
        Bounds { high, below_high: true, ..self }
    }

    pub(super) const fn because(self, why: &'static str) -> Bounds {
        Bounds { why, ..self }
    }

    /// Returns whether all numbers in `value` are finite and within the limits; true for values that are no numbers.
    pub fn hold(&self, value: &Value) -> bool {
        match value {
            Value::Integer(number) => self.contains(*number as f64),
            Value::Float(number) => number.is_finite() && self.contains(*number),
            Value::Array(items) => items.iter().all(|item| self.hold(item)),
            _ => true,
        }
    }

    fn contains(&self, x: f64) -> bool {
        let low = if self.above_low { x > self.low } else { x >= self.low };
        let high = if self.below_high { x < self.high } else { x <= self.high };
        low && high
    }
}

/// Formats the limits as advice: `choose from 16 to 4096`.
impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bounds { low, above_low, high, below_high, why } = *self;
        match (low.is_finite(), high.is_finite()) {
            (false, false) => write!(f, "write a finite number")?,
            (true, false) if above_low => write!(f, "choose a number greater than {low}")?,
            (true, false) => write!(f, "choose a number of at least {low}")?,
            (false, true) if below_high => write!(f, "choose a number less than {high}")?,
            (false, true) => write!(f, "choose a number of at most {high}")?,
            (true, true) => {
                let from = if above_low { format!("more than {low}") } else { format!("from {low}") };
                let to = match (above_low, below_high) {
                    (true, true) => format!("and less than {high}"),
                    (true, false) => format!("and at most {high}"),
                    (false, true) => format!("to below {high}"),
                    (false, false) => format!("to {high}"),
                };
                write!(f, "choose {from} {to}")?;
            }
        }
        if why.is_empty() { Ok(()) } else { write!(f, ": {why}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_checked_and_formatted() {
        let share = Bounds::NONE.above(0.0).at_most(1.0);
        assert!(
            share.hold(&Value::Float(1.0)) && !share.hold(&Value::Integer(0)) && !share.hold(&Value::Float(f64::NAN))
        );
        assert!(share.hold(&Value::Array(vec![Value::Float(0.5), Value::Integer(1)])));
        assert!(!share.hold(&Value::Array(vec![Value::Float(0.5), Value::Float(1.5)])));
        assert!(share.hold(&Value::String("x".into())) && !Bounds::NONE.hold(&Value::Float(f64::INFINITY)));
        for (bounds, text) in [
            (share, "choose more than 0 and at most 1"),
            (Bounds::NONE.at_least(16.0).at_most(4096.0), "choose from 16 to 4096"),
            (Bounds::NONE.at_least(0.0).below(1.0), "choose from 0 to below 1"),
            (
                Bounds::NONE.at_least(2.0).because("a triplet needs two"),
                "choose a number of at least 2: a triplet needs two",
            ),
            (Bounds::NONE.above(0.0), "choose a number greater than 0"),
        ] {
            assert_eq!(bounds.to_string(), text);
        }
    }
}
