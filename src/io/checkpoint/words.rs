//! Words in the names of tensors and dictionaries, as training scripts use them.

/// Segments that wrappers add to names: `DataParallel`, `torch.compile`, fully sharded training, activation checkpointing.
const WRAPPERS: [&str; 4] = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// Words for an average of weights, or for a network that follows another one.
const AVERAGED: [&str; 8] = ["ema", "averaged", "avg", "swa", "shadow", "teacher", "momentum", "target"];

/// Segments in the names of tensors that are saved among the weights but are none: counters, the mean and deviation of images, losses and
/// their centres, metrics, queues, optimisers.
const NO_WEIGHTS: [&str; 25] = [
    "n_averaged",
    "num_batches_tracked",
    "pixel_mean",
    "pixel_std",
    "normalize",
    "centers",
    "center_loss",
    "center_criterion",
    "criterion",
    "criterions",
    "criterion_id",
    "criterion_triplet",
    "loss",
    "losses",
    "loss_fn",
    "loss_func",
    "metric",
    "metrics",
    "train_metrics",
    "val_metrics",
    "queue",
    "queue_ptr",
    "optimizer",
    "optim",
    "scheduler",
];

/// Returns the name without the segments of wrappers.
pub(crate) fn unwrapped(name: &str) -> String {
    let kept: Vec<&str> = name.split('.').filter(|segment| !WRAPPERS.contains(segment)).collect();
    if kept.is_empty() { name.to_string() } else { kept.join(".") }
}

/// Returns whether a segment of a name, or a key, means averaged weights: `model_ema`, `teacher`, `encoder_k`.
pub(crate) fn is_averaged(segment: &str) -> bool {
    segment == "encoder_k"
        || segment.split(['_', '-', '.']).any(|word| AVERAGED.contains(&word.to_ascii_lowercase().as_str()))
}

/// Returns whether a tensor is no weight of a network, by its name.
pub(crate) fn is_no_weight(name: &str) -> bool {
    name.split('.').any(|segment| NO_WEIGHTS.contains(&segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_go_at_any_depth() {
        assert_eq!(unwrapped("module.backbone._orig_mod.conv1.weight"), "backbone.conv1.weight");
        assert_eq!(unwrapped("_orig_mod.module.fc.bias"), "fc.bias");
        assert_eq!(unwrapped("modules.0.weight"), "modules.0.weight");
    }

    #[test]
    fn averages_are_told_by_whole_words() {
        for averaged in
            ["state_dict_ema", "model_ema", "EMA", "ema", "teacher", "encoder_k", "swa_model", "averaged_model"]
        {
            assert!(is_averaged(averaged), "{averaged}");
        }
        for other in ["state_dict", "schema", "student", "encoder_q", "model", "running_mean"] {
            assert!(!is_averaged(other), "{other}");
        }
    }
}
