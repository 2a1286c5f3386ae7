"""Single operations: a BConv-Cell, convolutions, and a product of matrices."""

import time
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch.nn import functional as F

from networks import BConvCell
from torch_check import Check
from torch_compile import compiled
from training import train_cell

# Elements between the starts of two tensors in the pool of random numbers; the Rust program has the same.
STEP = 1_000_003


class Pool:
    """Random numbers that both programs read; each tensor is a stretch of them, which begins again at the start when they end."""

    def __init__(self, folder):
        self.numbers = load_file(Path(folder) / "inputs.safetensors")["pool"]

    def take(self, tensor, shape, scale=1.0):
        """Returns the numbers of tensor number `tensor`, times `scale`."""
        count, start = int(np.prod(shape)), tensor * STEP % len(self.numbers)
        first = self.numbers[start : start + count]
        rest = np.resize(self.numbers, count - len(first))
        return torch.from_numpy(np.concatenate([first, rest]) * np.float32(scale)).reshape(shape)

    def activation(self, tensor, shape, layout):
        """Returns an activation `[n, c, h, w]`, whose numbers are in the order `shape` = `[n, h, w, c]`."""
        return self.take(tensor, shape).permute(0, 3, 1, 2).contiguous(memory_format=layout)


def layout_of(variant):
    """Returns the memory format of a variant."""
    return torch.channels_last if variant["channels_last"] else torch.contiguous_format


class Cell:
    """A BConv-Cell by itself."""

    def __init__(self, spec, variant):
        pool, layout = Pool(spec["folder"]), layout_of(variant)
        batch, (h, w), stride = spec["batch"], spec["size"], spec["stride"]
        inputs, channels, self.train = spec["inputs"], spec["channels"], spec["train"]
        self.plain = BConvCell(inputs, channels, stride)
        weight = pool.take(1, [4 * channels, inputs, 3, 3], (6 / (9 * inputs)) ** 0.5)
        self.plain.load_state_dict({"gates.weight": weight})
        self.plain.to(memory_format=layout)
        output = [batch, (h - 1) // stride + 1, (w - 1) // stride + 1, channels]
        self.x = pool.activation(0, [batch, h, w, inputs], layout).requires_grad_(spec["input_gradient"])
        self.plain.latent_state = pool.activation(2, output, layout)
        self.cotangent = pool.activation(3, output, layout)
        self.cell = compiled(self.plain, spec, variant, frozen=not self.train)

    def compute(self):
        if not self.train:
            with torch.inference_mode():
                return self.cell(self.x)
        return train_cell(self.cell, self.plain.gates.weight, self.x, self.cotangent)

    def check(self):
        check = Check()
        check.activation("output", self.compute())
        check.activation("state", self.plain.latent_state)
        if self.train:
            check.tensor("gradient of the weight", self.plain.gates.weight.grad)
        if self.x.requires_grad:
            check.activation("gradient of the input", self.x.grad)
        return check

    def run(self):
        start = time.perf_counter()
        self.compute()
        return {"seconds": time.perf_counter() - start}


class Layer:
    """A convolution with its operands."""

    def __init__(self, pool, index, layer, batch, layout):
        self.name, self.count = layer["name"], layer["count"]
        kernel, (h, w) = layer["kernel"], layer["size"]
        self.stride, self.padding = [layer["stride"]] * 2, [kernel // 2] * 2
        out_h, out_w = [(side - 1) // layer["stride"] + 1 for side in (h, w)]
        self.x = pool.activation(3 * index, [batch, h, w, layer["inputs"]], layout)
        self.y = pool.activation(3 * index + 2, [batch, out_h, out_w, layer["outputs"]], layout)
        scale = (3 / (kernel * kernel * layer["inputs"])) ** 0.5
        weight = pool.take(3 * index + 1, [layer["outputs"], layer["inputs"], kernel, kernel], scale)
        self.weight = weight.contiguous(memory_format=layout)

    def forward(self):
        return F.conv2d(self.x, self.weight, None, self.stride, self.padding)

    def data(self):
        return self.backward([True, False, False])[0]

    def gradient_of_weight(self):
        return self.backward([False, True, False])[1]

    def backward(self, wanted):
        operands = self.y, self.x, self.weight, None, self.stride, self.padding
        return torch.ops.aten.convolution_backward(*operands, [1, 1], False, [0, 0], 1, wanted)


class Convs:
    """One pass of several convolutions, each timed by itself."""

    def __init__(self, spec, variant):
        pool, layout = Pool(spec["folder"]), layout_of(variant)
        self.layers = [Layer(pool, i, layer, spec["batch"], layout) for i, layer in enumerate(spec["layers"])]
        self.weight = spec["pass"] == "weight"
        self.pass_ = {"forward": Layer.forward, "data": Layer.data, "weight": Layer.gradient_of_weight}[spec["pass"]]

    @torch.inference_mode()
    def check(self):
        check = Check()
        for layer in self.layers:
            add = check.tensor if self.weight else check.activation
            add(layer.name, self.pass_(layer))
        return check

    @torch.inference_mode()
    def run(self):
        parts = []
        for layer in self.layers:
            start = time.perf_counter()
            self.pass_(layer)
            parts.append(time.perf_counter() - start)
        return {"seconds": sum(layer.count * part for layer, part in zip(self.layers, parts)), "parts": parts}


class Product:
    """The product of two square matrices."""

    def __init__(self, spec, variant):
        pool, side = Pool(spec["folder"]), spec["side"]
        self.a, self.b = (pool.take(matrix, [side, side]) for matrix in (0, 1))
        self.c = torch.empty(side, side) if variant["style"] == "mm into a matrix" else None

    @torch.inference_mode()
    def compute(self):
        return self.a @ self.b if self.c is None else torch.mm(self.a, self.b, out=self.c)

    def check(self):
        check = Check()
        check.tensor("product", self.compute())
        return check

    def run(self):
        start = time.perf_counter()
        self.compute()
        return {"seconds": time.perf_counter() - start}
