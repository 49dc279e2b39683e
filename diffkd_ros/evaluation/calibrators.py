# SPDX-License-Identifier: Apache-2.0
"""Scores scaled after training: fitted to clean frames that are not evaluated, judged on those that are."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from diffkd_ros.evaluation.errors import ExperimentError
from diffkd_ros.metrics.average_precision import ANY_OVERLAP
from diffkd_ros.metrics.calibration import (
    IsotonicScaling,
    Reliability,
    TemperatureScaling,
    detection_calibration,
    localisation_aware_calibration,
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
    """A scaling for each of the two errors, each fitted to what that error compares scores with.

    Attributes:
        method: `temperature` or `isotonic`.
        source: of the frames it was fitted to.
        iou: overlap at which precision was taken.
        overlap: fitted to the overlap with what was found, for LaECE0.
        precision: fitted to the precision, for D-ECE.
    """

    method: str
    source: str
    iou: float
    overlap: TemperatureScaling | IsotonicScaling
    precision: TemperatureScaling | IsotonicScaling

    def localisation_aware(self, results: FrameResults) -> Reliability:
        """LaECE0 of scaled scores."""
        return localisation_aware_calibration(results, scaling=self.overlap)

    def detection(self, results: FrameResults) -> Reliability:
        """D-ECE of scaled scores."""
        return detection_calibration(results, self.iou, scaling=self.precision)

    @property
    def temperatures(self) -> dict[str, float]:
        """The fitted parameters, if it is but one for each error."""
        parts = {'laece0': self.overlap, 'd_ece': self.precision}
        return {name: s.temperature for name, s in parts.items() if isinstance(s, TemperatureScaling)}


def check_calibration(method: str, fitted_on: Source | None, scored_on: Source) -> None:
    """Refuse a calibrator that is unknown or would be fitted to the frames it is judged on.

    Raises:
        ExperimentError: in those cases, or if it is not said where to fit it.
        DatasetError: if a recorded source cannot be opened.
    """
    known = (NONE, *_METHODS)
    if method not in known:
        nearest = difflib.get_close_matches(method, known, 1, 0.0)[0]
        raise ExperimentError(f'no calibration {method!r}; the nearest is {nearest!r} of {", ".join(known)}')
    if method == NONE:
        if fitted_on is not None:
            raise ExperimentError('frames to calibrate on are of use with a calibration only')
        return
    if fitted_on is None:
        raise ExperimentError(
            f'calibration {method} needs frames of its own to be fitted to: say which, as in sim:4'
        )
    if fitted_on.shares_scenarios(scored_on):
        raise ExperimentError(
            f'calibration {method} would be fitted to frames it is then judged on: '
            f'{_named(fitted_on)} and {_named(scored_on)} share some'
        )


def _named(source: Source) -> str:
    return source.spec if source.split is None else f'{source.spec} ({source.split})'


def fit(method: str, source: Source, validation: FrameResults, iou: float) -> Calibrator:
    """Fit a calibrator.

    Args:
        method: `temperature` or `isotonic`.
        source: of the frames.
        validation: their clean results, with all detections down to the score from which calibration counts.
        iou: overlap at which precision is taken.

    Raises:
        EvaluationError: if there are no detections to fit to.
        CalibrationUnavailableError: if SciPy, which fits, is not installed.
    """
    scaling = _METHODS[method]
    return Calibrator(
        method,
        _named(source),
        iou,
        scaling.fit(validation, ANY_OVERLAP),
        scaling.fit(validation, iou),
    )
