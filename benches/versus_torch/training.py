"""The losses, the optimiser and the passes that are measured; needs no package but PyTorch."""

import torch
from torch.nn import functional as F


def batch_hard_triplet(embedding, labels, margin):
    """Returns the triplet loss of the hardest positive and the hardest negative of each image."""
    # Products would lose the digits of small distances.
    distances = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist").clamp(min=1e-6)
    same = labels[:, None] == labels
    positive = distances.masked_fill(~same, 0).amax(1)
    negative = distances.masked_fill(same, float("inf")).amin(1)
    return F.relu(positive - negative + margin).mean()


def total_loss(embeddings, logits, labels, spec):
    """Returns the mean cross-entropy of all logits, plus the mean triplet loss of all embeddings."""
    smoothing, margin = spec["label_smoothing"], spec["margin"]
    loss = sum(F.cross_entropy(z, labels, label_smoothing=smoothing) for z in logits) / len(logits)
    if embeddings:
        loss = loss + sum(batch_hard_triplet(e, labels, margin) for e in embeddings) / len(embeddings)
    return loss


def optimizer(parameters, spec, **options):
    """Returns the optimiser of a step."""
    options = {"lr": spec["lr"], "weight_decay": spec["weight_decay"], **options}
    if spec["optimizer"] == "sgd":
        return torch.optim.SGD(parameters, momentum=0.9, **options)
    return torch.optim.Adam(parameters, amsgrad=True, **options)


def train_cell(cell, weight, x, cotangent):
    """Computes the output of a cell and its gradients."""
    x.grad = weight.grad = None
    y = cell(x)
    y.backward(cotangent)
    return y
