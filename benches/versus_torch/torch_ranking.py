"""Ranking and re-ranking of features: the code that most projects have, and the same with PyTorch's products, sorts and sums."""

import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from torch_check import Check

RANKS = (1, 5, 10)


def squared_distances(a, b):
    """Returns all squared distances, `[len(a), len(b)]`."""
    squares = a.square().sum(1, keepdim=True) + b.square().sum(1)
    return squares.addmm(a, b.T, alpha=-2)


def read(folder):
    """Returns features, identities and cameras of the queries, and of the gallery."""
    tensors = load_file(Path(folder) / "inputs.safetensors")
    return [[tensors[f"{name}.{part}"] for part in ("features", "pids", "camids")] for name in ("query", "gallery")]


def rank_by_numpy(query, gallery):
    """Returns mAP and CMC: one sorted matrix, and a loop over the queries."""
    (features, pids, camids), (others, gallery_pids, gallery_camids) = query, gallery
    distances = squared_distances(features, others).numpy()
    pids, camids, gallery_pids, gallery_camids = (t.numpy() for t in (pids, camids, gallery_pids, gallery_camids))
    order = np.argsort(distances, axis=1)
    matches = (gallery_pids[order] == pids[:, None]).astype(np.int32)
    curves, precisions = [], []
    for q in range(len(pids)):
        removed = (gallery_pids[order[q]] == pids[q]) & (gallery_camids[order[q]] == camids[q])
        found = matches[q][~removed]
        if not found.any():
            continue
        hits = found.cumsum()
        curves.append(np.minimum(hits, 1)[: max(RANKS)])
        precisions.append((hits / np.arange(1, len(hits) + 1) * found).sum() / found.sum())
    curve = np.asarray(curves).mean(0)
    return np.mean(precisions), [curve[k - 1] for k in RANKS]


def rank_by_torch(query, gallery, block=256):
    """Returns mAP and CMC: blocks of queries are sorted and counted as a whole."""
    (features, pids, camids), (others, gallery_pids, gallery_camids) = query, gallery
    precisions, firsts = [], []
    places = torch.arange(1, len(others) + 1)
    for start in range(0, len(pids), block):
        rows = slice(start, start + block)
        order = squared_distances(features[rows], others).argsort(1)
        same = gallery_pids[order] == pids[rows, None]
        removed = same & (gallery_camids[order] == camids[rows, None])
        found = same & ~removed
        place = places - removed.cumsum(1, dtype=torch.int32)
        hits = found.cumsum(1, dtype=torch.int32)
        valid = hits[:, -1] > 0
        precision = torch.where(found, hits / place, 0).sum(1, dtype=torch.float64) / hits[:, -1]
        first = torch.where(found, place, len(others) + 1).amin(1)
        precisions.append(precision[valid])
        firsts.append(first[valid])
    firsts = torch.cat(firsts)
    return torch.cat(precisions).mean().item(), [(firsts <= k).double().mean().item() for k in RANKS]


class Ranking:
    """Distances, CMC and mAP."""

    def __init__(self, spec, variant):
        self.sets = read(spec["folder"])
        self.rank = rank_by_numpy if variant["style"] == "NumPy" else rank_by_torch

    def check(self):
        check = Check()
        mean_ap, curve = self.rank(*self.sets)
        check.scalar("mAP", mean_ap)
        for k, share in zip(RANKS, curve):
            check.scalar(f"rank {k}", share)
        return check

    def run(self):
        start = time.perf_counter()
        self.rank(*self.sets)
        return {"seconds": time.perf_counter() - start}


def nearest_by_numpy(distances, count):
    """Returns the indices of the nearest images of each image, by sorting all of them."""
    return np.argsort(distances)[:, :count]


def nearest_by_torch(distances, count):
    """Returns the indices of the nearest images of each image."""
    return torch.from_numpy(distances).topk(count, largest=False).indices.numpy()


def reciprocal(nearest, image, count):
    """Returns those of an image's `count` nearest that have it among their own."""
    neighbours = nearest[image, : count + 1]
    return neighbours[(nearest[neighbours, : count + 1] == image).any(1)]


def rerank(query, gallery, nearest_images, k1=20, k2=6, weight=0.3):
    """Returns the distances of queries to the gallery after k-reciprocal encoding (Zhong et al., 2017): the usual code."""
    queries, features = len(query), torch.cat([query, gallery])
    distances = squared_distances(features, features).numpy()
    distances = np.transpose(distances / distances.max(axis=0))
    nearest = nearest_images(distances, k1 + 1)
    encoding = np.zeros_like(distances)
    for image in range(len(features)):
        own = reciprocal(nearest, image, k1)
        expanded = own
        for candidate in own:
            theirs = reciprocal(nearest, candidate, int(np.around(k1 / 2)))
            if len(np.intersect1d(theirs, own)) > 2 / 3 * len(theirs):
                expanded = np.append(expanded, theirs)
        expanded = np.unique(expanded)
        weights = np.exp(-distances[image, expanded])
        encoding[image, expanded] = weights / weights.sum()
    distances = distances[:queries]
    encoding = np.stack([encoding[nearest[image, :k2]].mean(axis=0) for image in range(len(features))])
    having = [np.where(encoding[:, column] != 0)[0] for column in range(len(features))]
    jaccard = np.zeros_like(distances)
    for image in range(queries):
        overlap = np.zeros(len(features), dtype=np.float32)
        for column in np.where(encoding[image] != 0)[0]:
            others = having[column]
            overlap[others] += np.minimum(encoding[image, column], encoding[others, column])
        jaccard[image] = 1 - overlap / (2 - overlap)
    return ((1 - weight) * jaccard + weight * distances)[:, queries:]


class Reranking:
    """Re-ranked distances of all queries to the gallery."""

    def __init__(self, spec, variant):
        self.query, self.gallery = (features for features, _, _ in read(spec["folder"]))
        self.nearest = nearest_by_numpy if variant["style"] == "NumPy" else nearest_by_torch

    def compute(self):
        return rerank(self.query, self.gallery, self.nearest)

    def check(self):
        check = Check()
        check.tensor("distances", self.compute())
        return check

    def run(self):
        start = time.perf_counter()
        self.compute()
        return {"seconds": time.perf_counter() - start}
