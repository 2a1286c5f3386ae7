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

from phases import ROOT, Machine
from report import CUT_OFF, Report

PRECISIONS = ("bf16", "tf32", "f32")
PHASES = ("selftest", "selftest-vendor", "train", "steps", "cells", "pytorch", "memcheck", "racecheck", "initcheck", "synccheck")
ABOUT = """\
Checks and measures the program on this machine's GPU, and writes a report.

phases, in their order:
  selftest         compares every op, update rule and a training step with the CPU, by our own kernels
  selftest-vendor  the same with the convolutions of cuDNN and cuBLASLt
  train            the demo learns
  steps            the bench: whole training steps, ops, and the convolutions of ResNet-50, by our own kernels and by the vendor's libraries
  cells            the bench: each BConv-Cell, fused and not, by our own kernels and by the vendor's libraries
  pytorch          PyTorch on this machine: steps and cells, eager and compiled
  memcheck, racecheck, initcheck, synccheck
                   our own kernels under compute-sanitizer
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
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["it printed nothing"]
        raise Stop(f"{' '.join(str(part) for part in command)} failed: {lines[-1]}")
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


def program(device):
    """Returns the path of ptl-train, which is built if it is missing."""
    named = os.environ.get("PTL_BIN")
    path = Path(named or Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "release" / "ptl-train").absolute()
    if os.access(path, os.X_OK) and path.is_file():
        return path
    if named:
        raise Stop(f"PTL_BIN={named} is no program")
    if not shutil.which("cargo"):
        raise Stop(f"there is no {path} and no cargo to build it; name a ptl-train in PTL_BIN")
    features = [] if device == "cuda" else ["--features", "emulator"]
    subprocess.run(["cargo", "build", "--release", "--locked", "--bin", "ptl-train", *features], check=True)
    return path


def bench():
    """Returns the path of the bench `kernels`, which is built if there is cargo; None without it."""
    named = os.environ.get("PTL_BENCH")
    if named:
        path = Path(named).absolute()
        if not (os.access(path, os.X_OK) and path.is_file()):
            raise Stop(f"PTL_BENCH={named} is no program")
        return path
    if not shutil.which("cargo"):
        return None
    command = ["cargo", "bench", "--locked", "--no-run", "--bench", "kernels", "--message-format=json"]
    built = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    found = [message for message in map(json.loads, built) if message.get("target", {}).get("name") == "kernels"]
    return Path(next(message["executable"] for message in found if message.get("executable")))


def commit():
    """Returns the commit of the checkout."""
    try:
        return output("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (Stop, OSError):
        return "unknown"


def open_report(options, path):
    """Starts a report, or continues one of the same GPU and the same program."""
    folder = options.out or Path("docs/measurements" if options.device == "cuda" else "target/gpu-check")
    name, driver = gpu(options.device)
    same = {
        "device": options.device,
        "gpu": name,
        "driver": driver,
        "quick": options.quick,
        "precision": options.precision,
        "program": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
    }
    title = options.report or f"{datetime.now(timezone.utc):%Y-%m-%d-%H%M}-{re.sub('[^a-z0-9]+', '-', name.lower())}"
    if options.report and (folder / f"{title}.json").exists():
        report = Report.read(folder, title)
        if not report.logs.is_dir():
            raise Stop(f"{report.logs} with the outputs of earlier checks is missing: put it beside {report.json}, or name a new report")
        for key, value in same.items():
            if report.data[key] != value:
                raise Stop(f"{report.json} has the {key} {report.data[key]}, not {value}: name a new report")
        if options.seed not in (None, report.data["seed"]):
            raise Stop(f"{report.json} has the seed {report.data['seed']}, not {options.seed}: leave out --seed, or name a new report")
        print(f"continuing the report {report.json}", flush=True)
    else:
        seed = int(time.time()) if options.seed is None else options.seed
        head = {**same, "seed": seed, "commit": options.commit or commit(), "info": output(path, "info")}
        report = Report(folder, title, head)
        print(f"starting the report {report.json}", flush=True)
    report.logs.mkdir(parents=True, exist_ok=True)
    return report


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
    # `timeout` and a closed terminal end what runs, too.
    for request in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(request, lambda number, _frame: sys.exit(128 + number))
    options = arguments()
    chosen = [phase for phase in PHASES if phase in options.phases or not options.phases]
    os.chdir(ROOT)
    path = program(options.device)
    report = open_report(options, path)
    measures = bench() if {"steps", "cells"} & set(chosen) else None
    precisions = [options.precision] if options.precision else list(PRECISIONS)
    machine = Machine(path, measures, options.device, options.quick, report.data["seed"], precisions, report.logs.absolute())
    phases = machine.phases()
    for phase in chosen:
        run(phase, phases[phase], report, options.minutes)
    print(f"report: {report.markdown}, {report.json}")
    bad = report.bad(chosen)
    if bad:
        again = f"scripts/gpu-check --report {report.markdown.stem}"
        raise Stop(f"{bad} checks failed or were cut off; {again}, with the same options, runs again what was cut off")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Stop as reason:
        print(f"gpu-check: {reason}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.CalledProcessError as error:
        print(f"gpu-check: {' '.join(error.cmd)} failed", file=sys.stderr)
        sys.exit(1)
