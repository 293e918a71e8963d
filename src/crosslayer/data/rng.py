"""Seeds: everything random is a function of the run's seed, the epoch, and the step or the image."""

import random

import numpy as np
import torch

ORDER, AUGMENTATION, MODEL, MIXING, ERASING = range(5)
"""What a generator is for: no two uses share a sequence."""


def seeded(*key: int) -> int:
    """One seed from several numbers, well mixed."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def generator(*key: int) -> torch.Generator:
    """A CPU generator for one use."""
    return torch.Generator().manual_seed(seeded(*key))


def seed_device(device: torch.device, *key: int) -> None:
    """PyTorch's own generators of the CPU and of the device in use.

    torch.manual_seed would seed every device there is, and take a tenth of a millisecond for kinds that there are not.
    """
    seed = seeded(*key)
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def seed_global_generators(*key: int) -> None:
    """Python's, NumPy's and PyTorch's own CPU generators, which library transforms draw from."""
    seed = seeded(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
