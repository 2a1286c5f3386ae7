"""What a report says of the machine and of the programs."""

import datetime
import os
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def cores():
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def field(path, name):
    """Returns the first value of a field of a file in /proc, or `unknown`."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "unknown")


def output(*command):
    """Returns what a command prints, or an empty text if it fails."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def has(isa):
    """Returns whether the processor has an instruction set, as far as the system tells."""
    flags = field("/proc/cpuinfo", "flags").split()
    needed = {"avx2": ("avx2", "fma"), "avx512": ("avx512f", "avx512vl", "avx512bw", "avx512dq")}[isa]
    return flags == ["unknown"] or all(flag in flags for flag in needed)


def processor():
    """Returns the name of the processor, with its numbers in case the name says little, and its vector instructions."""
    names = [field("/proc/cpuinfo", name) for name in ("model name", "cpu family", "model\t", "stepping")]
    flags = field("/proc/cpuinfo", "flags").split()
    vectors = [flag for flag in ("avx2", "fma", "avx512f", "avx512vl", "avx512_bf16", "amx_tile") if flag in flags]
    return "{} (family {}, model {}, stepping {}; {})".format(*names, " ".join(vectors) or "no AVX2")


def ours():
    """Returns the version of this crate and its commit."""
    with open(ROOT / "Cargo.toml", "rb") as file:
        crate = tomllib.load(file)["package"]["version"]
    commit = output("git", "describe", "--always", "--dirty", "--tags")
    return f"{crate}, {commit}" if commit else crate


def about(options):
    """Returns names and values for the head of a report."""
    compiler = output("c++", "--version").splitlines()
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": str(cores()),
        "memory": field("/proc/meminfo", "MemTotal"),
        "ptl": ours(),
        "rustc": output("rustc", "--version"),
        "PyTorch": version("torch"),
        "torchvision": version("torchvision"),
        "NumPy": version("numpy"),
        "Pillow": version("pillow"),
        "tcmalloc": Path(options.tcmalloc).resolve().name if options.tcmalloc else "none",
        "C++ compiler of torch.compile": "not used" if options.no_compile or not compiler else compiler[0],
        "pairs": str(options.pairs),
    }
