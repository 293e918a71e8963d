"""What a network gets right on a split."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from crosslayer.data.augment import normalise
from crosslayer.data.images import Images
from crosslayer.training.launch import over_processes
from crosslayer.training.records import DatasetInfo


class Evaluation(NamedTuple):
    """Counts over a whole split, over all processes."""

    confusion: Tensor
    """Images of class i that were taken for class j."""
    in_top5: int
    loss_sum: float

    @property
    def images(self) -> int:
        """How many images were seen."""
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """Images whose first guess was right, in %."""
        return 100 * int(self.confusion.diagonal().sum()) / self.images

    @property
    def top5(self) -> float:
        """Images whose class was among the first five guesses (or all, if there are fewer classes), in %."""
        return 100 * self.in_top5 / self.images

    @property
    def loss(self) -> float:
        """Mean cross-entropy, without label smoothing."""
        return self.loss_sum / self.images

    def per_class(self) -> list[float]:
        """Accuracy on the images of each class, in %; nan for a class without images."""
        return (100 * self.confusion.diagonal() / self.confusion.sum(1)).tolist()


@torch.no_grad()
def evaluate(
    model: nn.Module, images: Images, dataset_info: DatasetInfo, batch_size: int, accelerator: Accelerator
) -> Evaluation:
    """Every image of the split once, shared among the processes."""
    model.eval()
    classes, device = len(dataset_info.classes), accelerator.device
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    sums = torch.zeros(2, dtype=torch.float64).to(device if device.type != "mps" else "cpu")
    mine = torch.arange(len(images))[accelerator.process_index :: accelerator.num_processes]
    plan = mine.split(batch_size)
    for pixels, labels in images.batches(plan):
        x = normalise(pixels, dataset_info.mean, dataset_info.std)
        with accelerator.autocast():
            logits = model(filled(x, len(plan[0])))
        logits = logits[: len(labels)].float()
        guesses = logits.topk(min(5, classes)).indices
        confusion.index_add_(0, labels * classes + guesses[:, 0], torch.ones_like(labels))  # bincount would wait
        sums[0] += (guesses == labels[:, None]).sum()
        sums[1] += F.cross_entropy(logits, labels, reduction="sum")
    confusion = over_processes(accelerator, confusion)
    in_top5, loss_sum = over_processes(accelerator, sums).tolist()
    return Evaluation(confusion.view(classes, classes).cpu(), int(in_top5), loss_sum)


def filled(x: Tensor, count: int) -> Tensor:
    """The last batch, with grey images up to the size of the others: a compiled network meets no other size."""
    return x if len(x) == count else F.pad(x, (0, 0) * (x.ndim - 1) + (0, count - len(x)))
