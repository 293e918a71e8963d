from collections.abc import Sequence
from typing import final

import numpy as np
import torch


@final
class PackedTexts:
    """Many short texts in two tensors: unlike strings, worker processes share them without a copy each."""

    def __init__(self, texts: Sequence[str]) -> None:
        encoded = [text.encode() for text in texts]
        lengths = torch.tensor([0, *map(len, encoded)], dtype=torch.int64)
        self.ends = lengths.cumsum(0)
        self.characters = torch.from_numpy(np.frombuffer(bytearray(b"".join(encoded)), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, i: int) -> str:
        return self.characters[int(self.ends[i]) : int(self.ends[i + 1])].numpy().tobytes().decode()
