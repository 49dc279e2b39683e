# SPDX-License-Identifier: Apache-2.0
"""Runs of a graph in fixed buffers of a GPU, which CUDA captures once and then replays in one launch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)
_TOLERANCE = 1e-3  # of a result relative to the largest value, as convolutions may be computed in TF32


@dataclass(frozen=True, slots=True)
class _Buffers:
    """What all runs with the same shapes use."""

    inputs: dict[str, onnxruntime.OrtValue]
    outputs: list[onnxruntime.OrtValue]
    binding: onnxruntime.IOBinding
    options: onnxruntime.RunOptions


class CapturedSession:
    """A session of which all runs with inputs of the same shapes use the same memory.

    With ONNX Runtime's provider option `enable_cuda_graph`, a thread's first run with new shapes is captured,
    and later ones are replayed. There should be few shapes: each has its own memory. One run at a time.

    Args:
        session: of a graph whose inputs and outputs are float32.
        plain: session of the same graph without the option. It computes what `session` fails to.
        device: where the memory is, `cuda` or `cpu`.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        plain: onnxruntime.InferenceSession,
        device: str = 'cuda',
    ) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._plain, self._device = plain, device
        self._buffers: dict[tuple[Any, ...], _Buffers] = {}

    @property
    def captures(self) -> bool:
        """Whether no run has failed."""
        return self._session is not None

    def run(self, names: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Compute the named outputs, in this order."""
        if self._session is not None:
            try:
                return self._replay(self._session, names, inputs)
            except Exception as error:  # onnxruntime raises a private class for each of its status codes
                self.stop(str(error))
        return list(self._plain.run(names, dict(inputs)))

    def stop(self, reason: str) -> None:
        """Use the plain session from now on."""
        _LOG.warning('no more CUDA graphs: %s', reason)
        self._session = None

    def check(self, names: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> None:
        """Compare a run with the plain session's; if they differ, stop."""
        expected = self._plain.run(names, dict(inputs))
        for name, one, other in zip(names, self.run(names, inputs), expected, strict=True):
            if not np.abs(one - other).max() <= _TOLERANCE * max(1.0, float(np.abs(other).max())):
                self.stop(f'{name} differs from a run without')
                return

    def _replay(
        self,
        session: onnxruntime.InferenceSession,
        names: Sequence[str],
        inputs: Mapping[str, NDArray[Any]],
    ) -> list[NDArray[Any]]:
        shapes = (*names, *((name, array.shape) for name, array in inputs.items()))
        if shapes not in self._buffers:
            self._buffers[shapes] = self._prepare(session, names, inputs)
        buffers = self._buffers[shapes]
        for name, array in inputs.items():
            buffers.inputs[name].update_inplace(np.ascontiguousarray(array, np.float32))
        session.run_with_iobinding(buffers.binding, buffers.options)
        found = (output.numpy() for output in buffers.outputs)
        # Of memory of the CPU it is a view, into which the next run writes.
        return [array if array.flags.owndata else array.copy() for array in found]

    def _prepare(
        self,
        session: onnxruntime.InferenceSession,
        names: Sequence[str],
        inputs: Mapping[str, NDArray[Any]],
    ) -> _Buffers:
        # The shapes of the outputs follow from a run without capture.
        found = self._plain.run(names, dict(inputs))
        binding = session.io_binding()
        kept = {name: self._value(array.shape) for name, array in inputs.items()}
        outputs = [self._value(array.shape) for array in found]
        for name, value in kept.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(names, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry('gpu_graph_id', str(1 + len(self._buffers)))
        return _Buffers(kept, outputs, binding, options)

    def _value(self, shape: tuple[int, ...]) -> onnxruntime.OrtValue:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self._device, 0)
