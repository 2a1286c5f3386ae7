"""The phases and their checks."""

import functools
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import commands
from report import FAILED, PASSED, SKIPPED

ROOT = Path(__file__).resolve().parents[2]
# The way in which most people use PyTorch comes first, then what takes longest.
TORCH = [
    ("ceilings", "eager", "bf16"),
    ("ceilings", "eager", "tf32"),
    ("mgn-ptl", "eager", "bf16"),
    ("resnet50", "eager", "bf16"),
    ("cells", "eager", "bf16"),
    ("cells", "eager-recorded", "bf16"),
    ("mgn-ptl", "compiled", "bf16"),
    ("resnet50", "compiled", "bf16"),
    ("cells", "compiled", "bf16"),
    ("cells", "compiled-recorded", "bf16"),
    ("mgn-ptl", "eager-recorded", "bf16"),
    ("resnet50", "eager-recorded", "bf16"),
    ("mgn-ptl", "compiled-recorded", "bf16"),
    ("resnet50", "compiled-recorded", "bf16"),
    ("cells", "eager", "tf32"),
    ("cells", "eager-recorded", "tf32"),
    ("cells", "compiled", "tf32"),
    ("cells", "compiled-recorded", "tf32"),
]


# A small training whose rounding does not grow, as in tests/parallel.
TOGETHER = "--arch resnet18-ptl --width 0.125 --height 32 --image-width 16 --ids 4 --images 2 --lr 1e-5 --sync-bn --gpu.vendor never"
TOGETHER += " --precision f32 --epochs 20 --max-steps 20 --train.log-every 1 --gpu.bucket-mb 0.1"
# The largest relative difference between the losses of one GPU and of two.
ROUNDING = 1e-4


@dataclass
class Check:
    """A check by its name. `run` takes the seconds that are left, and returns the result and a remark."""

    name: str
    run: Callable


@dataclass
class Checks:
    """What is checked, and how."""

    program: Path
    # None if it is missing.
    bench: Path
    device: str
    quick: bool
    seed: int
    precisions: list
    # The folder of outputs.
    logs: Path

    @property
    def rehearsal(self):
        """Returns whether there is no GPU."""
        return self.device != "cuda"

    def selftest(self, name, precision, vendor, seconds, before=(), full=False):
        """Compares the results of the GPU with those of the CPU."""
        log, figures = self.logs / f"{name}.txt", self.logs / f"{name}.json"
        figures.unlink(missing_ok=True)
        arguments = [*before, self.program, "selftest", "--device", self.device, "--seed", self.seed, "--precision", precision]
        arguments += ["--vendor", "always" if vendor else "never"]
        arguments += ["--full"] if full else []
        arguments += [] if before else ["--json", figures]
        result, remark = commands.run(arguments, log, seconds)
        # The program prints the device with its seed, and names its own kernels there in place of a library that is missing.
        device = next((line for line in log.read_text(errors="replace").splitlines() if f"seed {self.seed}" in line), "")
        if vendor and result == PASSED:
            if "own kernels" in device:
                figures.unlink(missing_ok=True)
                return SKIPPED, device
            refused = log.read_text(errors="replace").count("ptl's own kernel does")
            if refused:
                remark = f"{refused} passes of convolutions were refused, and computed by our own kernels: see {log.name}"
        return result, remark

    def measure(self, name, parts, precision, seconds):
        """Runs parts of the bench; a rehearsal runs them at tiny sizes."""
        figures = self.logs / f"{name}.json"
        figures.unlink(missing_ok=True)
        if self.bench is None:
            return SKIPPED, "no cargo to build the bench; name it in PTL_BENCH"
        variables = {"DEVICE": self.device, "PRECISION": precision, "PARTS": parts, "JSON": str(figures)}
        environment = {f"PTL_BENCH_{variable}": value for variable, value in variables.items()}
        arguments = [self.bench, "--bench", *(["--test"] if self.rehearsal else [])]
        return commands.run(arguments, self.logs / f"{name}.txt", seconds, environment)

    def demo(self, seconds):
        """Trains the demo's networks."""
        folder = self.logs / "demo"
        shutil.rmtree(folder, ignore_errors=True)
        arguments = [self.program, "demo", "--device", self.device, "--out", folder]
        arguments += ["--quick"] if self.quick or self.rehearsal else []
        arguments += ["--width", "0.0625", "--height", "32", "--image-width", "16"] if self.rehearsal else []
        ended = commands.run(arguments, self.logs / "demo.txt", seconds)
        # Runs and drawn images are large, and the report does not need them.
        for entry in list(folder.iterdir()) if folder.is_dir() else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
        return ended

    def gains(self, _seconds):
        """Judges what the demo's networks learned."""
        try:
            summary = json.loads((self.logs / "demo" / "summary.json").read_text())
        except (OSError, ValueError):
            return SKIPPED, "the demo did not end"
        zero, plain, ptl = (summary[arm]["mAP"] for arm in ("zero_shot", "plain", "ptl"))
        found = f"mAP zero-shot {zero:.1f}, plain {plain:.1f}, PTL {ptl:.1f}"
        if self.quick or self.rehearsal:
            return SKIPPED, f"a few steps teach nothing; {found}"
        # The figures of docs/results.md come from CPUs; seeds and rounding move them by points.
        if plain > zero + 20 and ptl > zero + 20:
            return PASSED, found
        return FAILED, f"{found}; CPUs have 6.3, 60.6, 60.0 (docs/results.md)"

    def together(self, count, seconds):
        """Trains on several GPUs, one in each process."""
        if self.rehearsal:
            return SKIPPED, "no GPU"
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=120).stdout.splitlines()
        if len(listed) < 2:
            return SKIPPED, "this machine has one GPU"
        data = self.logs / "together-data"
        if not data.exists():
            drawn = commands.run([self.program, "synth", "--ids", "8", "--cams", "2", "--out", data], self.logs / "synth.txt", seconds)
            if drawn[0] != PASSED:
                return drawn
        folder = self.logs / f"together-{count}"
        shutil.rmtree(folder, ignore_errors=True)
        script = Path(__file__).parent / "together.py"
        arguments = [sys.executable, script, count, self.program, "train", "--data", data, "--out", folder, "--device", self.device]
        ended = commands.run([*arguments, *TOGETHER.split()], self.logs / f"together-{count}.txt", seconds)
        # A training that failed is not compared, and the report needs no weights.
        shutil.rmtree(folder / "checkpoints" if ended[0] == PASSED else folder, ignore_errors=True)
        return ended

    def same_losses(self, _seconds):
        """Compares the losses of one GPU with those of two."""
        losses = []
        for count in (1, 2):
            try:
                lines = (self.logs / f"together-{count}" / "metrics.jsonl").read_text().splitlines()
            except OSError:
                return SKIPPED, "there are not two trainings to compare"
            losses.append([row["loss"] for row in map(json.loads, lines) if row["type"] == "step"])
        one, two = losses
        if not one or len(one) != len(two):
            return FAILED, f"{len(one)} and {len(two)} steps"
        largest = max(abs(a - b) / abs(a) for a, b in zip(one, two))
        found = f"largest relative difference of {len(one)} losses: {largest:.1e}"
        return (PASSED if largest < ROUNDING else FAILED), found

    def torch(self, what, batch, way, precision, seconds):
        """Measures PyTorch; a rehearsal runs it at tiny sizes on the CPU."""
        name = f"pytorch-{what}-{batch}-{way}-{precision}"
        # It is replaced as soon as there is a new figure, so that those of an earlier run are not lost before.
        figures = self.logs / f"{name}.json"
        missing = torch_missing(self.device)
        if missing:
            return SKIPPED, missing
        if self.rehearsal and way.endswith("recorded"):
            return SKIPPED, "a CPU has no CUDA graphs"
        script = ROOT / "benches" / "versus_torch" / "torch_gpu.py"
        arguments = [sys.executable, script, "--what", what, "--batch", batch, "--way", way, "--precision", precision, "--json", figures]
        arguments += ["--tiny"] if self.rehearsal else []
        return commands.run(arguments, self.logs / f"{name}.txt", seconds)

    def sanitizer(self, tool, precision, seconds):
        """Runs the self-test of our kernels, at small sizes, under one of NVIDIA's sanitizers."""
        if self.rehearsal:
            return SKIPPED, "no GPU"
        if not shutil.which("compute-sanitizer"):
            return SKIPPED, "compute-sanitizer is not installed (part of the CUDA toolkit)"
        before = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        return self.selftest(f"{tool}-{precision}", precision, False, seconds, before)

    def phases(self):
        """Returns the checks of every phase, in the order in which they matter."""

        def each(name, check, *arguments):
            """Returns a check for each precision; in its name, {} is the precision."""
            return [Check(name.format(p), functools.partial(check, p, *arguments)) for p in self.precisions]

        def one_selftest(precision, vendor, seconds):
            name, full = f"selftest-{precision}" + ("-vendor" if vendor else ""), not self.quick and not self.rehearsal
            return self.selftest(name, precision, vendor, seconds, full=full)

        def one_bench(precision, name, parts, seconds):
            return self.measure(f"bench-{name}-{precision}", parts, precision, seconds)

        of_torch = [
            Check(
                what + (f" at {batch}" if batch else "") + f", {way.replace('-', ', ')}, {precision}",
                functools.partial(self.torch, what, batch, way, precision),
            )
            for what, way, precision in TORCH
            for batch in ((0,) if what == "ceilings" else (4,) if self.rehearsal else (16, 64))
            if precision in self.precisions
        ]
        if not of_torch:
            of_torch = each("in {}", lambda _precision, _seconds: (SKIPPED, "PyTorch is compared in bf16 and tf32"))
        sanitizers = {
            tool: each("own kernels in {}", lambda precision, tool, seconds: self.sanitizer(tool, precision, seconds), tool)
            for tool in ("memcheck", "racecheck", "initcheck", "synccheck")
        }
        return {
            "selftest": each("own kernels in {}", one_selftest, False),
            "selftest-vendor": each("cuDNN and cuBLASLt in {}", one_selftest, True),
            "train": [Check("the demo runs", self.demo), Check("fine-tuning gains 20 points of mAP", self.gains)],
            "gpus": [
                Check("one GPU trains", functools.partial(self.together, 1)),
                Check("two GPUs train", functools.partial(self.together, 2)),
                Check("their losses are the same", self.same_losses),
            ],
            "steps": each("whole steps in {}", one_bench, "steps", "steps")
            + each("ops and convolutions in {}", one_bench, "ops", "ops,convs"),
            "cells": each("cells in {}", one_bench, "cells", "cells"),
            "pytorch": of_torch,
            **sanitizers,
        }


@functools.lru_cache(maxsize=None)
def torch_missing(device):
    """Returns why PyTorch cannot be measured, or an empty text."""
    code = "import torch; print(torch.__version__, torch.cuda.is_available())"
    try:
        probe = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return "python3 did not import torch within two minutes"
    if probe.returncode:
        error = probe.stderr.strip().splitlines() or [f"exit status {probe.returncode}"]
        return f"python3 cannot import torch ({error[-1]})"
    version, available = probe.stdout.split()[-2:]
    if device == "cuda" and available != "True":
        return f"PyTorch {version} finds no GPU: it may be a build for CPUs"
    return ""
