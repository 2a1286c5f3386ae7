"""Training steps, and networks in evaluation."""

import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import networks
from torch_check import Check
from torch_compile import compiled
from training import optimizer, total_loss

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Steps of a check: from the second on, a loss tells whether gradients and updates are equal too.
CHECKED = 3


def build(spec, variant):
    """Returns the network with the weights that the Rust program wrote, and its images and labels."""
    folder = Path(spec["folder"])
    network, named = networks.build(spec["arch"], spec["task"], spec["classes"])
    named.load_state_dict(load_file(folder / "weights.safetensors"))
    inputs = load_file(folder / "inputs.safetensors")
    images = (inputs["pixels"].float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    layout = torch.channels_last if variant["channels_last"] else torch.contiguous_format
    images = images.permute(0, 3, 1, 2).contiguous(memory_format=layout)
    return network.to(memory_format=layout), images, inputs["labels"]


class Step:
    """The same training step again and again."""

    def __init__(self, spec, variant):
        self.spec = spec
        network, self.images, self.labels = build(spec, variant)
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = optimizer(self.parameters, spec, fused=variant["fused"] or None)
        network.train()
        self.network = compiled(network, spec, variant)

    def loss(self):
        embeddings, logits = self.network(self.images)
        return total_loss(embeddings, logits, self.labels, self.spec)

    def backward(self):
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss

    def check(self):
        check = Check()
        for number in range(1, CHECKED + 1):
            loss = self.backward().item()
            if number > 1:
                check.derivative(f"loss of step {number}", loss)
            else:
                check.scalar("loss of step 1", loss)
                gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
                check.derivative("norm of the gradient", sum(g.double().square().sum() for g in gradients).sqrt())
            self.optimizer.step()
        return check

    def run(self):
        start = time.perf_counter()
        loss = self.backward()
        self.optimizer.step()
        loss = loss.item()
        return {"seconds": time.perf_counter() - start, "loss": loss}


class Inference:
    """A network in evaluation."""

    def __init__(self, spec, variant):
        network, self.images, _ = build(spec, variant)
        self.plain = self.module(network).eval()
        if variant["frozen"]:
            with torch.inference_mode():
                traced = torch.jit.trace(self.plain, self.images, check_trace=False)
                self.network = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
        else:
            self.network = compiled(self.plain, spec, variant, frozen=True)

    def module(self, network):
        """Returns what computes the output, a single tensor."""
        return network

    def run(self):
        start = time.perf_counter()
        self.compute()
        return {"seconds": time.perf_counter() - start}


class Logits(nn.Module):
    """The logits of a classifier, without its empty list of embeddings."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, images):
        return self.classifier(images)[1][0]


class Evaluation(Inference):
    """The logits of a classifier."""

    def module(self, network):
        return Logits(network)

    def compute(self):
        with torch.inference_mode():
            return self.network(self.images)

    def check(self):
        check = Check()
        check.tensor("logits", self.compute())
        return check


class Features(Inference):
    """Features of images and their mirror images, added and scaled to unit length."""

    def compute(self):
        features = 0
        with torch.inference_mode():
            for images in (self.images, self.images.flip(3)):
                networks.reset_states(self.plain)
                features = features + self.network(images)
            return F.normalize(features)

    def check(self):
        check = Check()
        check.tensor("features", self.compute())
        return check
