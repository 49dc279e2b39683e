# SPDX-License-Identifier: Apache-2.0
"""The conditions of an evaluation: clean frames, ego alone, and corruptions by severity, seed and agents.

They are given as comma-separated lists or as a word that stands for several.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from diffkd_ros.attacks.catalogue import ABSENT, ATTACKS, Attack
from diffkd_ros.attacks.liars import Liars
from diffkd_ros.corruptions import WHO, LinkConditions, Profile, Who, lookup, names
from diffkd_ros.metrics.average_precision import EvaluationError

CLEAN = 'clean'
EGO_ALONE = 'ego_alone'
ALL, NONE, DEFAULT = 'all', 'none', 'default'
CORRUPTED = 'corrupted'
"""In place of an attack: neighbours that do not lie, with corrupted sensors."""
PROFILES: tuple[Profile, ...] = ('graded', 'lab')

Name = TypeVar('Name', bound=str)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition under which the frames are perceived.

    Attributes:
        corruption: its name, or `CLEAN`, or `EGO_ALONE` for clean frames without neighbours.
        severity: from 1; 0 for the two references, which corrupt nothing.
        seed: of the realisation; 0 for the references.
        who: which agents are corrupted; for a link, its senders.
        profile: table of levels that the severity refers to.
        attack: name of an attack, or `absent` for neighbours that send nothing; empty for none.
        liars: how many neighbours attack; None for none.
    """

    corruption: str
    severity: int = 0
    seed: int = 0
    who: Who = 'all'
    profile: Profile = 'graded'
    attack: str = ''
    liars: Liars | None = None

    @property
    def reference(self) -> bool:
        """Returns whether nothing is corrupted."""
        return self.severity == 0

    @property
    def over_links(self) -> bool:
        """Returns whether the link is corrupted."""
        return not self.reference and lookup(self.corruption).family == 'link'

    @property
    def link(self) -> LinkConditions:
        """Conditions of the links; ideal unless the link is corrupted."""
        if not self.over_links:
            return LinkConditions()
        return LinkConditions(**lookup(self.corruption).parameters(self.severity, self.profile))

    @property
    def needs_history(self) -> bool:
        """Returns whether messages may be lost or late, so that earlier frames matter."""
        link = self.link
        return link.loses_chunks or max(link.message_loss, link.burst_loss, link.delay, link.jitter) > 0

    @property
    def random(self) -> bool:
        """Returns whether the result depends on the seed, as it does not for quantisation and bandwidth."""
        return not self.reference and (not self.over_links or self.link.random)

    @property
    def degrades(self) -> Literal['map', 'chunks'] | None:
        """The only kind of message it applies to: feature maps, or messages of chunks; None for any."""
        if self.link.loses_chunks:
            return 'chunks'
        return 'map' if self.link.tile_loss > 0 or self.link.bits is not None else None

    @property
    def lie(self) -> Attack:
        """The attack, of a condition that has one."""
        return ABSENT if self.attack == ABSENT.name else ATTACKS[self.attack]

    @property
    def level(self) -> Condition:
        """The same condition with seed 0, which represents all seeds."""
        return replace(self, seed=0)

    @property
    def name(self) -> str:
        """Name of files and folders."""
        if self.attack:
            return f'{self.attack}-{self.liars}-seed{self.seed}'
        if self.reference:
            return self.corruption
        return f'{self.corruption}-{self.profile}-{self.severity}-{self.who}-seed{self.seed}'


REFERENCES = (Condition(CLEAN), Condition(EGO_ALONE))


def make_conditions(
    corruptions: str = ALL,
    severities: str = ALL,
    who: str = DEFAULT,
    seeds: str = '0',
    profile: str = 'graded',
) -> list[Condition]:
    """The conditions requested, after the two references.

    Args:
        corruptions: names, or `all`, `none`, `lidar`, `pose`, `link`, `paper`, `held_out`.
        severities: numbers from 1, or `all`. Severities that a corruption lacks are skipped.
        who: of `ego`, `neighbours` and `all`, or `default`: the sensors of all, the poses of the neighbours.
            Link corruptions always apply to the neighbours.
        seeds: numbers from 0. Conditions that are not random are measured once, with seed 0.
        profile: `graded` or `lab`; words for several corruptions stand for those with this profile.

    Raises:
        EvaluationError: if a value is unknown (names the nearest known one), repeated, or has no level.
        CorruptionError: if a corruption is unknown.
    """
    chosen_profile = check_known('profile', profile, PROFILES)
    chosen = _corruptions(corruptions, chosen_profile)
    levels = None if severities == ALL else _numbers(severities, 'severity', 1)
    realisations = _numbers(seeds, 'seed', 0)
    hit = None if who == DEFAULT else [check_known('agents', part, WHO) for part in _parts(who, 'agents')]
    conditions = list(REFERENCES)
    unused = set(levels or ())
    for name in chosen:
        corruption = lookup(name)
        known = corruption.severities(chosen_profile)
        if not known:
            raise EvaluationError(
                f'{name} has no levels in profile {profile!r}, only in {list(corruption.profiles)}'
            )
        at = [level for level in known if levels is None or level in levels]
        if not at:
            raise EvaluationError(
                f'{name} has severities {list(known)} in profile {profile!r}, got {severities!r}'
            )
        unused -= set(at)
        targets: Sequence[Who] = (corruption.hits,) if hit is None or corruption.family == 'link' else hit
        levels_of = [Condition(name, level, 0, target, chosen_profile) for target in targets for level in at]
        conditions += [
            replace(level, seed=seed)
            for level in levels_of
            for seed in (realisations if level.random else [0])
        ]
    if unused and chosen:
        raise EvaluationError(f'no corruption chosen has severity {sorted(unused)} in profile {profile!r}')
    return conditions


def make_attacks(attacks: str, liars: str, seeds: str, optimised: bool) -> dict[int, list[Condition]]:
    """The attacks requested, after the references: clean frames, ego alone, and absent liars.

    Args:
        attacks: names, `corrupted`, or `all`.
        liars: how many of how many neighbours attack, as in `1of2,2of4`.
        seeds: numbers from 0; they choose the liars and draw their lies.
        optimised: whether attacks by gradients are possible; without, `all` leaves them out.

    Returns:
        Conditions by the number of the ego's neighbours; those of `corrupted` for the fewest.

    Raises:
        EvaluationError: if a value is unknown (names the nearest known one), repeated or not possible.
    """
    if attacks == ALL:
        chosen = [name for name, attack in ATTACKS.items() if optimised or not attack.optimised]
        corrupted = True
    else:
        parts = _parts(attacks, 'attack')
        corrupted = CORRUPTED in parts
        chosen = [check_known('attack', part, ATTACKS) for part in parts if part != CORRUPTED]
    if needing := [name for name in chosen if ATTACKS[name].optimised and not optimised]:
        raise EvaluationError(f'{needing[0]} needs a checkpoint to compute gradients of: --attack-checkpoint')
    conditions: dict[int, list[Condition]] = {}
    realisations = _numbers(seeds, 'seed', 0)
    for number in map(_liars, _parts(liars, 'liars')):
        rows = conditions.setdefault(number.neighbours, list(REFERENCES))
        rows += [
            Condition(CLEAN, seed=seed, attack=name, liars=number)
            for name in (ABSENT.name, *chosen)
            for seed in realisations
        ]
    if corrupted:
        conditions[min(conditions)] += corrupted_honest()
    return conditions


def corrupted_honest() -> list[Condition]:
    """The seven corruptions of the paper at all severities, of the neighbours' sensors, drawn once."""
    return make_conditions('paper', ALL, 'neighbours')[len(REFERENCES) :]


def attack_of(name: str) -> Condition | None:
    """The condition of an attack, or of absent liars, with a `Condition.name`; None for other names."""
    match = re.fullmatch(r'(\w+)-([1-9])of([1-9])-seed(\d+)', name)
    if match is None or match[1] not in (ABSENT.name, *ATTACKS):
        return None
    return Condition(CLEAN, seed=int(match[4]), attack=match[1], liars=Liars(int(match[3]), int(match[2])))


def _liars(text: str) -> Liars:
    match = re.fullmatch('([1-9])of([1-9])', text)
    if match is None or int(match[1]) > int(match[2]):
        raise EvaluationError(f'liars: expected how many of how many neighbours, as in 1of2; got {text!r}')
    return Liars(int(match[2]), int(match[1]))


def _corruptions(text: str, profile: Profile) -> list[str]:
    many = {
        ALL: names(profile=profile),
        NONE: (),
        'lidar': names('lidar', profile=profile),
        'pose': names('pose', profile=profile),
        'link': names('link', profile=profile),
        'paper': names(role='paper', profile=profile),
        'held_out': names(role='held_out', profile=profile),
    }
    if text in many:
        return list(many[text])
    chosen: list[str] = []
    for part in _parts(text, 'corruption'):
        chosen += many[part] if part in many else [lookup(part).name]
    return list(dict.fromkeys(chosen))


def _parts(text: str, what: str) -> list[str]:
    parts = [part.strip() for part in text.split(',')]
    if not all(parts) or len(set(parts)) < len(parts):
        raise EvaluationError(f'{what}: expected a list such as a,b without repetitions, got {text!r}')
    return parts


def _numbers(text: str, what: str, least: int) -> list[int]:
    numbers = []
    for part in _parts(text, what):
        if not re.fullmatch('[0-9]{1,9}', part) or int(part) < least:
            raise EvaluationError(f'{what}: expected whole numbers from {least}, such as 1,2; got {text!r}')
        numbers.append(int(part))
    return numbers


def check_known(what: str, name: str, known: Iterable[Name]) -> Name:
    """Find a name among the known ones.

    Raises:
        EvaluationError: if it is not among them; names the nearest.
    """
    named = {str(one): one for one in known}
    if name not in named:
        nearest = difflib.get_close_matches(name, named, 1, 0.0)[0]
        raise EvaluationError(f'no {what} {name!r}; the nearest is {nearest!r} of {", ".join(named)}')
    return named[name]
