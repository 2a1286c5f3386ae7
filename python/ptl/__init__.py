"""Features of models that were fine-tuned by ptl, rankings, and the program ptl-train.

    import ptl

    model = ptl.Model.load("runs/mine")
    features = model.embed(["a.jpg", "b.jpg"])          # float32 [2, dim], of unit length
    report = ptl.rank(query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras)
    print(report["mAP"], report["cmc"][0])

Everything is computed by the Rust crate ptl: the numbers are those of the program.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from typing import Any, Iterable, Mapping, Sequence, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _ptl
from ._ptl import Error, __version__

__all__ = ["Error", "Model", "rank", "rerank", "__version__"]

Image = Union[str, os.PathLike, NDArray[np.uint8]]


class Model:
    """A trained model. Load it by :meth:`load`."""

    def __init__(self, inner: _ptl.Model) -> None:
        self._inner = inner

    @staticmethod
    def load(path: str | os.PathLike, settings: Mapping[str, Any] | None = None) -> "Model":
        """Load a run, a checkpoint, or a file of another program (.safetensors, PyTorch's .pth).

        ``settings`` are keys as in a run's config.toml, for example ``{"eval.flip": False, "device": "cpu"}``; a file of another program
        needs ``{"model.arch": ...}``. Raises :class:`Error`.
        """
        return Model(_ptl.Model.load(os.fspath(path), [(key, _text(value)) for key, value in (settings or {}).items()]))

    def embed(self, images: Iterable[Image]) -> NDArray[np.float32]:
        """Return the features of images, ``[n, dim]``, each of unit length: those that ``ptl-train extract`` writes.

        An image is the path of a file, or an array of ``uint8``: RGB ``[height, width, 3]`` or grey ``[height, width]``. Raises :class:`Error`.
        """
        return self._run(images, False)

    def predict(self, images: Iterable[Image]) -> NDArray[np.float32]:
        """Return the probabilities of the classes of a classifier, ``[n, classes]``; images as for :meth:`embed`. Raises :class:`Error`."""
        if self.settings["task"] != "classify":
            raise Error("the model is for re-identification and predicts no classes: take its features with embed")
        return self._run(images, True)

    def _run(self, images: Iterable[Image], probabilities: bool) -> NDArray[np.float32]:
        if isinstance(images, (str, bytes, os.PathLike, np.ndarray)):
            raise TypeError("images must be a list of paths or arrays: write [image] for one image")
        values, dim = self._inner.run([_image(image, i) for i, image in enumerate(images)], probabilities)
        return np.frombuffer(values, np.float32).reshape(-1, dim)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the model, as in a run's config.toml."""
        return tomllib.loads(self._inner.settings())

    @property
    def class_names(self) -> list[str]:
        """The names of the training classes or identities, in the order of :meth:`predict`; empty if the file has none."""
        return self._inner.class_names()

    @property
    def device(self) -> str:
        """The name of the device that computes."""
        return self._inner.device()

    def __repr__(self) -> str:
        model = self.settings["model"]
        size = f"{model['height']}x{model['image_width']}"
        return f"<ptl.Model {model['arch']}, images of {size}, {self._inner.class_count()} classes, {self.device}>"


def rank(
    query: ArrayLike,
    gallery: ArrayLike,
    query_ids: Sequence[int],
    gallery_ids: Sequence[int],
    query_cameras: Sequence[int] | None = None,
    gallery_cameras: Sequence[int] | None = None,
    max_rank: int = 100,
) -> dict[str, Any]:
    """Rank the gallery by Euclidean distance for each query, and return the measures.

    ``query`` and ``gallery`` are features ``[n, dim]``. With cameras, gallery images of the query's identity by its camera do not count (the protocol
    of Market-1501); without, all count. The result has ``mAP``, ``mINP`` (shares, not percent), ``cmc`` (``cmc[0]`` is rank 1), ``valid_queries``,
    ``skipped_queries`` and ``per_query``. Raises :class:`Error`.
    """
    if (query_cameras is None) != (gallery_cameras is None):
        raise ValueError("give the cameras of both query and gallery, or of neither")
    features, dim = _pair(query, gallery)
    keep = query_cameras is None
    if query_cameras is None or gallery_cameras is None:
        query_cameras, gallery_cameras = [0] * len(query_ids), [0] * len(gallery_ids)
    labels = [(_integers(ids), _integers(cameras)) for ids, cameras in [(query_ids, query_cameras), (gallery_ids, gallery_cameras)]]
    return json.loads(_ptl.rank(features, dim, labels, keep, max_rank))


def rerank(
    query: ArrayLike, gallery: ArrayLike, k1: int = 20, k2: int = 6, lambda_value: float = 0.3, variant: str = "zhong"
) -> NDArray[np.float32]:
    """Return distances re-ranked by k-reciprocal neighbours (Zhong et al., CVPR 2017), ``[queries, gallery]``.

    ``variant`` is the published implementation whose numbers are matched: "zhong", "ptl" or "torchreid". Raises :class:`Error`.
    """
    features, dim = _pair(query, gallery)
    values = _ptl.rerank(features, dim, (k1, k2), lambda_value, variant)
    return np.frombuffer(values, np.float32).reshape(len(np.asarray(query)), -1)


def _pair(query: ArrayLike, gallery: ArrayLike) -> tuple[list[bytes], int]:
    arrays = [np.ascontiguousarray(features, np.float32) for features in (query, gallery)]
    shapes = [array.shape for array in arrays]
    if any(len(shape) != 2 for shape in shapes) or shapes[0][1] != shapes[1][1] or shapes[0][1] == 0:
        raise ValueError(f"features must be [n, dim] with the same dim, not {shapes[0]} and {shapes[1]}")
    return [array.tobytes() for array in arrays], shapes[0][1]


def _integers(values: Sequence[int]) -> list[int]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"identities and cameras must be lists of whole numbers, not {array.dtype} of shape {array.shape}")
    return array.astype(np.int64).tolist()


def _image(image: Image, index: int) -> str | tuple[bytes, int, int, int]:
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    array = np.asarray(image)
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] == 3)) or array.size == 0:
        raise ValueError(f"image {index} must be uint8 [height, width, 3] or [height, width], not {array.dtype} {list(array.shape)}")
    return array.tobytes(), array.shape[0], array.shape[1], 1 if grey else 3


def _text(value: Any) -> str:
    """Write a setting as in a file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def _main() -> int:
    """Run the program ptl-train."""
    return _ptl.main(["ptl-train", *sys.argv[1:]])
