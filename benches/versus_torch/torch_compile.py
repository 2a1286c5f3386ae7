"""`torch.compile` as the works use it."""

import torch


def compiled(module, spec, variant, frozen=False):
    """Returns the module compiled, if the variant says so; frozen weights become constants, for evaluation."""
    if not variant["compile"]:
        return module
    import torch._inductor.config as config

    config.freezing = frozen
    if spec["isa"] == "avx2":
        # The compiler asks the processor, not the variables that limit PyTorch's own loops.
        config.cpp.simdlen = 256
    return torch.compile(module)
