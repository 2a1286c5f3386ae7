"""Measures PyTorch on this machine's GPU, for `scripts/gpu-check`; needs no package but PyTorch.

    python3 torch_gpu.py --what mgn-ptl|resnet50|cells|ceilings --way WAY --precision bf16|tf32 --batch N --json FILE

A way is `eager` or `compiled`, or one of them with `-recorded`: recorded as a CUDA graph and replayed, as our own passes are. With
`--tiny`, everything runs at tiny sizes on the CPU, which shows that the program works; its times mean nothing.

A step ends when its loss has been read back. Cells make ten passes in a row. Times are the medians of ten samples, after warming up.
"""

import argparse
import contextlib
import gc
import json
import os
import statistics
import time
from pathlib import Path

import torch

import works
from networks import BConvCell, build
from training import optimizer, total_loss, train_cell

WAYS = ("eager", "eager-recorded", "compiled", "compiled-recorded")
SIZES = {"mgn-ptl": [384, 128], "resnet50": [256, 128]}
CLASSES = 751
# Bytes of a tensor that is copied, and the sizes of products: rows, inner, columns.
COPY = 1_500_000_000
PRODUCTS = ((8192, 4096, 4096), (8192, 8192, 8192))


class Options:
    """How everything is measured."""

    def __init__(self, arguments):
        self.tiny, self.way = arguments.tiny, arguments.way
        self.compile, self.record = self.way.startswith("compiled"), self.way.endswith("recorded")
        self.bf16 = arguments.precision == "bf16"
        self.device = "cpu" if self.tiny else "cuda"
        self.samples, self.warm_up = (1, 1) if self.tiny else (10, 3)

    def arithmetic(self):
        """Returns the context that products and convolutions are computed in; tf32 is a setting of the whole program."""
        return torch.autocast(self.device, torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def compiled(self, module):
        """Returns the module compiled, if that is the way. Nothing falls back to eager without an error."""
        if not self.compile:
            return module
        torch._dynamo.reset()
        # The rehearsal does all but the generation of code, which takes minutes on a CPU.
        return torch.compile(module, fullgraph=True, dynamic=False, backend="aot_eager" if self.tiny else "inductor")

    def wait(self):
        """Waits for the GPU."""
        if not self.tiny:
            torch.cuda.synchronize()

    def recorded(self, run):
        """Returns what replays `run` from a CUDA graph, if that is the way."""
        if not self.record:
            return run
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(self.warm_up):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()

        def replay():
            graph.replay()
            return result

        return replay

    def milliseconds(self, run, passes):
        """Returns the median time of `run` in milliseconds, measured over `passes` in a row."""
        for _ in range(self.warm_up):
            run()
        samples = []
        for _ in range(self.samples):
            self.wait()
            start = time.perf_counter()
            for _ in range(passes):
                run()
            self.wait()
            samples.append((time.perf_counter() - start) / passes)
        return 1000 * statistics.median(samples)

    def random(self, *shape):
        """Returns activations from [-1, 1), in the memory format and the type that the layer before would have given them."""
        kind = torch.bfloat16 if self.bf16 else torch.float32
        numbers = 2 * torch.rand(shape, device=self.device) - 1
        return numbers.to(kind, memory_format=torch.channels_last)


def step(options, arch, batch):
    """Returns a training step."""
    size, per_id = ([96, 32], 2) if options.tiny else (SIZES[arch], 4)
    spec = works.step(arch, arch, "reid", size, batch, CLASSES, "adam", per_id).spec
    network, _ = build(arch, "reid", CLASSES)
    network = network.to(options.device, memory_format=torch.channels_last).train()
    images = torch.rand(batch, 3, *size, device=options.device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=options.device) // per_id
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    more = {} if options.tiny else {"fused": True, "capturable": options.record}
    update = optimizer(parameters, spec, **more)
    # Gives every cell a latent state, so that the first pass is like all others.
    with options.arithmetic(), torch.no_grad():
        network(images)
    network = options.compiled(network)

    def run():
        update.zero_grad(set_to_none=True)
        with options.arithmetic():
            loss = total_loss(*network(images), labels, spec)
        loss.backward()
        update.step()
        return loss.detach()

    run = options.recorded(run)

    def read_back():
        loss = run().item()
        if loss != loss:
            raise SystemExit(f"the loss of {arch} is not a number")

    return read_back


def cell(options, spec):
    """Returns a pass of a cell. As in our own measurement, the first cell computes the gradient of the images too."""
    (height, width), stride, batch = spec["size"], spec["stride"], spec["batch"]
    inputs, channels = spec["inputs"], spec["channels"]
    if options.tiny:
        height, width, inputs, channels = (-(-number // 16) for number in (height, width, inputs, channels))
    plain = BConvCell(inputs, channels, stride).to(options.device, memory_format=torch.channels_last)
    output = [batch, channels, (height - 1) // stride + 1, (width - 1) // stride + 1]
    plain.latent_state = options.random(*output)
    x, cotangent = options.random(batch, inputs, height, width), options.random(*output)
    if spec["train"]:
        x.requires_grad_()
    module = options.compiled(plain)

    def run():
        with options.arithmetic():
            if spec["train"]:
                return train_cell(module, plain.gates.weight, x, cotangent)
            with torch.no_grad():
                return module(x)

    return options.recorded(run)


def cells(options, batch):
    """Measures the cells of MGN_PTL, forward, and forward and backward."""
    for work in works.cells(batch):
        what = " ".join(work.name.split("-")[:2])
        pass_ = "training" if work.spec["train"] else "evaluation"
        passes = 1 if options.tiny else 10
        yield measured(options, lambda: cell(options, work.spec), what, batch, pass_, passes)


def measured(options, prepare, what, batch, pass_, passes):
    """Measures what `prepare` returns, and the most memory that PyTorch's tensors took meanwhile."""
    gc.collect()
    if not options.tiny:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    milliseconds = options.milliseconds(prepare(), passes)
    row = {"what": what, "batch": batch, "pass": pass_, "milliseconds": milliseconds}
    row["images_per_second"] = 1000 * batch / milliseconds
    row["peak_mib"] = None if options.tiny else torch.cuda.max_memory_allocated() >> 20
    return row


def ceilings(options):
    """Measures a large copy and large products."""
    count = 1000 if options.tiny else COPY // 4
    source = torch.rand(count, device=options.device)
    target = torch.empty_like(source)
    milliseconds = options.milliseconds(lambda: target.copy_(source), 10)
    yield {"what": "copy", "bytes_per_second": 8 * count / milliseconds * 1000}
    for rows, inner, columns in ((64, 32, 32),) if options.tiny else PRODUCTS:
        kind = torch.bfloat16 if options.bf16 else torch.float32
        a, b = (torch.rand(*shape, device=options.device).to(kind) for shape in ((rows, inner), (inner, columns)))
        c = torch.empty(rows, columns, device=options.device, dtype=kind)
        milliseconds = options.milliseconds(lambda: torch.mm(a, b, out=c), 10)
        flops = 2 * rows * inner * columns / milliseconds * 1000
        yield {"what": "product", "sizes": [rows, inner, columns], "flops_per_second": flops}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", required=True, choices=("ceilings", *SIZES, "cells"))
    parser.add_argument("--way", default="eager", choices=WAYS)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "tf32"))
    parser.add_argument("--batch", type=int, default=16, help="images of a step or a pass of a cell; default: 16")
    parser.add_argument("--json", required=True, type=Path)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on the CPU")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        raise SystemExit(f"PyTorch {torch.__version__} finds no GPU: install a build for CUDA, or pass --tiny to rehearse")
    options = Options(arguments)
    if options.record and options.tiny:
        raise SystemExit("a CPU has no CUDA graphs to record: leave out --tiny, or choose another way")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(0)
    gpu = None if options.tiny else torch.cuda.get_device_name()
    cudnn = None if options.tiny else torch.backends.cudnn.version()
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": cudnn, "gpu": gpu}
    report = {"versions": versions, "way": arguments.way, "precision": arguments.precision, "rows": []}
    if arguments.what == "ceilings":
        found = ceilings(options)
    else:
        arch, batch = arguments.what, arguments.batch
        of_step = (measured(options, lambda: step(options, arch, batch), arch, batch, "step", passes=1) for _ in range(1))
        found = cells(options, batch) if arch == "cells" else of_step
    part = arguments.json.with_suffix(".part")
    for row in found:
        report["rows"].append(row)
        part.write_text(json.dumps(report, indent=2) + "\n")
        os.replace(part, arguments.json)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
