"""What one step must compute and move at least, counted on a network without memory."""

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from crosslayer.benchmark.configuration import Configuration

BACKWARD = 2
"""Operations of the pass backward, in passes forward: a product for the input's gradient and one for the weight's."""
OPTIMIZER = 5
"""What SGD with momentum moves of every parameter: it reads weight, gradient, momentum; it writes weight, momentum."""


class Cost(NamedTuple):
    """Of one step."""

    operations: int
    bytes: int


class Traffic(TorchDispatchMode):
    """Bytes that products must move: each convolution and matrix product reads its operands and writes its result.

    All else (normalisation, activation, sums, pooling) is taken to happen where a product reads or writes. A
    depth-wise convolution reads its operands only: its result may be taken up where it is made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.bytes += size([args, kwargs] if _is_depthwise(func, args) else [args, kwargs, out])
        return out


def _is_depthwise(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an op is a convolution of every channel by itself, or its gradient."""
    given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
    weight = given.get("weight")
    return given.get("groups", 1) > 1 and isinstance(weight, Tensor) and weight.shape[1] == 1


def size(nested: Any) -> int:
    """Bytes of all tensors in a nest."""
    return sum(leaf.numel() * leaf.element_size() for leaf in pytree.tree_leaves(nested) if isinstance(leaf, Tensor))


def step_cost(model: nn.Module, configuration: Configuration) -> Cost:
    """Operations and bytes of one step; the ops must be set to their reference, which is made of PyTorch's own.

    PyTorch's counter takes the gradient of a depth-wise convolution for that of a dense one, so operations of the
    pass backward are not counted but taken as twice those forward.
    """
    training = configuration.mode == "train"
    dtype = torch.bfloat16 if configuration.precision == "bf16" else torch.float32
    ghost = copy.deepcopy(model).to("meta", dtype).train(training).requires_grad_(training)
    shape = configuration.batch_size, 3, configuration.image_size, configuration.image_size
    images = torch.empty(shape, device="meta", dtype=dtype)
    with torch.set_grad_enabled(training), Traffic() as traffic:
        with FlopCounterMode(display=False) as counter:
            logits = ghost(images)
        if training:
            labels = torch.empty(configuration.batch_size, device="meta", dtype=torch.int64)
            F.cross_entropy(logits.float(), labels).backward()
    operations = counter.get_total_flops()
    if not training:
        return Cost(operations, traffic.bytes)
    update = OPTIMIZER * sum(parameter.numel() * 4 for parameter in model.parameters())
    return Cost((1 + BACKWARD) * operations, traffic.bytes + update)
