"""Our times and PyTorch's, side by side."""

WAYS = ("eager", "eager-recorded", "compiled", "compiled-recorded")

NOTES = """\
Milliseconds, the medians of ten samples. "own", "vendor" and "auto" are ours, with convolutions and cells by our kernels, by cuDNN and
cuBLASLt, and by the faster of both for each pass. A step ends when its loss has been read back; ours replays a CUDA graph, and so does
PyTorch where it says recorded. Our step also uploads the bytes of a batch and makes the network's input of them; PyTorch's images are on
the GPU already. Passes of a cell are recorded in ours. PyTorch computes in bf16 by autocast, in channels_last, with a fused optimiser and
cuDNN's benchmark mode; tf32 without autocast. "by ours" is PyTorch's time by our best: above 1, ours is faster. Images/s are of the best of
each. Memory is the most that PyTorch's tensors took in its best way."""


def lines(benches, torch):
    """Returns the lines of the comparison; `benches` and `torch` are what the two programs wrote."""
    versions = torch[0]["versions"]
    words = [f"PyTorch {versions['torch']}", f"CUDA {versions['cuda']}", f"cuDNN {versions['cudnn']}", versions["gpu"] or "CPU"]
    return [", ".join(words) + ".", "", *ceilings(benches, torch), *times(benches, torch), "", NOTES]


def ceilings(benches, torch):
    """Returns the table of a large copy and the best large product as both programs measured them."""
    table = ["| ceiling | precision | ours | PyTorch |", "|---|---|---:|---:|"]
    copies, products = {}, {}
    for part in torch:
        for row in part["rows"]:
            if row["what"] == "copy":
                copies[part["precision"]] = row["bytes_per_second"]
            if row["what"] == "product":
                products[part["precision"]] = max(row["flops_per_second"], products.get(part["precision"], 0))
    for precision in products:
        ours = [machine for machine in benches if machine["precision"] == precision]
        copy, product = (max((m[key] for m in ours), default=None) for key in ("copy_bytes_per_second", "product_flops_per_second"))
        table.append(f"| copy, GB/s | {precision} | {number(copy, 1e-9)} | {number(copies.get(precision), 1e-9)} |")
        table.append(f"| product, TFLOP/s | {precision} | {number(product, 1e-12)} | {number(products[precision], 1e-12)} |")
    return [*table, ""] if products else []


def times(benches, torch):
    """Returns the table of everything that PyTorch measured."""
    ours, theirs = {}, {}
    for machine in benches:
        for row in machine["rows"]:
            key = row["what"], row["batch"], row["pass"], machine["precision"]
            ours.setdefault(key, {})[row["convolutions"]] = 1000 * row["seconds"]
    for part in torch:
        for row in part["rows"]:
            if "milliseconds" in row:
                key = row["what"], row["batch"], row["pass"], part["precision"]
                theirs.setdefault(key, {})[part["way"]] = row
    titles = ["what", "batch", "pass", "precision", "own", "vendor", "auto", *(f"PyTorch, {way.replace('-', ', ')}" for way in WAYS)]
    titles += ["eager by ours", "best by ours", "ours, images/s", "PyTorch, images/s", "PyTorch, MiB"]
    table = [f"| {' | '.join(titles)} |", f"|{'---|' * 4}{'---:|' * (len(titles) - 4)}"]
    # Whole steps first.
    for key, ways in sorted(theirs.items(), key=lambda item: (item[0][2] != "step", item[0][3], item[0][2], item[0][1], item[0][0])):
        own = ours.get(key, {})
        best, fastest = min(own.values(), default=None), min(ways.values(), key=lambda row: row["milliseconds"])
        cells = [str(part) for part in key]
        cells += [number(own.get(by)) for by in ("own", "vendor", "auto")]
        cells += [number(ways[way]["milliseconds"]) if way in ways else "-" for way in WAYS]
        eager = ways["eager"]["milliseconds"] if "eager" in ways else None
        cells += [number(time / best if best and time else None) for time in (eager, fastest["milliseconds"])]
        cells.append(number(1000 * key[1] / best if best else None))
        cells += [number(fastest["images_per_second"]), str(fastest["peak_mib"] or "-")]
        table.append(f"| {' | '.join(cells)} |")
    return table


def number(value, unit=1.0):
    """Returns a number with three digits or more, or a dash."""
    if value is None:
        return "-"
    value *= unit
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
