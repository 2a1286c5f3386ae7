"""Does one work in PyTorch as often as it is told to: the other half of `main.rs`, with the same commands and answers.

The arguments are a work and a variant as JSON, and the number of threads.
"""

import importlib
import json
import multiprocessing
import sys
from pathlib import Path

import torch

# The module and the class of each kind of work.
KINDS = {
    "step": ("torch_networks", "Step"),
    "evaluation": ("torch_networks", "Evaluation"),
    "features": ("torch_networks", "Features"),
    "cell": ("torch_ops", "Cell"),
    "convs": ("torch_ops", "Convs"),
    "product": ("torch_ops", "Product"),
    "loading": ("torch_loading", "Loading"),
    "ranking": ("torch_ranking", "Ranking"),
    "reranking": ("torch_ranking", "Reranking"),
}


def mean(runs):
    """Returns the means of several runs, and the loss of the last."""
    result = {"seconds": sum(run["seconds"] for run in runs) / len(runs)}
    if "parts" in runs[0]:
        result["parts"] = [sum(parts) / len(runs) for parts in zip(*(run["parts"] for run in runs))]
    if "loss" in runs[0]:
        result["loss"] = runs[-1]["loss"]
    return result


def forget_peak():
    """Starts the measurement of the peak memory anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def kib(path, field):
    """Returns a field of a process's status in KiB; 0 where the system does not report it."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def peak_kib():
    """Returns the peak memory of this process, with what its loader processes do not share with it now."""
    own = kib("/proc/self/status", "VmHWM:")
    children = sum(kib(f"/proc/{child.pid}/smaps_rollup", "Pss:") for child in multiprocessing.active_children())
    return own + children or None


def say(answer):
    """Writes an answer as one line."""
    print(json.dumps(answer), flush=True)


def main():
    spec, variant, threads = json.loads(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    module, name = KINDS[spec["kind"]]
    work = getattr(importlib.import_module(module), name)(spec, variant)
    say({"ready": True, "isa": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()})
    for line in sys.stdin:
        command, *count = line.split()
        if command == "check":
            say(work.check().answer())
            forget_peak()
        elif command == "run":
            say(mean([work.run() for _ in range(int(count[0]) if count else 1)]))
        elif command == "quit":
            say({"peak_kib": peak_kib()})
            return


if __name__ == "__main__":
    main()
