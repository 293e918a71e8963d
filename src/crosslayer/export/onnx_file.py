"""ONNX, for ONNX Runtime, TensorRT and others; class names and normalisation are `metadata_props`."""

from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.export import ExportedProgram

from crosslayer.export.formats import Format, Run


@final
class Onnx(Format):
    """Opset 18 or what the installed exporter writes."""

    needs = ("onnx", "onnxscript", "onnxruntime")
    suffix = ".onnx"
    reduces = True

    @staticmethod
    def write(program: ExportedProgram, images: Tensor, metadata: dict[str, str], folder: Path, name: str) -> None:
        """One file, weights within."""
        import onnx

        names: Any = {"input_names": ["images"], "output_names": ["outputs"]}
        exported: Any = torch.onnx.export(program, dynamo=True, verbose=False, **names)
        model = exported.model_proto
        _pool_globally(model.graph)
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, folder / name)

    @staticmethod
    def load(path: Path, threads: int | None = None) -> Run:
        """In ONNX Runtime, on the CPU."""
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads or 0  # its own choice
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])

    @staticmethod
    def reduce(path: Path, images: Tensor) -> None:
        """Weights per channel and activations in int8, between pairs of (de)quantisation."""
        from onnxruntime import quantization

        waiting = iter(images.split(1))

        class Reader(quantization.CalibrationDataReader):
            def get_next(self) -> Any:
                image = next(waiting, None)
                return None if image is None else {"images": image.numpy()}

        whole = path.with_suffix(".float.onnx")
        path.rename(whole)
        options: Any = {"per_channel": True, "op_types_to_quantize": ["Conv", "Gemm", "MatMul"]}
        quantization.quantize_static(whole, path, Reader(), **options)
        whole.unlink()


def _pool_globally(graph: Any) -> None:
    """Means over a map become global pools, which ONNX Runtime computes in its own layout, as convolutions are."""
    from onnx import numpy_helper

    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    ranks = {one.name: len(one.type.tensor_type.shape.dim) for one in graph.value_info}
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        axes = [int(axis) % 4 for axis in constants[node.input[1]]]
        kept = next((one.i for one in node.attribute if one.name == "keepdims"), 1)
        if ranks.get(node.input[0]) == 4 and sorted(axes) == [2, 3] and kept:
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]
    read = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
    unread = [one for one in graph.initializer if one.name not in read]
    for one in unread:
        graph.initializer.remove(one)


FORMAT = Onnx
