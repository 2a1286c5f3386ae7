"""The statistics of the study: paired differences between arms, a bootstrap over seeds, and Holm's correction."""

import random
from math import sqrt

RESAMPLES = 10_000


def mean(values):
    """Returns the mean."""
    return sum(values) / len(values)


def deviation(values):
    """Returns the sample standard deviation; 0 for one value."""
    if len(values) < 2:
        return 0.0
    center = mean(values)
    return sqrt(sum((value - center) ** 2 for value in values) / (len(values) - 1))


class Difference:
    """The mean over tasks and seeds of paired differences, `differences[task][seed]`, with its 95 % interval and two-sided p-value.

    The differences of a seed are averaged over tasks first: its tasks share initial values, data order and some pre-trained weights, so they are
    not independent. A resample draws n - 1 of the n seeds with replacement (fewer than n, because a mean over a resample of n varies less
    than one over new seeds)."""

    def __init__(self, differences):
        of_seeds = [mean(of_seed) for of_seed in zip(*differences)]
        self.mean = mean(of_seeds)
        # The standard error of the mean over seeds.
        self.error = deviation(of_seeds) / sqrt(len(of_seeds))
        if len(of_seeds) < 2:
            self.interval, self.p = (float("nan"), float("nan")), float("nan")
            return
        generator = random.Random(0)
        means = sorted(mean(generator.choices(of_seeds, k=len(of_seeds) - 1)) for _ in range(RESAMPLES))
        self.interval = (means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1])
        beyond = min(sum(m <= 0 for m in means), sum(m >= 0 for m in means))
        self.p = min(1.0, 2 * (beyond + 1) / (RESAMPLES + 1))


def holm(p_values):
    """Returns the p-values corrected by Holm's method, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
