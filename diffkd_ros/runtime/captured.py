# SPDX-License-Identifier: Apache-2.0
"""Runs of a graph in fixed buffers of a GPU, which CUDA captures once and then replays in one launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

_NONE = -1  # id of a run that is neither captured nor replayed


@dataclass(frozen=True, slots=True)
class _Buffers:
    """What all runs with the same shapes use."""

    inputs: dict[str, onnxruntime.OrtValue]
    outputs: list[onnxruntime.OrtValue]
    binding: onnxruntime.IOBinding
    options: onnxruntime.RunOptions


class CapturedSession:
    """A session of which all runs with inputs of the same shapes use the same memory.

    With ONNX Runtime's provider option `enable_cuda_graph`, the first run with new shapes is captured, and
    later ones are replayed. There should be few shapes: each has its own memory.

    Args:
        session: of a graph whose inputs and outputs are float32.
        device: where the memory is, `cuda` or `cpu`.
    """

    def __init__(self, session: onnxruntime.InferenceSession, device: str = 'cuda') -> None:
        self._session, self._device = session, device
        self._buffers: dict[tuple[Any, ...], _Buffers] = {}

    def run(self, names: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Compute the named outputs, in this order."""
        shapes = (*names, *((name, array.shape) for name, array in inputs.items()))
        if shapes not in self._buffers:
            self._buffers[shapes] = self._prepare(names, inputs)
        buffers = self._buffers[shapes]
        for name, array in inputs.items():
            buffers.inputs[name].update_inplace(np.ascontiguousarray(array, np.float32))
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        found = (output.numpy() for output in buffers.outputs)
        # Of memory of the CPU it is a view, into which the next run writes.
        return [array if array.flags.owndata else array.copy() for array in found]

    def _prepare(self, names: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> _Buffers:
        # The shapes of the outputs follow from a run without capture.
        found = self._session.run(names, dict(inputs), _options(_NONE))
        binding = self._session.io_binding()
        kept = {name: self._value(array.shape) for name, array in inputs.items()}
        outputs = [self._value(array.shape) for array in found]
        for name, value in kept.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(names, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        return _Buffers(kept, outputs, binding, _options(1 + len(self._buffers)))

    def _value(self, shape: tuple[int, ...]) -> onnxruntime.OrtValue:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self._device, 0)


def _options(number: int) -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry('gpu_graph_id', str(number))
    return options
