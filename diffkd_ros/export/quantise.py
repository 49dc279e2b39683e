# SPDX-License-Identifier: Apache-2.0
"""A model folder whose encoder computes its 3x3 convolutions in 8-bit integers."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray

from diffkd_ros.export.graphs import strip_origin
from diffkd_ros.files import results_folder, write_text
from diffkd_ros.runtime.card import CARD, ENCODER, ModelCard, ModelError, sha256

Clouds = Sequence[NDArray[np.float32]]
_PERCENTILE = 99.999  # of a map's values; larger ones are cut
_FIRST = 2
"""First convolutions that stay in floats: in 8 bits they would triple the error of the result."""


def quantise_model(card: ModelCard, folder: Path, draw: Callable[[], Clouds], origin: str) -> ModelCard:
    """Write a copy of a model whose encoder has 8-bit convolutions.

    The copy keeps the name and the tables of the layered message: maps in layers may come from either, for
    they are coded by the same vectors. Whole maps of the two have different ids and are not fused.

    Args:
        card: of the model.
        folder: created if missing; its files are overwritten. Not the model's own.
        draw: gives clouds of points (p, 4) as the model gets them, from which the ranges of values follow.
        origin: what the clouds are, for the card.

    Returns:
        The card as read back, with files verified.

    Raises:
        ModelError: if the model has no graphs or is quantised already, or the folder is its own.
        DiffkdError: if the folder cannot be written.
    """
    source = card.graph_path(ENCODER)
    if folder.resolve() == source.parent.resolve():
        raise ModelError(f'{folder} is the model itself: choose another folder')
    if any(node.op_type == 'QuantizeLinear' for node in onnx.load(source).graph.node):
        raise ModelError(f'{source} is quantised already')
    results_folder(folder)
    clouds = draw()
    for name in card.files:
        if name != ENCODER:
            shutil.copyfile(source.parent / name, folder / name)
    quantise_encoder(source, folder / ENCODER, clouds)
    values = yaml.safe_load((source.parent / CARD).read_text(encoding='utf-8'))
    values['description'] += ' The encoder has 8-bit convolutions.'
    values['files'][ENCODER] = sha256(folder / ENCODER)
    values['training']['quantised'] = {'from': card.model_id, 'clouds': f'{len(clouds)} of {origin}'}
    values['results'] = {'before_quantisation': values['results']}
    write_text(folder / CARD, yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100))
    return ModelCard.load(folder)


def quantise_encoder(source: Path, target: Path, clouds: Clouds) -> None:
    """Write an encoder's graph with 8-bit 3x3 convolutions: weights by channel, activations by map.

    The inputs of these convolutions are not negative, so they are unsigned. Weights have 7 bits: without VNNI
    the products of two 8-bit pairs do not fit into the processor's 16-bit sums, and every processor is to
    compute the same. Pillars and transposed and 1x1 convolutions take little time and stay in floats; 1x1
    convolutions, from which the result follows, would add most of the error.

    Args:
        source: the graph that `export_encoder` wrote.
        target: file to write.
        clouds: points (p, 4).
    """
    # Imported here, after `runtime.session` has switched off the telemetry of onnxruntime.
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Gives one cloud after another; all of one size, as the histograms need."""

        def __init__(self) -> None:
            largest = max(map(len, clouds))
            self._clouds: Iterator[NDArray[np.float32]] = (np.resize(each, (largest, 4)) for each in clouds)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            cloud = next(self._clouds, None)
            return None if cloud is None else {'points': cloud}

    # The calibration prints its progress.
    with TemporaryDirectory() as temporary, redirect_stdout(io.StringIO()):
        prepared = Path(temporary) / ENCODER
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=_convolutions(onnx.load(prepared).graph),
            op_types_to_quantize=['Conv', 'Relu'],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={'CalibPercentile': _PERCENTILE},
        )
    strip_origin(target)


def _convolutions(graph: onnx.GraphProto) -> list[str]:
    """Names of the 3x3 convolutions but the first ones, and of the ReLUs after them."""
    kernels = {each.name for each in graph.initializer if list(each.dims[2:]) == [3, 3]}
    layers = [node for node in graph.node if node.op_type == 'Conv' and node.input[1] in kernels][_FIRST:]
    results = {node.output[0] for node in layers}
    return [
        *(node.name for node in layers),
        *(node.name for node in graph.node if node.op_type == 'Relu' and node.input[0] in results),
    ]
