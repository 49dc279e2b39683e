# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime sessions on a named device."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from diffkd_ros.runtime.captured import CapturedSession
from diffkd_ros.runtime.card import ModelCard, ModelError

_LOG = logging.getLogger(__name__)

PROVIDERS = {
    'cpu': ['CPUExecutionProvider'],
    'cuda': ['CUDAExecutionProvider', 'CPUExecutionProvider'],
    'tensorrt': ['TensorrtExecutionProvider', 'CUDAExecutionProvider', 'CPUExecutionProvider'],
}


Shape = tuple[int | None, ...]
"""None for a dimension that depends on the input."""


class Session(Protocol):
    """The part of ONNX Runtime's session that is used here: named arrays in, named arrays out."""

    def run(self, names: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Compute the named outputs, in this order."""


class ModelPart:
    """A graph of a model folder on a device.

    Args:
        card: a loaded model card.
        threads: CPU threads.
        device: `cpu`, `cuda` or `tensorrt`.
        session: replaces the session on the folder's graph.

    Attributes:
        graph: file of the graph.
        serial: whether it is right on a single CPU thread only.
        steady: whether its inputs have few shapes, so that CUDA can replay its runs.

    Raises:
        ModelError: if the device is not available, or the graph does not load or does not fit the card.
    """

    graph: ClassVar[str]
    serial: ClassVar[bool] = False
    steady: ClassVar[bool] = True

    def __init__(
        self, card: ModelCard, threads: int = 1, device: str = 'cpu', session: Session | None = None
    ) -> None:
        self._card = card
        if session is None:
            path = card.graph_path(self.graph)
            opened = open_session(path, 1 if self.serial else threads, device)
            _require_shapes(path, opened, self.shapes(card))
            session = opened
            if device == 'cuda' and self.steady:
                session = with_cuda_graphs(path, opened, self.shapes(card))
        self._session = session

    @staticmethod
    def shapes(card: ModelCard) -> Mapping[str, Shape]:
        """Shapes of the graph's inputs and outputs for this card."""
        raise NotImplementedError


def _require_shapes(path: Path, session: onnxruntime.InferenceSession, expected: Mapping[str, Shape]) -> None:
    """Compare a graph with its card now, rather than fail in the first run.

    Raises:
        ModelError: if an input or output is missing or of another shape or type.
    """
    found = {value.name: value for value in (*session.get_inputs(), *session.get_outputs())}
    for name, shape in expected.items():
        if name not in found:
            raise ModelError(f'{path} has no {name}: found {", ".join(found)}')
        size = found[name].shape
        fits = len(size) == len(shape) and all(
            has == wanted if wanted is not None else not isinstance(has, int)
            for has, wanted in zip(size, shape, strict=True)
        )
        if not fits or found[name].type != 'tensor(float)':
            text = ' x '.join('any' if part is None else str(part) for part in shape)
            raise ModelError(
                f'{path} does not fit its card: {name} must be {text} floats, is '
                f'{" x ".join(map(str, size))} {found[name].type}'
            )
    if missing := [value.name for value in session.get_inputs() if value.name not in expected]:
        raise ModelError(f'{path} has further inputs: {", ".join(missing)}')


def with_cuda_graphs(
    path: Path, plain: onnxruntime.InferenceSession, shapes: Mapping[str, Shape], device: str = 'cuda'
) -> Session:
    """A session that CUDA replays, after trials with 1, 2 and again 1 agent; `plain` if they fail.

    Args:
        path: of the graph.
        plain: session on it, on the same device.
        shapes: of inputs and outputs.
        device: `cuda`; `cpu` uses fixed buffers without capture.
    """
    settings = {'enable_cuda_graph': '1'} if device == 'cuda' else {}
    names = [value.name for value in plain.get_outputs()]
    rng = np.random.default_rng(0)
    try:
        captured = CapturedSession(open_session(path, 1, device, settings), plain, device)
    except ModelError as error:
        _LOG.warning('%s runs without CUDA graphs: %s', path.name, error)
        return plain
    # Results of other shapes, or of inputs that are not new, would show here.
    for agents in (1, 2, 1):
        captured.check(
            names,
            {
                value.name: rng.random([part or agents for part in shapes[value.name]], np.float32)
                for value in plain.get_inputs()
            },
        )
    return captured if captured.captures else plain


def open_session(
    path: Path, threads: int, device: str, settings: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """Open a graph.

    Args:
        path: an .onnx file.
        threads: CPU threads within an operator.
        device: `cpu`, `cuda` or `tensorrt`.
        settings: options of the device's execution provider.

    Raises:
        ModelError: if the device is unknown, missing in this build of onnxruntime or does not start, or the
            graph does not load.
    """
    if device not in PROVIDERS:
        raise ModelError(f'unknown device {device!r}: choose one of {", ".join(PROVIDERS)}')
    providers = PROVIDERS[device]
    available = onnxruntime.get_available_providers()
    if providers[0] not in available:
        raise ModelError(
            f'device {device!r} needs {providers[0]}, this onnxruntime has {", ".join(available)}: '
            "install the package's gpu extra"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads would occupy cores that other nodes need.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    options.log_severity_level = 3
    try:
        # With the fallback it would run on the CPU, tens of times slower.
        session = onnxruntime.InferenceSession(
            str(path),
            options,
            providers=[(providers[0], dict(settings or {})), *providers[1:]],
            enable_fallback=0,
        )
    except Exception as error:  # onnxruntime raises a private class for each of its status codes
        raise ModelError(f'{path} does not load: {error}') from error
    # onnxruntime only logs a warning if the libraries of a provider are missing.
    if providers[0] not in session.get_providers():
        raise ModelError(
            f'device {device!r}: {providers[0]} did not start, only {", ".join(session.get_providers())}: '
            'are its libraries and driver installed?'
        )
    return session
