"""OpenVINO's intermediate representation, NAME.xml and NAME.bin; the metadata are `rt_info` below `crosslayer`."""

from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.export import ExportedProgram

from crosslayer.export.formats import Format, Run


@final
class OpenVino(Format):
    """Weights in float32."""

    needs = ("openvino",)
    suffix = ".xml"

    @staticmethod
    def write(program: ExportedProgram, images: Tensor, metadata: dict[str, str], folder: Path, name: str) -> None:
        """Two files."""
        import openvino

        model = openvino.convert_model(program)
        for key, value in metadata.items():
            model.set_rt_info(value, ["crosslayer", key])
        openvino.save_model(model, folder / name, compress_to_fp16=False)

    @staticmethod
    def load(path: Path, threads: int | None = None) -> Run:
        """On the CPU, in float32."""
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32"} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
        compiled: Any = openvino.Core().compile_model(path, "CPU", settings)
        return lambda images: torch.from_numpy(compiled([images.numpy()])[0].copy())


FORMAT = OpenVino
