"""The numbers of a check, in the form that the Rust program reports them: `work.rs` has the same."""

import numpy as np

# The largest number of elements in a sample.
SAMPLE = 1000


class Check:
    """Numbers that must be equal in both programs, by name."""

    def __init__(self):
        self.scalars = {}
        self.derived = {}
        self.tensors = {}

    def scalar(self, name, value):
        """Adds a number."""
        self.scalars[name] = float(value)

    def derivative(self, name, value):
        """Adds a number that depends on gradients, in which rounding differs more."""
        self.derived[name] = float(value)

    def tensor(self, name, tensor):
        """Adds a tensor, whose elements are taken in its order."""
        values = np.ascontiguousarray(tensor.detach() if hasattr(tensor, "detach") else tensor).ravel()
        count = min(len(values), SAMPLE)
        sample = values[np.arange(count, dtype=np.int64) * len(values) // count]
        norm = float(np.sqrt(np.square(values, dtype=np.float64).sum()))
        self.tensors[name] = {"len": len(values), "norm": norm, "sample": sample.astype(float).tolist()}

    def activation(self, name, tensor):
        """Adds an activation `[n, c, h, w]` in the order `[n, h, w, c]`."""
        self.tensor(name, tensor.detach().permute(0, 2, 3, 1))

    def answer(self):
        """Returns all numbers as an answer."""
        return {"scalars": self.scalars, "derived": self.derived, "tensors": self.tensors}
