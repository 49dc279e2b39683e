# SPDX-License-Identifier: Apache-2.0
"""Which neighbours are believed: implausible sweeps are left out, and senders of several are quarantined."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from diffkd_ros.runtime.plausibility.evidence import SILENT, Evidence, Said, by_ego, by_others
from diffkd_ros.runtime.plausibility.view import View

VIEWS = 2
"""Maps that a node examines for one sweep at most."""

_POINTS = 2  # against a sweep from which on it is implausible,
_SHARE = 0.25  # if they are more than this many for each confirmed vehicle
_QUARANTINE, _RELEASE = 4.0, 1.0  # suspicion at which a quarantine begins and below which it ends
_HALF = 1.0  # seconds in which suspicion halves
_SILENT_WEIGHT = 2  # from the second sweep in a row on
_CLEAR = 2  # plausible examinations in a row after which an implausible one is forgotten
_AGAIN = 3, 7  # sweeps after which a map is examined again: drawn, so that liars have no easy pattern
_HOLDS = 10  # sweeps for which an examination holds,
_LONGEST = 5.0  # and seconds
_MOST = 64  # neighbours that are remembered
_NANOSECONDS = 1e9


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a sweep is not to be fused.

    Attributes:
        reason: in words.
        waiting: whether nothing is known against it, but its map has not been examined lately.
    """

    reason: str
    waiting: bool = False


@dataclass(slots=True)
class Record:
    """What is known of a neighbour.

    Attributes:
        suspicion: number of its implausible sweeps, those `_HALF` seconds ago count half.
        quarantined: whether it is in quarantine.
        stamp: of its latest sweep, nanoseconds.
        examined: number and stamp of the latest sweep of the ego for which its map was; None if it never was.
        due: number of the sweep for which it is to be examined again.
        silence: stamps of the first and the last of its sweeps in a row that were `Evidence.silent`; None if
            the last of which that can be said was not.
        outstanding: number of plausible examinations until it is believed again; 0 if it is.
    """

    suspicion: float = 0.0
    quarantined: bool = False
    stamp: int = 0
    examined: tuple[int, int] | None = None
    due: int = 0
    silence: tuple[int, int] | None = None
    outstanding: int = 0

    def advance(self, stamp: int) -> None:
        """Let time pass up to a sweep."""
        elapsed = max(0, stamp - self.stamp) / _NANOSECONDS
        self.suspicion *= 0.5 ** (elapsed / _HALF)
        self.stamp = stamp
        if self.quarantined and self.suspicion < _RELEASE:
            # Its boxes are plausible again; of its map nothing is known.
            self.quarantined, self.outstanding, self.due = False, _CLEAR, 0
        self.quarantined |= self.suspicion >= _QUARANTINE

    def known(self, sweep: int, stamp: int) -> bool:
        """Whether its map has been examined lately, for the ego's sweep of a number and stamp."""
        if self.examined is None:
            return False
        number, then = self.examined
        return sweep - number <= _HOLDS and abs(stamp - then) <= _LONGEST * _NANOSECONDS

    def add(self, implausible: bool) -> None:
        """Note the judgement of the sweep up to which time has passed."""
        self.suspicion += implausible
        self.quarantined |= self.suspicion >= _QUARANTINE

    def note_silence(self, silent: bool | None, stamp: int) -> bool:
        """Whether it is silent for longer than one sweep, of this stamp; `silent` is `Evidence.silent`."""
        if silent is None:
            return False
        first, last = self.silence or (stamp, stamp)
        # The ego may judge a sweep twice, if the next one is lost.
        goes_on = 0 <= stamp - last <= _LONGEST * _NANOSECONDS
        self.silence = (first if goes_on else stamp, stamp) if silent else None
        return silent and goes_on and stamp > first

    def note_examination(self, sweep: int, stamp: int, implausible: bool, due: int) -> None:
        """Note an examination of its map, and the number of the sweep for which the next one is due."""
        self.examined, self.due = (sweep, stamp), due
        self.outstanding = _CLEAR if implausible else max(0, self.outstanding - 1)

    def note_vain_examination(self, sweep: int, stamp: int) -> None:
        """Note one of a sweep that is implausible whatever its map shows, which a later one must clear."""
        if not self.known(sweep, stamp):
            self.examined, self.outstanding = (sweep, stamp), max(1, self.outstanding)
        self.due = sweep + 1


class Judge:
    """Compares what neighbours say with what the ego and other neighbours see.

    A sweep is implausible if there is clearly more against it than for it, and is left out. Several within
    seconds put the sender into quarantine, from which plausible sweeps release it.

    Args:
        most_views: maps of neighbours that are examined for one sweep of the ego; None for all. Boxes are
            compared in each sweep.
    """

    def __init__(self, most_views: int | None = None) -> None:
        self._most_views = most_views
        self._records: dict[str, Record] = {}  # in the order of their latest sweeps
        self.clear()

    def clear(self) -> None:
        """Begin again, with the same draws: a recording that is played again gives the same results."""
        self._records = {}
        self._draws = random.Random(0)
        self._sweep = self._stamp = 0

    def advance(self, stamp: int) -> None:
        """Let time pass up to a sweep of the ego, nanoseconds; begin again if it jumps back."""
        if stamp < self._stamp:
            self.clear()
        self._stamp = stamp

    def to_view(self, names: Sequence[str], stamp: int) -> set[str]:
        """The neighbours whose maps are to be examined for a sweep.

        With a limit: first those that were examined before, but not lately, then those that never were; if
        there are none, one that is to be examined again.

        Args:
            names: of the neighbours.
            stamp: of the ego's sweep, nanoseconds.
        """
        if self._most_views is None:
            return set(names)
        records = {name: self._records.get(name) or Record() for name in names}
        unknown = [name for name, record in records.items() if not record.known(self._sweep, stamp)]
        # Names cost nothing: new ones must not keep those that are known from being examined.
        new = [name for name in unknown if records[name].examined is None]
        before = sorted((name for name in unknown if name not in new), key=lambda name: records[name].due)
        if unknown:
            return set([*before, *new][: self._most_views])
        due = [name for name, record in records.items() if record.due <= self._sweep]
        return set(sorted(due, key=lambda name: records[name].due)[:1])

    def judge(self, ego: View, said: Sequence[Said], stamp: int) -> list[Doubt | None]:
        """Judge the neighbours' sweeps that could be fused in one of the ego's.

        Args:
            ego: what the ego sees by itself.
            said: by the neighbours.
            stamp: of the ego's sweep, nanoseconds.

        Returns:
            For each neighbour why its sweep is left out; None if it is to be fused.
        """
        found = [by_ego(ego, each) for each in said]
        # Before anything is added: the order of the neighbours makes no difference.
        believed = [
            (other, evidence.agreed)
            for other, evidence in zip(said, found, strict=True)
            if evidence.agreed and not evidence.points
        ]
        for each, evidence in zip(said, found, strict=True):
            agreed = evidence.agreed
            others = [other for other, most in believed if other is not each and most > agreed]
            evidence.against['boxes where two other neighbours see none'] = by_others(others, each)
        doubts = [self._doubt(ego, each, evidence, stamp) for each, evidence in zip(said, found, strict=True)]
        while len(self._records) > _MOST:
            del self._records[next(iter(self._records))]
        self._sweep += 1
        return doubts

    def quarantines(self, name: str, stamp: int) -> bool:
        """Whether a neighbour is in quarantine at a sweep of the ego with this stamp, nanoseconds."""
        if name not in self._records:
            return False
        self._records[name].advance(stamp)
        return self._records[name].quarantined

    def _doubt(self, ego: View, said: Said, evidence: Evidence, stamp: int) -> Doubt | None:
        record = self._records.pop(said.name, None) or Record(stamp=stamp)
        self._records[said.name] = record
        record.advance(stamp)
        if record.note_silence(evidence.silent, stamp - round(said.age * _NANOSECONDS)):
            evidence.against[SILENT] = _SILENT_WEIGHT
        implausible = _implausible(evidence)
        record.add(implausible)
        if said.view is not None:
            if implausible and _implausible(_without_map(ego, said, evidence)):
                record.note_vain_examination(self._sweep, stamp)
            else:
                due = self._sweep + self._draws.randint(*_AGAIN)
                record.note_examination(self._sweep, stamp, implausible, due)
        if record.quarantined:
            return Doubt(f'in quarantine, suspicion {record.suspicion:.1f}; {evidence}')
        if implausible:
            return Doubt(str(evidence))
        if not record.known(self._sweep, stamp):
            return Doubt('its map has not been examined lately', waiting=True)
        return Doubt('its map was not found plausible when examined lately') if record.outstanding else None


def _implausible(evidence: Evidence) -> bool:
    return evidence.points >= _POINTS and evidence.points > _SHARE * evidence.agreed


def _without_map(ego: View, said: Said, evidence: Evidence) -> Evidence:
    found = by_ego(ego, replace(said, view=None))
    if said.boxes is not None:  # else the map is what is silent
        found.against[SILENT] = evidence.against[SILENT]
    return found
