//! `[loss]` and `[train]`: the settings of the training loop.

use super::ClassWeights;
use crate::base::settings::{
    CENTERS, CLASSES, COSINE_HEAD, CROSS_ENTROPY, EFFECTIVE, FROZEN_BACKBONE, INIT, MEMORY, ON_COST, ON_IMAGES,
    ON_STEPS, REID, TRIPLET, settings,
};

settings! {
    /// `[loss]`: cross-entropy and batch-hard triplet loss.
    pub struct LossOptions in "loss", "Loss" {
        /// Share of the target probability that is spread over all identities or classes.
        #[setting(flag("label-smoothing").at_least(0.0).below(1.0).needs(&[CROSS_ENTROPY]))]
        pub label_smoothing: f32 = 0.0, Classify => 0.1;
        /// Weights of a classifier's classes in the cross-entropy, by the numbers n of their training images: none, inverse (1/n), or effective
        /// ((1-b)/(1-b^n) for the b of --class-beta; Cui et al., 2019). Their mean is 1. Identities are drawn equally often anyway.
        #[setting(flag("class-weights").needs(&[CLASSES]))]
        pub class_weights: ClassWeights = ClassWeights::None;
        /// The b of --class-weights effective: near 1 as inverse, 0 as none.
        #[setting(flag("class-beta").at_least(0.0).below(1.0).needs(&[CLASSES, EFFECTIVE]))]
        pub class_beta: f64 = 0.999;
        /// Exponent of the focal loss (Lin et al., 2017), by which images that are classified well count less; 0 for none.
        #[setting(flag("focal-gamma").at_least(0.0).at_most(16.0).needs(&[CROSS_ENTROPY]))]
        pub focal_gamma: f32 = 0.0;
        /// Margin of --head arcface, in radians (0.5 if not set, as published), or of circle (0.25).
        #[setting(flag("head-margin").at_least(0.0).at_most(1.5).needs(&[CROSS_ENTROPY, COSINE_HEAD]))]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub head_margin: Option<f32> = None;
        /// Margin of the batch-hard triplet loss.
        #[setting(flag("margin").at_least(0.0).needs(&[REID, TRIPLET]))]
        pub triplet_margin: f32 = 0.3, Mgn => 1.2;
        /// Weight of the triplet loss.
        #[setting(at_least(0.0).needs(&[REID]))]
        pub triplet_weight: f32 = 1.0;
        /// With several processes: mine triplets in the batch of each process, not in that of all.
        #[setting(flag("local-mining").needs(&[REID, TRIPLET]))]
        pub local_mining: bool = false;
        /// Embeddings of earlier batches from which the triplet loss mines too; 0 for none.
        #[setting(flag("triplet-memory").at_most(65536.0).needs(&[REID, TRIPLET]).taken_by(ON_COST))]
        pub memory: usize = 0;
        /// Steps before the first embedding is remembered: until then features change too much.
        #[setting(flag("triplet-memory-from").needs(&[REID, TRIPLET, MEMORY]))]
        pub memory_from: u64 = 100;
        /// Weight of the centre loss (Wen et al., 2016), which draws embeddings to the centre of their identity; 0 for none.
        #[setting(flag("center-weight").at_least(0.0).needs(&[REID]).taken_by(ON_COST))]
        pub center_weight: f32 = 0.0;
        /// How far a centre goes to the embeddings of a batch: the rate of the publication.
        #[setting(flag("center-rate").above(0.0).at_most(1.0).needs(&[REID, CENTERS]))]
        pub center_rate: f32 = 0.5;
        /// Weight of the cross-entropy.
        #[setting(at_least(0.0))]
        pub ce_weight: f32 = 1.0;
    }
}

settings! {
    /// `[train]`: the training loop.
    pub struct TrainOptions in "train", "Training" {
        /// Train everything but the backbone.
        #[setting(flag("freeze-backbone").taken_by(ON_STEPS))]
        pub freeze_backbone: bool = false;
        /// Also stop the running statistics of a frozen backbone.
        #[setting(flag("freeze-bn").needs(&[FROZEN_BACKBONE]).taken_by(ON_STEPS))]
        pub freeze_bn: bool = false;
        /// With several processes: compute the statistics of batch normalisations over the batch of all, not over that of each.
        #[setting(flag("sync-bn"))]
        pub sync_bn: bool = false;
        /// Loader threads; 0: two.
        #[setting(flag("workers").at_most(1024.0).because("0 chooses").same_results().taken_by(ON_IMAGES))]
        pub workers: usize = 0;
        /// Epochs between checkpoints.
        #[setting(at_least(1.0).same_results())]
        pub checkpoint_every: usize = 10;
        /// Epochs between evaluations; 0 evaluates at the end only.
        #[setting(flag("eval-every").free_at_end())]
        pub eval_every: usize = 0, Classify => 1;
        /// Steps between two lines of metrics.
        #[setting(at_least(1.0).same_results())]
        pub log_every: usize = 10;
        /// Also write the metrics for TensorBoard, to the folder tensorboard of the run.
        #[setting(flag("tensorboard").same_results())]
        pub tensorboard: bool = false;
        /// Batches per update; their gradients are averaged, latent states change with every batch.
        #[setting(flag("accumulate").at_least(1.0).at_most(4096.0))]
        pub accumulate: usize = 1;
        /// Decay of the moving average of weights that is evaluated and saved; 0 for none.
        #[setting(flag("ema").at_least(0.0).below(1.0).taken_by(ON_STEPS))]
        pub ema: f32 = 0.0;
        /// Stop after N evaluations (--eval-every) without improvement, with the best weights; 0: never.
        #[setting(flag("patience").free_at_end())]
        pub patience: usize = 0;
        /// Keep the classifier of --init, for the same classes.
        #[setting(flag("keep-head").needs(&[INIT]))]
        pub keep_head: bool = false;
        /// Accept a file for --init that has only a part of the network's backbone, or other blocks.
        #[setting(flag("init-partial").needs(&[INIT]))]
        pub init_partial: bool = false;
        /// Which dictionary of weights to take from a file with several: its name, such as state_dict_ema, or the first part of its
        /// tensors' names.
        #[setting(flag("weights-dict").needs(&[INIT]).taken_by(ON_IMAGES))]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub weights_dict: Option<String> = None;
        /// Stop after N steps.
        #[setting(flag("max-steps").at_least(1.0).free_at_end())]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub max_steps: Option<usize> = None;
    }
}
