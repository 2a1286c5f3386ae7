"""The report: a document in Markdown, and a table for the terminal."""

import math
import statistics

NOTES = """\
Each work is done by processes with the same weights and inputs, which stay warm and work in turn. Before anything is timed, losses,
gradients or outputs of every variant are compared with ours; a difference beyond rounding is an error. A time is the median of the runs,
with the smallest and the largest. Works that take less than 0.3 s are repeated within a run; one that takes more than 30 s in PyTorch runs
once. **A ratio is PyTorch's time by ours: above 1, ours is faster.** The three programs, ours, plain and best, run in turn, each of them
first in turn.

*plain* is PyTorch as most people write it: the default memory format, the default optimiser, the system's allocator. *best* is the fastest
of these, found by a run of each: default format or channels_last, the fused optimiser, tcmalloc, in evaluation TorchScript with frozen
weights, and, where a C++ compiler is named above, `torch.compile` (with frozen weights in evaluation). For re-ranking and ranking, plain is
the usual NumPy code, and best may use PyTorch's sorts; for loading, plain is PIL, and best may be torchvision's decoder and transforms of
tensors. Peak memory is the largest resident memory of a process during the runs: what setting up needed and gave back is left out, the
program itself with its libraries is not. For loaders, the processes' own part is added.

A step of ours also normalises its images from bytes, counts hits and measures the norm of the gradient, and an evaluation of ours
normalises its images from bytes, which PyTorch's does not do. Cells of ours compute the forget gate from the first batch on; PyTorch's
leave it out while there is no state. Single convolutions of ours write into memory that exists, PyTorch's allocate their results.
"""
HEADER = [
    "work",
    "ours, s",
    "plain, s",
    "best, s",
    "best variant",
    "ratio to plain",
    "ratio to best",
    "peak, MiB: ours / plain / best",
]


def times(seconds):
    """Returns the median and the spread of times."""
    text = f"{statistics.median(seconds):.4g}"
    return text if len(seconds) == 1 else f"{text} ({min(seconds):.4g}-{max(seconds):.4g})"


def mebibytes(kib):
    """Returns a number of KiB in MiB."""
    return f"{kib / 1024:.0f}" if kib else "?"


def row(result):
    """Returns the cells of a work."""
    if result.error:
        return [result.work.name, f"FAILED: {result.error}", *[""] * (len(HEADER) - 2)]
    if result.best is None:
        return [
            result.work.name,
            f"numbers agree (largest relative difference {result.difference:.1e})",
            *[""] * (len(HEADER) - 2),
        ]
    plain, best = result.plain, result.best
    peaks = [best.peaks_kib[0], plain.peaks_kib[1], best.peaks_kib[1]]
    return [
        result.work.name,
        times(best.ours),
        times(plain.theirs),
        times(best.theirs),
        str(best.variant),
        f"{plain.ratio():.2f}",
        f"{best.ratio():.2f}",
        " / ".join(map(mebibytes, peaks)),
    ]


def means(results):
    """Returns lines with the geometric means of the ratios of works whose names begin alike."""
    groups = {}
    for result in results:
        if result.best is not None and group(result.work):
            groups.setdefault(group(result.work), []).append(result)
    lines = []
    for name, members in groups.items():
        if len(members) > 1:
            plain, best = (
                math.exp(statistics.fmean(math.log(series.ratio()) for series in of))
                for of in ([r.plain for r in members], [r.best for r in members])
            )
            lines.append(f"- {name}: {plain:.2f} to plain, {best:.2f} to best")
    return lines


def group(work):
    """Returns the name of the works that are like this one, or `None`."""
    if work.spec["kind"] == "cell":
        return "cells, training" if work.spec["train"] else "cells, evaluation"
    return {"step": "steps", "convs": "convolutions", "loading": "loaders"}.get(work.spec["kind"])


def markdown(header, rows):
    """Returns a table in Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows]]
    return "\n".join(line.replace("\n", " ") for line in lines)


def layers(result):
    """Returns a table of the layers of a pass of convolutions."""
    best = result.best
    columns = [[statistics.median(parts) for parts in zip(*runs)] for runs in (best.our_parts, best.their_parts)]
    rows = []
    for layer, ours, theirs in zip(result.work.spec["layers"], *columns):
        h, w = ((side - 1) // layer["stride"] + 1 for side in layer["size"])
        products = h * w * layer["inputs"] * layer["outputs"] * layer["kernel"] ** 2
        rates = [f"{2e-9 * result.work.spec['batch'] * products / seconds:.0f}" for seconds in (ours, theirs)]
        sizes = f"{layer['size'][0]}x{layer['size'][1]}x{layer['inputs']} to {layer['outputs']}"
        kernel = f"{layer['kernel']}x{layer['kernel']}, stride {layer['stride']}"
        cells = [layer["name"], sizes, kernel, str(layer["count"]), f"{1e3 * ours:.3g}", f"{1e3 * theirs:.3g}"]
        rows.append([*cells, *rates, f"{theirs / ours:.2f}"])
    header = ["layer", "sizes", "kernel", "count", "ours, ms", "best, ms", "ours, GFLOP/s", "best, GFLOP/s", "ratio"]
    return f"### {result.work.name} ({best.variant})\n\n{markdown(header, rows)}"


def title(isa, threads):
    """Returns the heading of a section."""
    return f"{threads} {'thread' if threads == 1 else 'threads'}, instruction set {isa}"


def document(about, sections, chosen, every):
    """Returns the whole report in Markdown. `chosen` is the number of works that the last section will have, of all in `every`."""
    parts = ["# The CPU path against PyTorch", "Written by `benches/versus_torch/run`."]
    parts += ["\n".join(f"- {name}: {value}" for name, value in about.items()), NOTES.strip()]
    for isa, threads, results in sections:
        parts += [f"## {title(isa, threads)}", markdown(HEADER, map(row, results))]
        if lines := means(results):
            parts += ["Geometric means of the ratios:", "\n".join(lines)]
        names = {result.work.name for result in results}
        if left_out := [work.name for work in every if work.name not in names] if len(results) == chosen else []:
            parts += ["Not measured: " + ", ".join(left_out) + "."]
        parts += ["\n".join(f"- {result.work.name}: {result.work.about}" for result in results)]
        parts += [layers(result) for result in results if result.best is not None and result.best.our_parts[0]]
    return "\n\n".join(parts) + "\n"


def terminal(sections):
    """Returns tables for the terminal."""
    parts = []
    for isa, threads, results in sections:
        rows = [HEADER, *map(row, results)]
        widths = [max(len(cells[i]) for cells in rows if cells[2] or i == 0) for i in range(len(HEADER))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip() for cells in rows]
        parts += [title(isa, threads), "\n".join(lines), "\n".join(means(results))]
    return "\n\n".join(part for part in parts if part)
