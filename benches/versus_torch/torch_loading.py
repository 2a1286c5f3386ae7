"""Loader processes: from JPEG files to normalised batches."""

import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode, v2

from torch_check import Check
from torch_networks import MEAN, STD

# Images of a check.
CHECKED = 4


class Images(Dataset):
    """Numbered JPEG files, as PIL images or as tensors of bytes, transformed."""

    def __init__(self, folder, count, tensors, transform):
        self.paths = [str(folder / f"{i}.jpg") for i in range(count)]
        self.tensors, self.transform = tensors, transform

    def __len__(self):
        return len(self.paths)

    def open(self, index):
        if self.tensors:
            return decode_image(self.paths[index], ImageReadMode.RGB)
        with open(self.paths[index], "rb") as file:
            return Image.open(file).convert("RGB")

    def __getitem__(self, index):
        return self.transform(self.open(index)), 0


def augmentation(transform, size, tensors):
    """Returns the usual augmentation of a classifier's or of a re-identification network's images."""
    t = v2 if tensors else v1
    last = [v2.ToDtype(torch.float32, scale=True)] if tensors else [v1.ToTensor()]
    last.append(t.Normalize(MEAN, STD))
    if transform == "classify":
        return t.Compose([t.RandomResizedCrop(size), t.RandomHorizontalFlip(), *last])
    whole = t.Resize(size, InterpolationMode.BICUBIC)
    return t.Compose([whole, t.RandomHorizontalFlip(), *last, t.RandomErasing(p=0.5)])


class Loading:
    """Epochs over a folder of images, by processes that stay."""

    def __init__(self, spec, variant):
        tensors, size = variant["style"] == "tensors", tuple(spec["size"])
        transform = augmentation(spec["transform"], size, tensors)
        self.images = Images(Path(spec["folder"]) / "images", spec["count"], tensors, transform)
        mode = InterpolationMode.BILINEAR if spec["transform"] == "classify" else InterpolationMode.BICUBIC
        self.whole = (v2 if tensors else v1).Resize(size, mode)
        workers = {"num_workers": spec["workers"], "persistent_workers": True}
        self.loader = DataLoader(self.images, batch_size=spec["batch"], **workers)

    def load(self):
        return sum(len(images) for images, _ in self.loader)

    def check(self):
        """Compares whole images at the network's size, because the two programs augment by other random numbers."""
        check = Check()
        check.scalar("images", self.load())
        for i in range(min(CHECKED, len(self.images))):
            image = self.whole(self.images.open(i))
            pixels = image.permute(1, 2, 0).numpy() if self.images.tensors else np.asarray(image)
            check.tensor(f"image {i}", pixels.astype(np.float32))
        return check

    def run(self):
        start = time.perf_counter()
        self.load()
        return {"seconds": time.perf_counter() - start}
