# SPDX-License-Identifier: Apache-2.0
"""Figures of an evaluation of attacks, and their file."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from diffkd_ros.evaluation.summary import Number
from diffkd_ros.metrics.result_file import write_json

TRUST = 'trust.json'
_NAN = float('nan')


class Figures(BaseModel):
    """AP at IoU 0.5 and 0.7, and false boxes a frame, see `false_boxes`."""

    model_config = ConfigDict(frozen=True)

    ap50: Number
    ap70: Number
    false_boxes: Number


class AttackFigures(Figures):
    """Figures of an attack.

    Attributes:
        lost: share of the vehicles that the ego finds alone and no longer with its neighbours, at IoU 0.5.
        detected: share of the lies whose sender was refused or taken for a liar; NaN if nothing judges.
        delay: mean seconds of the drives until a liar was first refused or taken for one; NaN if none was, or
            if the frames are not successive.
    """

    lost: Number
    detected: Number = _NAN
    delay: Number = _NAN


class References(BaseModel):
    """The frames with nobody lying, with the liars sending nothing, and without neighbours."""

    model_config = ConfigDict(frozen=True)

    honest: Figures
    liar_absent: Figures
    ego_alone: Figures


class Trust(References):
    """All figures of an evaluation of attacks, the contents of `trust.json`.

    Earlier runs in the folder are included. The references are those of the fewest neighbours and liars, and
    of each choice of liars in `references`. `attacks` has figures by name and by liars. `false_quarantine` is
    the share of honest senders that are taken for liars, NaN if nothing judges.
    """

    attacks: dict[str, dict[str, AttackFigures]]
    false_quarantine: Number
    left_out_honest: dict[str, Number]
    references: dict[str, References]
    model: str
    cooperation: str
    source: str
    frames: dict[str, int]
    seeds: list[int]

    @classmethod
    def read(cls, folder: Path) -> Trust:
        """Read `trust.json`.

        Raises:
            OSError: if there is none.
            ValueError: if its contents are something else.
        """
        return cls.model_validate_json((folder / TRUST).read_text())

    def write(self, folder: Path) -> None:
        """Write `trust.json`."""
        write_json(folder / TRUST, self.model_dump())
