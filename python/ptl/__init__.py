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
from typing import Any, Iterable, Mapping, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _ptl
from ._ptl import Error, __version__

__all__ = ["Error", "Model", "rank", "rerank", "__version__"]

Image = Union[str, bytes, os.PathLike, NDArray[np.uint8]]

# The compute threads start with the first computation, and a fork does not copy them.
_has_computed = False
_is_forked = False


def _after_fork() -> None:
    global _is_forked
    _is_forked = _has_computed


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _begin() -> None:
    """Refuse to compute where there are no compute threads."""
    global _has_computed
    if _is_forked:
        raise Error("this process was forked after ptl had computed, and has no compute threads: start processes by spawn or forkserver")
    _has_computed = True


class Model:
    """A trained model. Load it by :meth:`load`."""

    def __init__(self, inner: _ptl.Model) -> None:
        if not isinstance(inner, _ptl.Model):
            raise TypeError("a model is loaded by ptl.Model.load(path)")
        self._inner = inner

    @staticmethod
    def load(path: str | os.PathLike, settings: Mapping[str, Any] | None = None) -> "Model":
        """Load a run, a checkpoint, or a file of another program (.safetensors, PyTorch's .pth).

        ``settings`` are keys as in a run's config.toml, for example ``{"eval.flip": False, "device": "cpu"}`` or ``{"eval": {"flip": False}}``. A file of
        another program has none: name its network (``{"model.arch": ...}``, and ``"task": "classify"`` for a classifier). Raises :class:`Error`.
        """
        return Model(_ptl.Model.load(_path(path), _flat(settings or {})))

    def embed(self, images: Iterable[Image]) -> NDArray[np.float32]:
        """Return the features of images, ``[n, dim]``, each of unit length: those that ``ptl-train extract`` writes.

        An image is the path of a file, an array of ``uint8``, RGB ``[height, width, 3]`` or grey ``[height, width]``, or an image of Pillow. Raises
        :class:`Error`, and ValueError for another kind of array.
        """
        return self._run(images, False)

    def predict(self, images: Iterable[Image]) -> NDArray[np.float32]:
        """Return the probabilities of the classes of a classifier, ``[n, classes]``; images as for :meth:`embed`. Raises :class:`Error`."""
        if self.settings["task"] != "classify":
            raise Error("the model is for re-identification and predicts no classes: take its features with embed")
        return self._run(images, True)

    def _run(self, images: Iterable[Image], probabilities: bool) -> NDArray[np.float32]:
        if isinstance(images, (str, bytes, os.PathLike)) or (isinstance(images, np.ndarray) and images.ndim in (2, 3)):
            raise TypeError("images must be a list of paths or arrays: write [image] for one image")
        _begin()
        values, dim = self._inner.run([_image(image, i) for i, image in enumerate(images)], probabilities)
        return np.frombuffer(values, np.float32).reshape(-1, dim)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the model, as in a run's config.toml."""
        return tomllib.loads(self._inner.settings)

    @property
    def class_names(self) -> list[str]:
        """The names of the training classes or identities, in the order of :meth:`predict`; empty if the file has none."""
        return self._inner.class_names

    @property
    def device(self) -> str:
        """The name of the device that computes."""
        return self._inner.device

    def __repr__(self) -> str:
        model = self.settings["model"]
        size = f"{model['height']}x{model['image_width']}"
        return f"<ptl.Model {model['arch']}, images of {size}, {self._inner.class_count} classes, {self.device.split(' (')[0]}>"


def rank(
    query: ArrayLike,
    gallery: ArrayLike,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike | None = None,
    gallery_cameras: ArrayLike | None = None,
    max_rank: int = 100,
) -> dict[str, Any]:
    """Rank the gallery by Euclidean distance for each query, and return the measures.

    ``query`` and ``gallery`` are features ``[n, dim]``. With cameras, gallery images of the query's identity by its camera do not count (the protocol
    of Market-1501); without, all count. Rows of identity -1 are left out, as in ``ptl-train rank``. The result has ``mAP`` and ``mINP`` (shares, not
    percent), ``mAP_trapezoid``, ``cmc`` of ``max_rank`` numbers (``cmc[0]`` is rank 1), ``valid_queries``, ``skipped_queries`` (without a match), and
    ``per_query``, which has None for a skipped one. docs/evaluation.md of the repository has the formulas. Raises :class:`Error`, and ValueError for
    arguments of another shape or type.
    """
    if (query_cameras is None) != (gallery_cameras is None):
        raise ValueError("give the cameras of both query and gallery, or of neither")
    if not 1 <= max_rank <= _MOST_RANKS:
        raise ValueError(f"max_rank must be from 1 to {_MOST_RANKS}, not {max_rank}")
    sides = []
    for features, ids, cameras in [(query, query_ids, query_cameras), (gallery, gallery_ids, gallery_cameras)]:
        array, labels = _features(features), _integers(ids)
        by = np.zeros_like(labels) if cameras is None else _integers(cameras)
        if not len(array) == len(labels) == len(by):
            raise ValueError(f"{len(array)} features, {len(labels)} identities and {len(by)} cameras: there must be as many of each")
        kept = labels != -1
        sides.append((array[kept], labels[kept].tolist(), by[kept].tolist()))
    (q, *q_labels), (g, *g_labels) = sides
    dim = _common_dim(q, g)
    _begin()
    report = _ptl.rank([q.tobytes(), g.tobytes()], dim, [tuple(q_labels), tuple(g_labels)], query_cameras is None, max_rank)
    return json.loads(report)


def rerank(
    query: ArrayLike, gallery: ArrayLike, k1: int = 20, k2: int = 6, lambda_value: float = 0.3, variant: str = "zhong"
) -> NDArray[np.float32]:
    """Return distances re-ranked by k-reciprocal neighbours (Zhong et al., CVPR 2017), ``[queries, gallery]``.

    ``variant`` is the published implementation whose numbers are matched: "zhong", "ptl" or "torchreid". Raises :class:`Error`, and ValueError for
    features of another shape or type.
    """
    q, g = _features(query), _features(gallery)
    dim = _common_dim(q, g)
    if k1 < 0 or k2 < 0:
        raise ValueError(f"k1 and k2 must not be negative, not {k1} and {k2}")
    _begin()
    values = _ptl.rerank([q.tobytes(), g.tobytes()], dim, (k1, k2), lambda_value, variant)
    return np.frombuffer(values, np.float32).reshape(len(q), len(g))


# Length of the longest CMC curve.
_MOST_RANKS = 1_000_000


def _features(features: ArrayLike) -> NDArray[np.float32]:
    """Return features in float32, if it can represent them."""
    array = np.asarray(features)
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiu":
        raise ValueError(f"features must be numbers [n, dim], not {array.dtype} {list(array.shape)}")
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(array, np.float32)
    if array.dtype != np.float32 and array.dtype.kind == "f":
        if (np.isfinite(array) & ~np.isfinite(narrow)).any():
            raise ValueError("features are too large for float32, in which they are ranked: divide all of them by one number")
        largest = np.abs(array).max(axis=1, initial=0)
        if ((largest > 0) & (largest < np.finfo(np.float32).tiny)).any():
            raise ValueError("features are too small for float32, in which they are ranked: multiply all of them by one number")
    return narrow


def _common_dim(query: NDArray[np.float32], gallery: NDArray[np.float32]) -> int:
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"features of query and gallery must have the same dim, not {query.shape[1]} and {gallery.shape[1]}")
    return query.shape[1]


def _integers(values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"identities and cameras must be lists of whole numbers, not {array.dtype} {list(array.shape)}")
    if array.size and array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        raise ValueError("identities and cameras must fit into int64")
    return array.astype(np.int64)


def _image(image: Any, index: int) -> str | tuple[bytes, int, int, int]:
    """Return a path, or the bytes of an image with height, width and channels."""
    if isinstance(image, (str, bytes, os.PathLike)):
        return _path(image)
    if hasattr(image, "convert"):
        image = image.convert("RGB")
    array = np.asarray(image)
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] == 3)) or array.size == 0:
        raise ValueError(f"image {index} must be a path or uint8 [height, width, 3] or [height, width], not {array.dtype} {list(array.shape)}")
    return array.tobytes(), array.shape[0], array.shape[1], 1 if grey else 3


def _path(path: str | bytes | os.PathLike) -> str:
    # Encoded first, so that a text that is no path is a ValueError here.
    return os.fsdecode(os.fsencode(path))


def _flat(settings: Mapping[str, Any], section: str = "") -> list[tuple[str, str]]:
    """Return settings as keys and texts; the settings of a section may be a mapping of their own."""
    if not isinstance(settings, Mapping):
        raise TypeError(f"settings must be a mapping of keys to values, not {type(settings).__name__}")
    flat = []
    for key, value in settings.items():
        name = f"{section}{key}"
        flat += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, _text(value))]
    return flat


def _text(value: Any) -> str:
    """Write a setting as in a file."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)


def _main() -> int:
    """Run the program ptl-train."""
    return _ptl.main(["ptl-train", *sys.argv[1:]])
