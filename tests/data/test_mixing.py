import numpy as np
import pytest
import torch

from crosslayer.data.images import ResidentImages
from crosslayer.data.mixing import eraser, mixer, unmixed
from crosslayer.data.stream import Shares, TrainingStream
from crosslayer.data.training_images import PadCrops
from crosslayer.errors import UsageError

LABELS = torch.tensor([0, 1, 2, 2])


def images() -> torch.Tensor:
    return torch.arange(4 * 3 * 8 * 8, dtype=torch.float32).view(4, 3, 8, 8)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixing_is_a_function_of_its_key(mixup: float, cutmix: float):
    mix = mixer(mixup, cutmix, 3)
    first, targets = mix(images(), LABELS, (0, 1, 2, 3))
    np.random.rand(7)  # others draw from the same generator
    again, _ = mix(images(), LABELS, (0, 1, 2, 3))
    other, _ = mix(images(), LABELS, (0, 1, 2, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))


def test_mixup_mixes_images_and_targets_alike():
    mixed, targets = mixer(0.4, 0.0, 3)(images(), LABELS, (0, 0, 0, 0))
    share = float(targets[0, 0])
    torch.testing.assert_close(mixed[0], share * images()[0] + (1 - share) * images()[3])
    torch.testing.assert_close(targets[0], torch.tensor([share, 0, 1 - share]))


def test_unmixed_leaves_all_as_it_is():
    x, labels = unmixed(images(), LABELS, (0, 0, 0, 0))
    assert torch.equal(x, images())
    assert labels is LABELS


def test_erasing_is_a_function_of_its_key_and_leaves_other_draws_alone():
    torch.manual_seed(5)
    expected, erase = torch.rand(1), eraser(0.9)
    torch.manual_seed(5)
    first = erase(images().repeat(8, 1, 1, 1), (0, 1, 2, 3))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(erase(images().repeat(8, 1, 1, 1), (0, 1, 2, 3)), first)
    assert not torch.equal(erase(images().repeat(8, 1, 1, 1), (0, 1, 2, 4)), first)
    changed = (first != images().repeat(8, 1, 1, 1)).any(1).float().mean((1, 2))
    assert 20 <= (changed > 0).sum() < 32  # of 32 images
    assert changed.max() < 0.5
    assert torch.equal(eraser(1e-9)(images(), (0, 0, 0, 0)), images())


def test_parts_of_odd_size_cannot_be_mixed():
    kept = PadCrops(ResidentImages(torch.zeros(6, 3, 4, 4).byte(), np.zeros(6), torch.device("cpu")), 0, False)
    with pytest.raises(UsageError, match="a part of a batch has 3 images, an odd number"):
        TrainingStream(kept, batch_size=6, shares=Shares(0, 2, 2), seed=0, paired=True)
