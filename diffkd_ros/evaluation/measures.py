# SPDX-License-Identifier: Apache-2.0
"""All figures of an evaluation, computed from the scored frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions import Who, lookup
from diffkd_ros.evaluation.calibrators import Calibrator
from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.metrics.average_precision import DetectionOrder, EvaluationError
from diffkd_ros.metrics.bootstrap import Interval, ScenarioBootstrap, interval
from diffkd_ros.metrics.calibration import (
    CalibrationRobustness,
    Reliability,
    Scaling,
    calibration_robustness,
    localisation_aware_calibration,
)
from diffkd_ros.metrics.frame_results import Detections, FrameResults, join
from diffkd_ros.metrics.protocol import Protocol
from diffkd_ros.metrics.robustness import Figure, Robustness, relative_corruption_error

IOU = 0.5
"""IoU threshold of all figures but AP."""

PrecisionOf = Callable[[Condition, float], Figure]
"""AP of a level at an IoU threshold: of all scenarios, or of each resample."""


def confident(results: FrameResults, min_score: float) -> FrameResults:
    """The results without detections below a score.

    Detections are matched, and suppress each other, by descending score, so this equals the results of a
    detector with that score threshold.
    """
    keep = results.detections.score >= min_score
    columns = {field.name: getattr(results.detections, field.name)[..., keep] for field in fields(Detections)}
    return replace(results, detections=Detections(**columns))


@dataclass(frozen=True, slots=True)
class Group:
    """Corruptions that are averaged together.

    Attributes:
        name: `paper` for its seven types, `held_out`, `pose` or `link`.
        who: which agents are corrupted.
        profile: of the levels.
        conditions: its levels, with the seed that represents all.
    """

    name: str
    who: Who
    profile: str
    conditions: tuple[Condition, ...]


def group_of(condition: Condition) -> str:
    """Name of the group that a corruption belongs to."""
    corruption = lookup(condition.corruption)
    return corruption.role if corruption.family == 'lidar' else corruption.family


class Evaluation:
    """The scored frames of all conditions, and the figures computed from them.

    A level (corruption, severity, who) may have several seeds. Its AP is the mean over them; calibration and
    breakdowns use all their detections together. Resamples draw whole scenarios, the same for every
    condition.

    Args:
        results: by condition, including the clean one, all of the same scenarios.
        protocol: by which they were scored.
        min_score: the model's threshold; AP, breakdowns and counts use detections of at least this score.
        calibrator: scales scores; calibration after scaling is reported alongside. AP and counts use the
            original scores.

    Attributes:
        scenarios: names of the scenarios.

    Raises:
        EvaluationError: if there are no clean results.
    """

    def __init__(
        self,
        results: Mapping[Condition, FrameResults],
        protocol: Protocol,
        min_score: float,
        calibrator: Calibrator | None = None,
    ) -> None:
        self.protocol = protocol
        self.min_score = min_score
        self.calibrator = calibrator
        self._all: dict[Condition, dict[int, FrameResults]] = {}
        for condition, part in results.items():
            self._all.setdefault(condition.level, {})[condition.seed] = part
        if Condition(CLEAN) not in self._all:
            raise EvaluationError('no clean frames were scored, so nothing can be compared')
        self._kept = {
            level: {seed: confident(part, min_score) for seed, part in parts.items()}
            for level, parts in self._all.items()
        }
        self.scenarios = self.results(Condition(CLEAN)).scenarios
        self._bootstrap = ScenarioBootstrap(self.scenarios)
        self._samples: dict[tuple[Condition, float, DetectionOrder], NDArray[np.float64]] = {}

    @property
    def levels(self) -> list[Condition]:
        """Every level that was measured, including the references."""
        return list(self._all)

    @property
    def corrupted(self) -> list[Condition]:
        """Every corrupted level."""
        return [level for level in self._all if not level.reference]

    def seeds(self, level: Condition) -> int:
        """Number of realisations of a level."""
        return len(self._all[level])

    def results(self, level: Condition) -> FrameResults:
        """Results with detections of at least the model's threshold, of all seeds."""
        return join([*self._kept[level].values()])

    def every_result(self, level: Condition) -> FrameResults:
        """Results with detections down to the score threshold of calibration, of all seeds."""
        return join([*self._all[level].values()])

    def average_precision(
        self, level: Condition, iou: float, order: DetectionOrder | None = None
    ) -> Interval:
        """AP, the mean over seeds, with its interval.

        Args:
            level: corruption, severity and who is corrupted.
            iou: threshold.
            order: of the detections; the protocol's by default.
        """
        order = order or self.protocol.order
        return interval(self._estimate(level, iou, order), self._sampled(level, iou, order))

    def by_seed(self, level: Condition, iou: float) -> dict[int, float]:
        """AP of each seed in the protocol's order."""
        order = self.protocol.order
        return {seed: part.average_precision(iou, order) for seed, part in self._kept[level].items()}

    def relative_error(self, level: Condition, iou: float) -> Interval:
        """RCE of a level, percent."""
        return interval(
            *self.sampled(lambda ap: relative_corruption_error(ap(Condition(CLEAN), iou), ap(level, iou)))
        )

    @cached_property
    def groups(self) -> list[Group]:
        """The corruptions measured, by group and by who is corrupted."""
        parts: dict[tuple[str, Who, str], list[Condition]] = {}
        for level in self.corrupted:
            parts.setdefault((group_of(level), level.who, level.profile), []).append(level)
        return [Group(*key, tuple(levels)) for key, levels in parts.items()]

    @property
    def headline(self) -> Group | None:
        """Those of the paper's seven types that were measured; None if none was."""
        return next((group for group in self.groups if group.name == 'paper'), None)

    def group_interval(
        self,
        group: Group,
        figure: Callable[[Robustness], Figure],
        order: DetectionOrder | None = None,
    ) -> Interval:
        """A figure of a group, for example mRCE, with its interval."""
        return interval(*self.sampled(lambda ap: figure(self.robustness(group, ap)), order))

    def sampled(
        self, figure: Callable[[PrecisionOf], Figure], order: DetectionOrder | None = None
    ) -> tuple[float, NDArray[np.float64]]:
        """Any figure computed from AP: of all scenarios, and of each resample.

        Two evaluations of the same scenarios use the same draws, so their samples are paired.

        Args:
            figure: computes it from numbers or arrays.
            order: of the detections; the protocol's by default.
        """
        order = order or self.protocol.order
        estimate = figure(lambda level, iou: self._estimate(level, iou, order))
        samples = figure(lambda level, iou: self._sampled(level, iou, order))
        return float(estimate), np.asarray(samples)

    def robustness(self, group: Group, ap: PrecisionOf | None = None) -> Robustness:
        """AP of a group on clean and on corrupted frames.

        Args:
            group: of corruptions.
            ap: as passed by `sampled`; by default AP of all scenarios in the protocol's order.
        """

        def by_iou(level: Condition) -> dict[float, Figure]:
            return {iou: of(level, iou) for iou in self.protocol.iou_thresholds}

        of = ap or (lambda level, iou: self._estimate(level, iou, self.protocol.order))
        return Robustness(
            by_iou(Condition(CLEAN)),
            {(level.corruption, level.severity): by_iou(level) for level in group.conditions},
        )

    def calibration(self, level: Condition, scaling: Scaling | None = None) -> Reliability:
        """LaECE0 of a level, after scaling the scores if `scaling` is given."""
        return localisation_aware_calibration(self.every_result(level), scaling)

    def calibration_change(self, group: Group, scaling: Scaling | None = None) -> CalibrationRobustness:
        """Change of LaECE0 under a group of corruptions, after scaling the scores if `scaling` is given."""
        return calibration_robustness(
            self.calibration(Condition(CLEAN), scaling),
            {(lv.corruption, lv.severity): self.calibration(lv, scaling) for lv in group.conditions},
        )

    def _estimate(self, level: Condition, iou: float, order: DetectionOrder) -> float:
        return float(np.mean([part.average_precision(iou, order) for part in self._kept[level].values()]))

    def _sampled(self, level: Condition, iou: float, order: DetectionOrder) -> NDArray[np.float64]:
        key = level, iou, order
        if key not in self._samples:
            parts = self._kept[level].values()
            drawn = [self._bootstrap.average_precision(part, iou, order) for part in parts]
            self._samples[key] = np.mean(drawn, axis=0)
        return self._samples[key]
