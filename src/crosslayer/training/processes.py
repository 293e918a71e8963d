from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor


def over_processes(accelerator: Accelerator, values: Tensor, how: Literal["sum", "mean"] = "sum") -> Tensor:
    """The sum or mean of a tensor over all processes, in each of them."""
    if accelerator.num_processes == 1:
        return values
    reduced = accelerator.reduce(values, how)
    assert isinstance(reduced, Tensor)
    return reduced


def largest_of_processes(accelerator: Accelerator, value: int) -> int:
    """The largest of all processes' numbers, in each of them."""
    if accelerator.num_processes == 1:
        return value
    gathered = accelerator.gather(torch.tensor([value], device=accelerator.device))
    assert isinstance(gathered, Tensor)
    return int(gathered.max())
