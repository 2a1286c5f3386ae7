//! Learning-rate schedules: an optional linear warm-up, then a decay.
//!
//! `t` counts what the caller steps by, epochs or iterations, from 0; every length here is in the same unit.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A learning-rate schedule. The default keeps the rate constant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    pub decay: Decay,
}

/// Linear warm-up: the factor rises from `start_factor` at t = 0 to 1 at t = `iters`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    pub iters: u64,
    /// Share of the base rate at t = 0, in (0, 1].
    pub start_factor: f64,
}

/// What follows the warm-up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Decay {
    #[default]
    Constant,
    /// base · gamma^⌊t / step_size⌋, t counted from the end of the warm-up.
    Step { step_size: u64, gamma: f64 },
    /// base · gamma^#{m ≤ t}. Milestones name points of the whole training, so a warm-up does not shift them.
    MultiStep { milestones: Vec<u64>, gamma: f64 },
    /// eta_min + (base - eta_min) · (1 + cos(π t / t_max)) / 2, t counted from the end of the warm-up; `eta_min` (a rate,
    /// not a factor) from t_max on.
    Cosine { t_max: u64, eta_min: f64 },
}

impl Schedule {
    /// The learning rate in effect at `t` for the base rate `base`.
    pub fn lr(&self, base: f64, t: u64) -> f64 {
        let warmup_iters = self.warmup.as_ref().map_or(0, |w| w.iters);
        match &self.warmup {
            Some(w) if t < warmup_iters => {
                base * (w.start_factor + (1.0 - w.start_factor) * t as f64 / warmup_iters as f64)
            }
            _ => self.decay.lr(base, t, warmup_iters),
        }
    }

    /// Refuses values that cannot work.
    pub fn validate(&self) -> Result<()> {
        let refuse = |setting: &str, value: String, reason: &str| {
            Err(Error::Setting { setting: format!("schedule.{setting}"), value, reason: reason.into() })
        };
        let rate = |value: f64| value > 0.0 && value <= 1.0;
        if let Some(w) = &self.warmup
            && !rate(w.start_factor)
        {
            return refuse("warmup.start_factor", w.start_factor.to_string(), "it must lie in (0, 1]");
        }
        match &self.decay {
            Decay::Step { gamma, .. } | Decay::MultiStep { gamma, .. } if !rate(*gamma) => {
                refuse("decay.gamma", gamma.to_string(), "it must lie in (0, 1]")
            }
            Decay::Step { step_size: 0, .. } => refuse("decay.step_size", "0".into(), "it must be at least 1"),
            Decay::Cosine { t_max: 0, .. } => refuse("decay.t_max", "0".into(), "it must be at least 1"),
            Decay::Cosine { eta_min, .. } if !(eta_min.is_finite() && *eta_min >= 0.0) => {
                refuse("decay.eta_min", eta_min.to_string(), "it must be a rate of at least 0")
            }
            _ => Ok(()),
        }
    }
}

impl Decay {
    fn lr(&self, base: f64, t: u64, warmup_iters: u64) -> f64 {
        let after_warmup = t - warmup_iters;
        match self {
            Self::Constant => base,
            Self::Step { step_size, gamma } => base * gamma.powf((after_warmup / step_size) as f64),
            Self::MultiStep { milestones, gamma } => {
                base * gamma.powi(milestones.iter().filter(|&&m| m <= t).count() as i32)
            }
            Self::Cosine { t_max, eta_min } => {
                let share = after_warmup.min(*t_max) as f64 / *t_max as f64;
                eta_min + (base - eta_min) * (1.0 + (std::f64::consts::PI * share).cos()) / 2.0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warm(iters: u64, decay: Decay) -> Schedule {
        Schedule { warmup: Some(Warmup { iters, start_factor: 0.1 }), decay }
    }

    #[test]
    fn warmup_reaches_the_base_rate_and_hands_over() {
        let constant = warm(4, Decay::Constant);
        let rates: Vec<f64> = (0..6).map(|t| constant.lr(2.0, t)).collect();
        for (got, want) in rates.iter().zip([0.2, 0.65, 1.1, 1.55, 2.0, 2.0]) {
            assert!((got - want).abs() < 1e-12, "{rates:?}");
        }
        let cosine = warm(4, Decay::Cosine { t_max: 10, eta_min: 0.5 });
        assert_eq!(cosine.lr(2.0, 4), 2.0);
        assert!((cosine.lr(2.0, 9) - 1.25).abs() < 1e-12);
    }

    #[test]
    fn milestones_are_not_shifted_by_the_warmup_but_steps_are() {
        let multi_step = warm(4, Decay::MultiStep { milestones: vec![6, 8], gamma: 0.5 });
        assert_eq!([5, 6, 7, 8].map(|t| multi_step.lr(1.0, t)), [1.0, 0.5, 0.5, 0.25]);
        let step = warm(4, Decay::Step { step_size: 2, gamma: 0.5 });
        assert_eq!([4, 5, 6, 8].map(|t| step.lr(1.0, t)), [1.0, 1.0, 0.5, 0.25]);
    }

    #[test]
    fn cosine_stays_at_its_minimum() {
        let schedule = Schedule { warmup: None, decay: Decay::Cosine { t_max: 10, eta_min: 0.01 } };
        assert_eq!(schedule.lr(1.0, 10), 0.01);
        assert_eq!(schedule.lr(1.0, 25), 0.01);
    }

    #[test]
    fn reads_toml_and_refuses_nonsense() {
        let text =
            "warmup = { iters = 10, start_factor = 0.01 }\ndecay = { kind = \"cosine\", t_max = 90, eta_min = 0.0 }";
        let schedule: Schedule = toml::from_str(text).unwrap();
        assert_eq!(schedule.warmup, Some(Warmup { iters: 10, start_factor: 0.01 }));
        assert_eq!(schedule.decay, Decay::Cosine { t_max: 90, eta_min: 0.0 });
        assert_eq!(toml::from_str::<Schedule>(&toml::to_string(&schedule).unwrap()).unwrap(), schedule);
        assert_eq!(toml::from_str::<Schedule>("").unwrap(), Schedule::default());
        assert!(toml::from_str::<Schedule>("decay = { kind = \"cosine\", tmax = 90, eta_min = 0.0 }").is_err());

        for decay in [
            Decay::Step { step_size: 0, gamma: 0.1 },
            Decay::MultiStep { milestones: vec![1], gamma: 0.0 },
            Decay::Cosine { t_max: 0, eta_min: 0.0 },
            Decay::Cosine { t_max: 1, eta_min: f64::NAN },
        ] {
            let schedule = Schedule { warmup: None, decay };
            let error = schedule.validate().unwrap_err();
            assert!(error.to_string().starts_with("schedule.decay."), "{error}");
        }
        assert!(
            Schedule { warmup: Some(Warmup { iters: 3, start_factor: f64::NAN }), ..Default::default() }
                .validate()
                .is_err()
        );
    }
}
