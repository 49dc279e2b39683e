# SPDX-License-Identifier: Apache-2.0
"""Scaling of the scores after training, fitted to clean frames that are not evaluated."""

from __future__ import annotations

from dataclasses import dataclass

from diffkd_ros.errors import require
from diffkd_ros.evaluation.conditions import check_known
from diffkd_ros.metrics.average_precision import ANY_OVERLAP, EvaluationError
from diffkd_ros.metrics.calibration import (
    IsotonicScaling,
    TemperatureScaling,
)
from diffkd_ros.metrics.frame_results import FrameResults
from diffkd_ros.sources.source import Source

_METHODS: dict[str, type[TemperatureScaling] | type[IsotonicScaling]] = {
    'temperature': TemperatureScaling,
    'isotonic': IsotonicScaling,
}
NONE = 'none'


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A scaling for each of the two calibration errors, fitted to its target.

    Attributes:
        method: `temperature` or `isotonic`.
        source: of the frames it was fitted to.
        overlap: fitted to the overlap with the truth found, for LaECE0.
        precision: fitted to the precision, for D-ECE.
    """

    method: str
    source: str
    overlap: TemperatureScaling | IsotonicScaling
    precision: TemperatureScaling | IsotonicScaling

    @property
    def temperatures(self) -> dict[str, float]:
        """The fitted temperature for each error; empty for other methods."""
        parts = {'laece0': self.overlap, 'd_ece': self.precision}
        return {name: s.temperature for name, s in parts.items() if isinstance(s, TemperatureScaling)}


def check_calibration(method: str, fitted_on: Source | None, scored_on: Source) -> None:
    """Check the settings of a calibration.

    Raises:
        EvaluationError: if the method is unknown, or the frames to fit it to are missing or overlap with
            those it is evaluated on.
        DatasetError: if a recorded source cannot be opened.
        MissingExtra: if SciPy is not installed.
    """
    check_known('calibration', method, (NONE, *_METHODS))
    if method == NONE:
        if fitted_on is not None:
            raise EvaluationError('frames to calibrate on need a calibration method')
        return
    require('scipy')
    if fitted_on is None:
        raise EvaluationError(
            f'calibration {method} needs frames of its own to be fitted to, for example sim:4'
        )
    if fitted_on.shares_scenarios(scored_on):
        raise EvaluationError(
            f'calibration {method} would be fitted to frames that it is evaluated on: '
            f'{_named(fitted_on)} and {_named(scored_on)} share some'
        )


def _named(source: Source) -> str:
    return source.spec if source.split is None else f'{source.spec} ({source.split})'


def fit(method: str, source: Source, validation: FrameResults, iou: float) -> Calibrator:
    """Fit a calibrator.

    Args:
        method: `temperature` or `isotonic`.
        source: of the frames.
        validation: their clean results, with detections down to `MIN_SCORE`.
        iou: threshold of the precision.

    Raises:
        EvaluationError: if there are no detections to fit to.
    """
    scaling = _METHODS[method]
    return Calibrator(
        method,
        _named(source),
        scaling.fit(validation, ANY_OVERLAP),
        scaling.fit(validation, iou),
    )
