//! Learning-rate schedules: an optional linear warm-up, then a decay.
//!
//! `t` is the time from 0, in epochs or iterations, as the caller chooses. Every length here is in the same unit.

use crate::base::settings::{COSINE, DROPS, MULTISTEP, STEP, WARMUP, choice, settings};

choice! {
    /// How the learning rate falls after the warm-up.
    pub enum ScheduleKind {
        /// Not at all.
        Constant = "constant",
        /// By a factor at each of the milestones.
        MultiStep = "multistep",
        /// By a factor after every so many epochs.
        Step = "step",
        /// Along half a cosine.
        #[default]
        Cosine = "cosine",
    }
}

settings! {
    /// `[schedule]`: length of the training and learning rate, by epoch.
    pub struct ScheduleOptions in "schedule", "Schedule" {
        /// Epochs to train.
        #[setting(flag("epochs").at_least(1.0).at_most(MOST_EPOCHS).free_at_end())]
        pub epochs: usize = 60, Mgn => 450, Classify => 30;
        /// Course of the learning rate.
        #[setting(flag("schedule"))]
        pub kind: ScheduleKind = ScheduleKind::Cosine, Mgn => ScheduleKind::MultiStep;
        /// multistep: epochs, from 1, at whose start the rate drops.
        #[setting(flag("milestones").needs(&[MULTISTEP]))]
        pub milestones: Vec<u64> = vec![40, 50], Mgn => vec![320, 360, 400];
        /// multistep, step: factor of a drop.
        #[setting(above(0.0).at_most(1.0).needs(&[DROPS]))]
        pub gamma: f64 = 0.1;
        /// step: epochs between drops.
        #[setting(at_least(1.0).at_most(MOST_EPOCHS).needs(&[STEP]))]
        pub step_size: u64 = 20;
        /// cosine: rate at the end.
        #[setting(at_least(0.0).needs(&[COSINE]))]
        pub min_lr: f64 = 0.0;
        /// Epochs of linear warm-up, fewer than --epochs.
        #[setting(flag("warmup-epochs").at_most(MOST_EPOCHS))]
        pub warmup_epochs: u64 = 0, Classify => 1;
        /// Share of the rate at the start of the warm-up.
        #[setting(above(0.0).at_most(1.0).needs(&[WARMUP]))]
        pub warmup_factor: f64 = 0.1;
    }
}

/// The most epochs of a run. With it, numbers of steps do not overflow.
pub(crate) const MOST_EPOCHS: f64 = 1e6;

impl ScheduleOptions {
    /// Returns the schedule in steps (from 0), for epochs of `steps` batches. Milestones count epochs from 1, as in the published recipe:
    /// epoch e runs at lr · gamma^(number of milestones ≤ e).
    pub fn per_step(&self, steps: u64) -> Schedule {
        let warmup = (self.warmup_epochs > 0)
            .then_some(Warmup { iters: self.warmup_epochs * steps, start_factor: self.warmup_factor });
        let decay = match self.kind {
            ScheduleKind::Constant => Decay::Constant,
            ScheduleKind::Step => Decay::Step { step_size: self.step_size * steps, gamma: self.gamma },
            ScheduleKind::MultiStep => Decay::MultiStep {
                milestones: self.milestones.iter().map(|m| m.saturating_sub(1) * steps).collect(),
                gamma: self.gamma,
            },
            ScheduleKind::Cosine => Decay::Cosine {
                t_max: ((self.epochs as u64).saturating_sub(self.warmup_epochs) * steps).max(1),
                eta_min: self.min_lr,
            },
        };
        Schedule { warmup, decay }
    }
}

/// A learning-rate schedule. The default keeps the rate constant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    /// Warm-up at the start, if there is one.
    pub warmup: Option<Warmup>,
    /// What follows.
    pub decay: Decay,
}

/// Linear warm-up: the factor rises from `start_factor` at t = 0 to 1 at t = `iters`.
#[derive(Clone, Debug, PartialEq)]
pub struct Warmup {
    /// Length of the warm-up, in the unit of `t`.
    pub iters: u64,
    /// Share of the base rate at t = 0, in (0, 1].
    pub start_factor: f64,
}

/// What follows the warm-up.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Decay {
    /// The base rate throughout.
    #[default]
    Constant,
    /// base · gamma^⌊t / step_size⌋, with t counted from the end of the warm-up.
    Step {
        /// Length between drops, in the unit of `t`.
        step_size: u64,
        /// Factor of a drop.
        gamma: f64,
    },
    /// base · gamma^(number of milestones ≤ t). Milestones count from the start of training, so a warm-up does not shift them.
    MultiStep {
        /// Points at which the rate drops, in the unit of `t`.
        milestones: Vec<u64>,
        /// Factor of a drop.
        gamma: f64,
    },
    /// eta_min + (base - eta_min) · (1 + cos(π t / t_max)) / 2, with t counted from the end of the warm-up. From
    /// t_max on, the rate is `eta_min` (a rate, not a factor).
    Cosine {
        /// Length of the descent, in the unit of `t`.
        t_max: u64,
        /// Learning rate at the end.
        eta_min: f64,
    },
}

impl Schedule {
    /// Returns the learning rate at time `t` for the base rate `base`.
    pub fn lr(&self, base: f64, t: u64) -> f64 {
        let warmup_iters = self.warmup.as_ref().map_or(0, |w| w.iters);
        match &self.warmup {
            Some(w) if t < warmup_iters => {
                base * (w.start_factor + (1.0 - w.start_factor) * t as f64 / warmup_iters as f64)
            }
            _ => self.decay.lr(base, t, warmup_iters),
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

    /// The published recipe: epoch e, counted from 1, runs at lr · 0.1^(number of milestones ≤ e).
    #[test]
    fn milestones_count_epochs_from_one() {
        let options =
            ScheduleOptions { kind: ScheduleKind::MultiStep, milestones: vec![3, 5], ..ScheduleOptions::default() };
        let schedule = options.per_step(2);
        let rates: Vec<f64> = (0..10).map(|step| schedule.lr(1.0, step)).collect();
        for (got, want) in rates.iter().zip([1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]) {
            assert!((got - want).abs() < 1e-12, "{rates:?}");
        }
    }
}
