"""`scripts/gpu-check`: runs the phases and writes the report."""

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from phases import ROOT, Checks
from report import CUT_OFF, Report

PRECISIONS = ("bf16", "tf32", "f32")
PHASES = ("selftest", "selftest-vendor", "train", "gpus", "steps", "cells", "pytorch", "memcheck", "racecheck", "initcheck", "synccheck")
ABOUT = """\
Checks and measures the program on this machine's GPU, and writes a report.

phases, in their order:
  selftest         compares every op, update rule and a training step with the CPU, by our own kernels
  selftest-vendor  the same with the convolutions of cuDNN and cuBLASLt
  train            the demo learns
  gpus             the same training by one GPU and by two, which NCCL connects; passed over where there is one
  steps            the bench: whole training steps, ops, and the convolutions of ResNet-50, by our own kernels, by the vendor's libraries,
                   and steps also by the faster of both for each pass
  cells            the bench: each BConv-Cell, fused and not, by our own kernels, by the vendor's libraries, and by the faster of both
  pytorch          PyTorch on this machine: steps and cells, eager and compiled
  memcheck, racecheck, initcheck, synccheck
                   our own kernels under compute-sanitizer

PTL_BIN and PTL_BENCH name a built ptl-train and a built bench `kernels`; otherwise cargo builds them. CUDA_VISIBLE_DEVICES chooses the GPU.
The exit code is 1 if a check failed or was cut off.
"""


class Stop(Exception):
    """A reason why nothing can be checked."""


def arguments():
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="*", metavar="PHASE", help="what to run; without any, all phases")
    parser.add_argument("--report", metavar="NAME", help="continue this report, or start it; default: a new one, named by date and GPU")
    parser.add_argument("--device", default="cuda", choices=("cuda", "emulated"), help="emulated rehearses without a GPU")
    parser.add_argument("--quick", action="store_true", help="leave out large sizes, and train only a few steps")
    parser.add_argument("--precision", choices=PRECISIONS, help="check only one precision; default: all")
    parser.add_argument("--seed", type=int, help="of the random numbers; default: from the time")
    parser.add_argument("--minutes", type=float, default=8, help="after which a phase is cut off; default: 8")
    parser.add_argument("--commit", help="what the programs were built from, where there is no git history")
    parser.add_argument("--out", type=Path, help="folder of reports; default: docs/measurements, for a rehearsal target/gpu-check")
    options = parser.parse_args()
    unknown = [phase for phase in options.phases if phase not in PHASES]
    if unknown:
        raise Stop(f"there is no phase {unknown[0]}: known are {', '.join(PHASES)}")
    if options.report is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", options.report):
        raise Stop(f"--report {options.report!r} is no name of a report: take letters, digits, dots, dashes and underscores")
    return options


def output(*command):
    """Returns what a command prints."""
    name = " ".join(str(part) for part in command)
    try:
        done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    except OSError as error:
        raise Stop(f"{name} cannot be run: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise Stop(f"{name} did not end within two minutes: the driver may hang") from error
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["it printed nothing"]
        raise Stop(f"{name} failed: {lines[-1]}")
    return done.stdout.strip()


def gpu(device):
    """Returns the names of the GPU and its driver."""
    if device != "cuda":
        return "emulated GPU", "none"
    if not shutil.which("nvidia-smi"):
        raise Stop("nvidia-smi is missing, so this machine has no NVIDIA driver; --device emulated rehearses")
    lines = output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").splitlines()
    if not lines:
        raise Stop("nvidia-smi finds no GPU; --device emulated rehearses")
    name, driver = lines[0].rsplit(",", 1)
    return name.strip(), driver.strip()


def named_program(variable):
    """Returns the path of the program that a variable names; None without one."""
    named = os.environ.get(variable)
    if not named:
        return None
    path = Path(named).absolute()
    if not (os.access(path, os.X_OK) and path.is_file()):
        raise Stop(f"{variable}={named} is no program")
    return path


def build(device, *command):
    """Builds something for a device with cargo, and returns its messages."""
    command = ["cargo", *command, "--locked", "--message-format=json-render-diagnostics"]
    command += [] if device == "cuda" else ["--features", "emulator"]
    # Without nvcc, a program for a GPU would be built without its kernels.
    environment = {**os.environ, "PTL_CUDA": "require" if device == "cuda" else "off"}
    if device != "cuda":
        # The program for GPUs stays as it is.
        target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        environment["CARGO_TARGET_DIR"] = str(target / "emulated")
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    if built.returncode:
        raise Stop(f"{' '.join(command[:3])} failed, see above; a build for a GPU needs nvcc: scripts/install-nvcc downloads it")
    return [json.loads(line) for line in built.stdout.splitlines()]


def executable(messages, name):
    """Returns the path of a program that cargo built."""
    found = (m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == name)
    return Path(next(found))


def program(device):
    """Returns the path of ptl-train, which is built unless it is named."""
    named = named_program("PTL_BIN")
    if named:
        return named
    if not shutil.which("cargo"):
        raise Stop("there is no cargo to build ptl-train; name a built one in PTL_BIN")
    return executable(build(device, "build", "--release", "--bin", "ptl-train"), "ptl-train")


def bench(device):
    """Returns the path of the bench `kernels`, which is built unless it is named; None without cargo."""
    named = named_program("PTL_BENCH")
    if named or not shutil.which("cargo"):
        return named
    return executable(build(device, "bench", "--no-run", "--bench", "kernels"), "kernels")


def digest(path):
    """Returns a hash of a program, or None."""
    return path and hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def commit():
    """Returns the commit of the checkout, which says nothing about a program that was built elsewhere."""
    if os.environ.get("PTL_BIN"):
        return "unknown"
    try:
        return output("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except Stop:
        return "unknown"


def open_report(options, path, found):
    """Starts a report, or continues one of the same GPU and the same program."""
    folder = options.out or ROOT / ("docs/measurements" if options.device == "cuda" else "target/gpu-check")
    name, driver = found
    same = {
        "device": options.device,
        "gpu": name,
        "driver": driver,
        "quick": options.quick,
        "precision": options.precision,
        "program": digest(path),
    }
    title = options.report or f"{datetime.now(timezone.utc):%Y-%m-%d-%H%M}-{re.sub('[^a-z0-9]+', '-', name.lower())}"
    if options.report and (folder / f"{title}.json").exists():
        report = Report.read(folder, title)
        if not report.logs.is_dir():
            raise Stop(f"{report.logs} with the outputs of earlier checks is missing: put it beside {report.json}, or name a new report")
        for key, value in same.items():
            if report.data[key] != value:
                advice = "pass the same options, or name a new report"
                raise Stop(f"{report.json} was made with {key} {report.data[key]}, and this run has {value}: {advice}")
        if options.seed not in (None, report.data["seed"]):
            raise Stop(f"{report.json} has the seed {report.data['seed']}, not {options.seed}: leave out --seed, or name a new report")
        print(f"continuing the report {report.json}", flush=True)
    else:
        seed = int(time.time()) if options.seed is None else options.seed
        head = {**same, "seed": seed, "commit": options.commit or commit(), "info": output(path, "info")}
        report = Report(folder, title, head)
        for there in (report.markdown, report.logs):
            if there.exists():
                raise Stop(f"{there} is there already, but no {report.json}: name a new report, or remove it")
        print(f"starting the report {report.json}", flush=True)
    report.logs.mkdir(parents=True, exist_ok=True)
    return report


def same_bench(report, path):
    """Refuses to continue with another bench than the one that measured before."""
    found = report.data.setdefault("bench_program", digest(path))
    if path and found != digest(path):
        raise Stop(f"{report.json} was measured by the bench {found}, and this one is {digest(path)}: name a new report")


def run(phase, checks, report, minutes):
    """Runs the checks of a phase that have not ended yet, for some minutes."""
    end = time.monotonic() + 60 * minutes
    for check in checks:
        if report.has(phase, check.name):
            print(f"done     {phase}: {check.name}, in an earlier run", flush=True)
            continue
        start = time.monotonic()
        if start >= end:
            report.note(phase, check.name, CUT_OFF, "the time of the phase was over before it began")
            continue
        report.begin(phase, check.name)
        result, remark = check.run(end - start)
        report.note(phase, check.name, result, remark, time.monotonic() - start)


def main():
    """Returns the exit code."""
    # `timeout` and a closed terminal end what runs, too; under `nohup`, a closed terminal does not.
    for request in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(request) != signal.SIG_IGN:
            signal.signal(request, lambda number, _frame: sys.exit(128 + number))
    # nvidia-smi counts GPUs in this order.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    options = arguments()
    chosen = [phase for phase in PHASES if phase in options.phases or not options.phases]
    if options.minutes <= 0:
        raise Stop(f"--minutes {options.minutes:g} is too little: pass a number above 0")
    found = gpu(options.device)
    path = program(options.device)
    measures = bench(options.device) if {"steps", "cells"} & set(chosen) else None
    # Last, so that what cannot be started leaves no folder of a report.
    report = open_report(options, path, found)
    if measures:
        same_bench(report, measures)
    precisions = [options.precision] if options.precision else list(PRECISIONS)
    checks = Checks(path, measures, options.device, options.quick, report.data["seed"], precisions, report.logs.absolute())
    phases = checks.phases()
    for phase in chosen:
        run(phase, phases[phase], report, options.minutes)
    print(f"report: {report.markdown}, {report.json}")
    bad = report.bad(chosen)
    if bad:
        again = f"scripts/gpu-check --report {report.markdown.stem}, with the same options, repeats what was cut off"
        raise Stop(
            f"{bad} of the checks failed or were cut off; their outputs are in {report.logs}. {again} (--minutes gives a phase more time); "
            "a failed check is repeated in a new report only"
        )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Stop as reason:
        print(f"gpu-check: {reason}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
