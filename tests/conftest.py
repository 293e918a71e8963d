"""What all tests share: a private cache, few threads, real data where it is there, small data sets where not."""

import os
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image

if not torch.cuda.is_available():  # before Triton is imported: its kernels run in its interpreter then
    os.environ.setdefault("TRITON_INTERPRET", "1")

from crosslayer.cli import main

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
APART = {"exhaustive", "slow", "faults"}
"""Marks of what `make test` leaves out."""


@pytest.hookimpl(tryfirst=True)  # before marks choose
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test's cases that are `sampled(n)` one in n is a part of every run, at least one: by its name's checksum."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled") and APART.isdisjoint(mark.name for mark in item.iter_markers()):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for of_test in cases.values():
        every = of_test[0].get_closest_marker("sampled").args[0]
        sums = [crc32(item.nodeid.encode()) for item in of_test]
        for item, checksum in zip(of_test, sums, strict=True):
            if checksum % every and checksum != min(sums):
                item.add_marker(pytest.mark.exhaustive)


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config):
    """Compiled C++, which is named after all that it is made of, is kept from one test run to the next."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "native").symlink_to(pytestconfig.rootpath / ".pytest_cache" / "native")
    (cache / "native").resolve().mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["CROSSLAYER_CACHE"] = str(cache)


@pytest.fixture(autouse=True)
def forget_graphs(request: pytest.FixtureRequest):
    if request.node.get_closest_marker("compiled"):
        torch._dynamo.reset()


def shared(*parts: str) -> Path:
    """A path below $CROSSLAYER_DATA; the test that asks for it is skipped where there is none."""
    root = os.environ.get("CROSSLAYER_DATA")
    if not root:
        pytest.skip("CROSSLAYER_DATA is not set: no real data here")
    path = Path(root).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture
def cifar100() -> Path:
    return shared("cifar100")


@pytest.fixture
def imagenette() -> Path:
    return shared("imagenette128")


@pytest.fixture(scope="session")
def image_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 10×12 pictures, dark and bright: 16 to train on, 6 to test on."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.RandomState(0)
    for split, count in (("train", 8), ("val", 3)):
        for name, low in (("bright", 150), ("dark", 0)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.randint(low, low + 100, (10, 12, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture
def crosslayer(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process: exit code, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # how the option parser ends
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


QUICK = ("--epochs", 1, "--batch-size", 8, "--image-size", 8, "--device", "cpu", "--workers", 1)
"""Options that make a training on `image_tree` take a second."""
