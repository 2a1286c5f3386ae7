//! `[optim]`: the settings of the optimiser.

use super::UpdateRule;
use crate::base::settings::{ADAM, BRANCH, ON_COST, ON_STEPS, SGD, TRAINED_BACKBONE, choice, settings};

choice! {
    /// The update rule.
    pub enum OptimKind {
        /// Kingma and Ba, 2015.
        #[default]
        Adam = "adam",
        /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
        AdamW = "adamw",
        /// Gradient descent.
        Sgd = "sgd",
    }
}

settings! {
    /// `[optim]`: the optimiser.
    pub struct OptimOptions in "optim", "Optimiser" {
        /// Update rule.
        #[setting(flag("optim").taken_by(ON_COST))]
        pub kind: OptimKind = OptimKind::Adam, Classify => OptimKind::Sgd;
        /// Base learning rate.
        #[setting(flag("lr").above(0.0))]
        pub lr: f64 = 2e-4, Classify => 0.01;
        /// Adam, AdamW: decay of the two moments.
        #[setting(needs(&[ADAM]))]
        pub betas: [f64; 2] = [0.9, 0.999];
        /// Adam, AdamW: added to the denominator.
        #[setting(needs(&[ADAM]))]
        pub eps: f64 = 1e-8;
        /// Weight decay: added to the gradient; decoupled from it in AdamW.
        #[setting(flag("weight-decay").at_least(0.0))]
        pub weight_decay: f32 = 5e-4, Classify => 1e-4;
        /// Adam, AdamW: divide by the largest second moment so far.
        #[setting(needs(&[ADAM]).taken_by(ON_COST))]
        pub amsgrad: bool = true, Classify => false;
        /// SGD: momentum.
        #[setting(flag("momentum").needs(&[SGD]).taken_by(ON_COST))]
        pub momentum: f64 = 0.9;
        /// SGD: Nesterov's rule.
        #[setting(needs(&[SGD]).taken_by(ON_STEPS))]
        pub nesterov: bool = false;
        /// Largest L2 norm of the gradient; 0 does not clip.
        #[setting(flag("clip-norm").at_least(0.0).taken_by(ON_STEPS))]
        pub clip_norm: f32 = 0.0;
        /// Multiplier of the learning rate in the PTL branch.
        #[setting(flag("ptl-lr").at_least(0.0).needs(&[BRANCH]))]
        pub ptl_lr: f32 = 1.0;
        /// Multiplier of the learning rate in reduction, neck and classifier.
        #[setting(flag("head-lr").at_least(0.0))]
        pub head_lr: f32 = 1.0;
        /// Multiplier of the learning rate in the pre-trained part.
        #[setting(flag("backbone-lr").at_least(0.0).needs(&[TRAINED_BACKBONE]))]
        pub backbone_lr: f32 = 1.0;
        /// Multiplier of the pre-trained part's rate for each stage from the last towards the image.
        #[setting(flag("layer-decay").above(0.0).at_most(1.0).needs(&[TRAINED_BACKBONE]))]
        pub layer_decay: f32 = 1.0;
    }
}

impl OptimOptions {
    /// Returns the update rule with its settings.
    pub fn rule(&self) -> UpdateRule {
        let OptimOptions { betas, eps, amsgrad, momentum, nesterov, .. } = *self;
        match self.kind {
            OptimKind::Adam => UpdateRule::Adam { betas, eps, amsgrad },
            OptimKind::AdamW => UpdateRule::AdamW { betas, eps, amsgrad },
            OptimKind::Sgd => UpdateRule::Sgd { momentum, nesterov },
        }
    }
}
