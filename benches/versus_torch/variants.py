"""The ways in which PyTorch can do a work: plainly, and those that may be faster."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Variant:
    """A way to do a work in PyTorch."""

    # Memory format of images, activations and weights.
    channels_last: bool = False
    # PyTorch's fused optimiser instead of the default one.
    fused: bool = False
    # TorchScript with frozen weights, for networks in evaluation: batch normalisation becomes part of the convolutions.
    frozen: bool = False
    # `torch.compile`; networks in evaluation are frozen too.
    compile: bool = False
    # tcmalloc instead of the system's allocator.
    tcmalloc: bool = False
    # Another program for the same work; empty for the usual one.
    style: str = ""

    def __str__(self):
        words = [self.style] if self.style else ["channels_last" if self.channels_last else "default layout"]
        options = {"fused": "fused optimiser", "frozen": "frozen", "compile": "compile", "tcmalloc": "tcmalloc"}
        words += [word for option, word in options.items() if getattr(self, option)]
        return ", ".join(words)

    def spec(self):
        """Returns the variant as the worker reads it."""
        return asdict(self)


STYLES = {
    "loading": ("PIL", "tensors"),
    "ranking": ("NumPy", "torch"),
    "reranking": ("NumPy", "torch"),
    "product": ("a @ b", "mm into a matrix"),
}


def plain(kind):
    """Returns the variant that most people would write."""
    return Variant(style=STYLES[kind][0]) if kind in STYLES else Variant()


def others(kind, tcmalloc, compiler):
    """Returns the variants that may be faster, where this machine has what they need."""
    allocators = (False, True) if tcmalloc else (False,)
    if kind in STYLES:
        every = [Variant(style=style, tcmalloc=allocator) for style in STYLES[kind] for allocator in allocators]
        return [variant for variant in every if variant != plain(kind)]
    fused = kind == "step"
    found = [Variant(layout, fused, tcmalloc=allocator) for layout in (False, True) for allocator in allocators]
    if kind in ("evaluation", "features"):
        found += [Variant(layout, frozen=True, tcmalloc=bool(tcmalloc)) for layout in (False, True)]
    if compiler and kind != "convs":
        found += [Variant(layout, fused, compile=True, tcmalloc=bool(tcmalloc)) for layout in (False, True)]
    return [variant for variant in found if variant != plain(kind)]
