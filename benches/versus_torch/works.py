"""The works by which the two programs are compared, as both get them in JSON."""

from dataclasses import dataclass, field
from fnmatch import fnmatch

ALL_LAYERS = "every layer by itself, as often as the network has it"


@dataclass
class Work:
    """A work: its name, what it is in words, and its description for both programs."""

    name: str
    about: str
    spec: dict
    # The largest relative difference of the numbers that are checked.
    tolerance: float = 1e-4
    # What `inputs.py` writes.
    inputs: dict = field(default_factory=dict)
    only_on_request: bool = False


def step(name, arch, task, size, batch, classes, optimizer="sgd", per_id=1):
    """Returns a training step on random images."""
    adam, reid, mgn = optimizer == "adam", task == "reid", arch.startswith("mgn")
    spec = {
        "kind": "step",
        "task": task,
        "arch": arch,
        "size": size,
        "batch": batch,
        "images_per_id": per_id,
        "classes": classes,
        "optimizer": optimizer,
        # The gradient of an untrained MGN has a norm above 100. After two larger steps, even the losses of PyTorch's own
        # variants differ by 1 %.
        "lr": (2e-5 if adam else 1e-5) if mgn else 1e-3,
        "weight_decay": 5e-4 if reid else 1e-4,
        "label_smoothing": 0.0 if reid else 0.1,
        "margin": 1.2 if mgn else 0.3,
    }
    how = "Adam with AMSGrad" if adam else "SGD with momentum"
    about = f"training step of {arch}, {batch} images of {size[0]}x{size[1]}, {how}"
    return Work(name, about, spec, inputs={"images": [batch, *size], "per_id": per_id, "classes": classes})


def inference(name, kind, arch, task, size, batch, classes, about):
    """Returns the evaluation of a network on random images."""
    spec = {"kind": kind, "arch": arch, "task": task, "classes": classes}
    about = f"{about} of {arch}, {batch} images of {size[0]}x{size[1]}"
    return Work(name, about, spec, inputs={"images": [batch, *size], "per_id": 1, "classes": classes})


def cells(batch):
    """Returns the evaluation and the training of each cell of MGN_PTL at 384x128."""
    sizes = [
        ([384, 128], 3, 16, 2),
        ([192, 64], 16, 32, 2),
        ([96, 32], 64, 64, 1),
        ([96, 32], 128, 256, 2),
        ([48, 16], 256, 512, 2),
        ([24, 8], 512, 128, 2),
        ([24, 8], 512, 128, 1),
        ([24, 8], 512, 128, 1),
    ]
    for train in (False, True):
        for number, (size, inputs, channels, stride) in enumerate(sizes, start=1):
            spec = {
                "kind": "cell",
                "batch": batch,
                "size": size,
                "inputs": inputs,
                "channels": channels,
                "stride": stride,
                "train": train,
                "input_gradient": train and inputs > 3,
            }
            what = "forward and backward" if train else "forward"
            geometry = f"{batch} maps of {size[0]}x{size[1]}x{inputs} to {channels} channels, stride {stride}"
            about = f"cell {number} of MGN_PTL, {what}: {geometry}"
            yield Work(f"cell-{number}-{'train' if train else 'eval'}", about, spec, inputs={"pool": True})


def resnet50_layers(size):
    """Returns the convolutions of ResNet-50 with stride 1 in the last stage, equal ones together."""
    layers = {}

    def add(name, size, inputs, outputs, kernel, stride):
        key = (tuple(size), inputs, outputs, kernel, stride)
        layer = {"name": name, "size": size, "inputs": inputs, "outputs": outputs, "kernel": kernel, "stride": stride}
        layers.setdefault(key, {**layer, "count": 0})["count"] += 1
        return [(side - 1) // stride + 1 for side in size]

    size = [side // 2 for side in add("conv1", size, 3, 64, 7, 2)]
    inputs = 64
    for stage, (width, blocks, first_stride) in enumerate([(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 1)], start=1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", first_stride if block == 0 else 1
            if block == 0:
                add(f"{name}.downsample", size, inputs, 4 * width, 1, stride)
            add(f"{name}.conv1", size, inputs, width, 1, 1)
            inner = add(f"{name}.conv2", size, width, width, 3, stride)
            size = add(f"{name}.conv3", inner, width, 4 * width, 1, 1)
            inputs = 4 * width
    return list(layers.values())


def convs(batch):
    """Returns the three passes of the convolutions of ResNet-50; images need no gradient."""
    names = {"forward": "forward", "data": "gradient of the input", "weight": "gradient of the weight"}
    for pass_, words in names.items():
        layers = [layer for layer in resnet50_layers([256, 128]) if pass_ != "data" or layer["inputs"] > 3]
        spec = {"kind": "convs", "pass": pass_, "batch": batch, "layers": layers}
        about = f"convolutions of ResNet-50, {batch} images of 256x128, {words}, {ALL_LAYERS}"
        yield Work(f"convs-{pass_}", about, spec, inputs={"pool": True})


def loading(name, transform, stored, size, count, threads):
    """Returns an epoch over JPEG files."""
    spec = {"kind": "loading", "transform": transform, "size": size, "count": count, "batch": 16, "workers": threads}
    about = (
        f"{count} JPEGs of {stored[1]}x{stored[0]} to normalised batches of 16x{size[0]}x{size[1]}, {threads} workers"
    )
    # The decoders round differently.
    return Work(name, about, spec, tolerance=0.03, inputs={"jpegs": [count, *stored]})


def ranking(name, kind, queries, gallery, dim, identities, only_on_request=False):
    """Returns the ranking or re-ranking of random features around one centre for each identity."""
    about = "distances, CMC and mAP" if kind == "ranking" else "distances re-ranked by k-reciprocal encoding"
    about = f"{about}, {queries} queries and {gallery} gallery images, {dim} numbers each"
    features = {"features": [queries, gallery, dim, identities]}
    # The usual code re-ranks in f32, where neighbours at nearly the same distance may change places.
    tolerance = 1e-4 if kind == "ranking" else 2e-3
    return Work(name, about, {"kind": kind}, tolerance, features, only_on_request)


def all_works(threads, quick):
    """Returns every work; the quick ones have less to load and to rank."""
    market = (336, 1591, 512, 75) if quick else (3368, 15913, 2048, 750)
    jpegs = 64 if quick else 512
    return [
        step("step-resnet50", "resnet50", "classify", [224, 224], 16, 1000),
        step("step-resnet18", "resnet18", "classify", [224, 224], 16, 1000),
        step("step-resnet50-reid", "resnet50", "reid", [256, 128], 16, 751, per_id=4),
        step("step-mgn", "mgn", "reid", [384, 128], 16, 751, per_id=4),
        step("step-mgn-ptl", "mgn-ptl", "reid", [384, 128], 16, 751, "adam", per_id=4),
        step("step-cifar-resnet20", "cifar-resnet20", "classify", [32, 32], 64, 10),
        inference("evaluation-resnet50", "evaluation", "resnet50", "classify", [224, 224], 16, 1000, "logits"),
        inference("features-mgn-ptl", "features", "mgn-ptl", "reid", [384, 128], 8, 751, "features with mirror images"),
        *cells(16),
        *convs(16),
        Work(
            "product", "product of two matrices of 2048x2048", {"kind": "product", "side": 2048}, inputs={"pool": True}
        ),
        loading("loader-photos", "classify", [375, 500], [224, 224], jpegs, threads),
        loading("loader-pedestrians", "reid", [128, 64], [384, 128], 4 * jpegs, threads),
        ranking("ranking", "ranking", *market),
        ranking("reranking", "reranking", 500, 2500, 512, 100),
        ranking("reranking-market", "reranking", *market, only_on_request=True),
    ]


def chosen(works, patterns):
    """Returns the works whose names match one of the patterns; without patterns all but those on request."""
    if not patterns:
        return [work for work in works if not work.only_on_request]
    return [work for work in works if any(fnmatch(work.name, pattern) for pattern in patterns)]
