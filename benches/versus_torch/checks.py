"""Compares the numbers of a check."""

# Gradients sum more roundings than outputs do.
DERIVED = 10


class Mismatch(Exception):
    """Numbers that differ by more than rounding."""


def compare(ours, theirs, tolerance):
    """Raises `Mismatch` unless both checks have the same numbers; returns the largest relative difference."""
    worst = 0.0
    for kind in ("scalars", "derived", "tensors"):
        if ours[kind].keys() != theirs[kind].keys():
            raise Mismatch(f"{kind} are {', '.join(ours[kind])}, and {', '.join(theirs[kind])} in PyTorch")
    for name, value in ours["scalars"].items():
        worst = max(worst, within(name, value, theirs["scalars"][name], value, tolerance))
    for name, value in ours["derived"].items():
        worst = max(worst, within(name, value, theirs["derived"][name], value, DERIVED * tolerance))
    for name, tensor in ours["tensors"].items():
        other = theirs["tensors"][name]
        if tensor["len"] != other["len"]:
            raise Mismatch(f"{name} has {tensor['len']} numbers, and {other['len']} in PyTorch")
        worst = max(worst, within(f"the norm of {name}", tensor["norm"], other["norm"], tensor["norm"], tolerance))
        if None in tensor["sample"]:
            raise Mismatch(f"{name} has numbers that are not finite")
        largest = max(map(abs, tensor["sample"]))
        for a, b in zip(tensor["sample"], other["sample"]):
            worst = max(worst, within(name, a, b, largest, tolerance))
    return worst


def within(name, a, b, scale, tolerance):
    """Returns the difference of two numbers relative to `scale`; raises `Mismatch` if it is too large, or not a number."""
    # JSON has no numbers that are not finite: they are null.
    if None in (a, b, scale):
        raise Mismatch(f"{name} is {a}, and {b} in PyTorch")
    difference = abs(a - b) / abs(scale) if scale else abs(a - b)
    if not difference <= tolerance:
        raise Mismatch(f"{name} is {a:.7g}, and {b:.7g} in PyTorch")
    return difference
