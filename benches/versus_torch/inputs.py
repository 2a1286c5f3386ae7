"""Writes the inputs of a work, which both programs read: images, random numbers, features, or JPEG files."""

import shutil

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

POOL = 1 << 22


def write(work, folder):
    """Writes the inputs of `work` to `folder`, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    inputs = work.inputs
    if "images" in inputs:
        save(folder, images(random, inputs["images"], inputs["per_id"], inputs["classes"]))
    elif "pool" in inputs:
        save(folder, {"pool": random.uniform(-1, 1, POOL).astype(np.float32)})
    elif "features" in inputs:
        save(folder, features(random, *inputs["features"]))
    elif "jpegs" in inputs:
        write_jpegs(random, folder / "images", *inputs["jpegs"])


def save(folder, tensors):
    """Writes tensors by name."""
    save_file(tensors, folder / "inputs.safetensors")


def smooth(random, height, width):
    """Returns an image of soft colours with some noise."""
    coarse = random.integers(0, 256, (6, 4, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return np.clip(image + random.integers(-12, 13, image.shape), 0, 255).astype(np.uint8)


def images(random, shape, per_id, classes):
    """Returns a batch of bytes and its labels: neighbours are of one identity."""
    count, height, width = shape
    labels = np.arange(count, dtype=np.int64) // per_id % classes
    return {"pixels": np.stack([smooth(random, height, width) for _ in range(count)]), "labels": labels}


def features(random, queries, gallery, dim, identities):
    """Returns features of unit length around one centre for each identity, with identities and cameras."""
    centres = random.uniform(-1, 1, (identities, dim)).astype(np.float32)
    tensors = {}
    for name, count in (("query", queries), ("gallery", gallery)):
        pids = random.integers(0, identities, count)
        rows = centres[pids] + random.uniform(-4, 4, (count, dim)).astype(np.float32)
        tensors[f"{name}.features"] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        tensors[f"{name}.pids"] = pids
        tensors[f"{name}.camids"] = random.integers(0, 6, count)
    return tensors


def write_jpegs(random, folder, count, height, width):
    """Writes images as JPEG files, numbered from 0."""
    folder.mkdir()
    for i in range(count):
        Image.fromarray(smooth(random, height, width)).save(folder / f"{i}.jpg", quality=90)
