# SPDX-License-Identifier: Apache-2.0
"""The figures of an evaluation as one typed object that is written to `summary.json` and read from it.

AP and calibration errors are shares in [0, 1], relative errors percent, intervals the (low, high) ends of 95
% intervals over scenarios. A figure that is unknown is NaN, and null in the file; one that the file does not
contain is NaN too, and is not written again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from diffkd_ros.documents import read_json
from diffkd_ros.errors import DiffkdError
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.metrics.robustness import Robustness
from diffkd_ros.sources.dataset import account

SUMMARY = 'summary.json'
# Lines of a source that are printed.
_SHOWN = 10
_NAN = float('nan')

Number = Annotated[float, BeforeValidator(lambda value: _NAN if value is None else value)]
Ends = tuple[Number, Number]
"""Low and high end of an interval."""
_UNKNOWN: Ends = (_NAN, _NAN)


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True)


class LevelMeans(_Figures):
    """Figures of a level, or their means over the severities of a corruption.

    AP at IoU 0.3, 0.5 and 0.7; false alarms per frame where no agent had a return; bit rate of a sending
    vehicle; mean reliability of the ego; mean weights in the fusion.
    """

    ap30: Number = _NAN
    ap50: Number = _NAN
    ap70: Number = _NAN
    false_boxes_outside: Number = _NAN
    link_mbit_s: Number = _NAN
    ego_reliability: Number = _NAN
    gate_ego: Number = _NAN
    gate_neighbours: Number = _NAN

    @property
    def by_iou(self) -> dict[float, float]:
        """AP by the IoU thresholds of mRCE."""
        return {0.5: self.ap50, 0.7: self.ap70}


class LevelFigures(LevelMeans):
    """Figures of one level, with the intervals of AP."""

    ap30_interval: Ends = _UNKNOWN
    ap50_interval: Ends = _UNKNOWN
    ap70_interval: Ends = _UNKNOWN


class CorruptionFigures(LevelMeans):
    """Means over the severities of a corruption, its relative errors at IoU 0.5 and 0.7, and each severity.

    `who` is corrupted; `family` is `lidar`, `pose` or `link`.
    """

    rce_ap50: Number = _NAN
    rce_ap70: Number = _NAN
    who: str = ''
    family: str = ''
    severities: dict[int, LevelFigures] = {}


class CalibrationChange(_Figures):
    """Change of LaECE0 under a group of corruptions, as in `CalibrationRobustness`.

    Levels are named like `fog 2`.
    """

    laece0_mean_change: Number = _NAN
    mrce_cal: Number = _NAN
    laece0_change: dict[str, Number] = {}
    skipped: list[str] = []


class ScaledCalibration(CalibrationChange):
    """Calibration after scaling the scores by a method fitted to the frames of another source."""

    method: str
    fitted_on: str
    temperatures: dict[str, float]
    laece0: Number
    laece0_overconfidence: Number
    d_ece_ap50: Number


class CalibrationFigures(CalibrationChange):
    """Calibration of clean frames, and its change under the paper's corruptions if they were measured.

    LRP is taken at IoU 0.5 and the model's score threshold; `detections` is the number of those judged.
    """

    laece0: Number = _NAN
    laece0_overconfidence: Number = _NAN
    d_ece_ap50: Number = _NAN
    lrp_ap50: Number = _NAN
    detections: int = 0
    scaled: ScaledCalibration | None = None


class GroupFigures(_Figures):
    """Mean relative errors of a group of corruptions, over both IoU 0.5 and 0.7 or at one of them.

    `group` is `paper`, `held_out`, `pose` or `link`. `mrr` is 100 - mRCE. The last two are mRCE with the
    detections in either order.
    """

    group: str
    who: str = ''
    profile: str = ''
    corruptions: list[str] = []
    mrce: Number = _NAN
    mrce_interval: Ends = _UNKNOWN
    mrce_ap50: Number = _NAN
    mrce_ap50_interval: Ends = _UNKNOWN
    mrce_ap70: Number = _NAN
    mrce_ap70_interval: Ends = _UNKNOWN
    mrce_without_crosstalk: Number = _NAN
    mrce_without_crosstalk_interval: Ends = _UNKNOWN
    mrr: Number = _NAN
    mrce_global: Number = _NAN
    mrce_per_frame: Number = _NAN
    calibration: CalibrationChange = CalibrationChange()


class Latency(_Figures):
    """Median milliseconds from points to the ego's feature map, and from feature maps to boxes."""

    encode: Number = _NAN
    fuse: Number = _NAN


class LeftOut(_Figures):
    """What was not measured.

    Frames with reasons, by `condition/scenario/position`; what the source left out of the scored frames, by
    reason, with counts; what it says about itself as a whole; scenarios without a usable frame; conditions
    that lack results for a scenario; conditions of messages that are not sent.
    """

    frames: dict[str, str] = {}
    parts: dict[str, int] = {}
    source: list[str] = []
    scenarios: list[str] = []
    conditions: list[str] = []
    not_of_this_cooperation: list[str] = []

    def sentences(self) -> list[str]:
        """The same as text, a sentence for each kind; empty if all was measured."""
        lines = []
        if self.frames:
            key, reason = next(iter(self.frames.items()))
            lines.append(
                f'{len(self.frames)} times a frame could not be run under a condition and is not in its '
                f'figures; the first: {key}: {reason}.'
            )
        lines += [f'Of the scored frames {line}.' for line in account(self.parts)]
        lines += [f'{line}.' for line in self.source[:_SHOWN]]
        if len(self.source) > _SHOWN:
            lines.append(f'{len(self.source) - _SHOWN} more such lines are in {SUMMARY}.')
        for names, text in (
            (self.scenarios, 'Scenarios without a usable frame, left out'),
            (self.conditions, 'Conditions that lack results for a scenario, left out'),
            (self.not_of_this_cooperation, 'Left out, because no such messages are sent'),
        ):
            if names:
                lines.append(f'{text}: {", ".join(names)}.')
        return lines


class Run(_Figures):
    """What was evaluated, with which version and when (ISO 8601)."""

    model: str = ''
    model_description: str = ''
    cooperation: str = ''
    answers: list[str] = []
    source: str = ''
    frames_per_scenario: int | None = None
    seeds: list[int] = []
    left_out: LeftOut = LeftOut()
    written: str = ''
    version: str = ''


class Summary(_Figures):
    """All figures of an evaluation.

    `mrce` to `mrce_interval` are those of the paper's corruptions `mrce_of`. Corruptions are by name; those
    of a second choice of corrupted agents by `name (who)`. `link_mbit_s` and `latency_ms` are of clean
    frames. `mce` is percent, against the run in the folder `mce_baseline`.
    """

    mrce: Number = _NAN
    mrce_ap50: Number = _NAN
    mrce_ap70: Number = _NAN
    mrce_without_crosstalk: Number = _NAN
    mrr: Number = _NAN
    mrce_interval: Ends | None = None
    mrce_of: list[str] = []
    clean: LevelFigures
    ego_alone: LevelFigures = LevelFigures()
    corruptions: dict[str, CorruptionFigures] = {}
    groups: list[GroupFigures] = []
    calibration: CalibrationFigures = CalibrationFigures()
    link_mbit_s: Number = _NAN
    latency_ms: Latency = Latency()
    protocol: str = ''
    order: str = ''
    min_score: Number = _NAN
    scenarios: int = 0
    frames: int = 0
    truths: int = 0
    run: Run = Run()
    mce: Number = _NAN
    mce_baseline: str = ''

    def serialize(self) -> dict[str, Any]:
        """The figures as plain types, by the keys of the file."""
        return self.model_dump(exclude_unset=True)

    def write(self, folder: Path) -> None:
        """Write `summary.json`."""
        write_json(folder / SUMMARY, self.serialize())

    @classmethod
    def read(cls, folder: Path) -> Summary:
        """Read `summary.json`.

        Raises:
            EvaluationError: if there is no such file or it is not a summary.
        """
        path = folder / SUMMARY
        try:
            return cls.model_validate(read_json(path))
        except (DiffkdError, ValidationError) as error:
            reason = error.errors()[0] if isinstance(error, ValidationError) else error
            raise EvaluationError(f'{path} is not a summary: {reason}') from error

    def group(self, name: str) -> GroupFigures:
        """The first group of a name; without figures if none was measured."""
        return next((group for group in self.groups if group.group == name), GroupFigures(group=name))

    def robustness(self) -> Robustness:
        """AP of the clean frames and of the paper's corruptions.

        Raises:
            EvaluationError: if none of these corruptions was measured.
        """
        return Robustness(
            self.clean.by_iou,
            {
                (name, severity): figures.by_iou
                for name in self.mrce_of
                for severity, figures in self.corruptions[name].severities.items()
            },
        )

    def against(self, folder: Path) -> Summary:
        """Add the mCE of the paper's corruptions against the run in another folder.

        Raises:
            EvaluationError: if the folder holds no summary, or one of other conditions or another protocol.
        """
        try:
            other = Summary.read(folder)
            theirs = other._circumstances()
            for what, value in self._circumstances().items():
                if theirs[what] != value:
                    raise EvaluationError(f'its {what} are {theirs[what]!r}, not {value!r}')
            mce = float(self.robustness().mce(other.robustness()))
        except EvaluationError as error:
            raise EvaluationError(f'{folder} cannot be a baseline: {error}') from error
        return self.model_copy(update={'mce': mce, 'mce_baseline': str(folder)})

    def _circumstances(self) -> dict[str, Any]:
        """What two runs must have in common, besides the corruptions, for their errors to be compared."""
        paper = self.group('paper')
        return {
            'rules of scoring': self.protocol,
            'scenarios, frames and vehicles': [self.scenarios, self.frames, self.truths],
            'seeds': self.run.seeds,
            'corrupted agents and their profile': [paper.who, paper.profile],
        }
