# SPDX-License-Identifier: Apache-2.0
"""An ego with two vehicles and a recorder, and a fault every few seconds.

    python test/faults/storm.py --minutes 30 --every 5 --seed 1 --out storm

The nodes are processes of a DDS domain of their own, on the loopback interface. A process publishes sweeps of
a simulated drive to them. Each kind of fault comes once in every round, in an order drawn by the seed. The
script prints a table by kind and writes storm.json. It exits with 1 if the ego ends, if its books do not
balance, if an answer is missing, or if a recording cannot be read; with --strict also if the ego answers
nothing for more than 1 s while it gets sweeps. With --rounds it ends after so many of each kind.

Books: sweeps published = fused + overwritten + refused + failed + pending + lost on the way, of which the ego
must know by the gaps between the stamps, unless the sender was killed or the clock stepped; and features
received = fused + refused + overwritten + waiting.
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from observer import Observer, memory_of, sweeps_of, unbalanced
from patience import PATIENCE, until
from storm_faults import FAULTS, LASTS
from storm_setup import Setup

from diffkd_ros.launching.middleware import fast_dds_environment
from diffkd_ros.launching.processes import NodeGroup
from diffkd_ros.share import share_directory
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

LONGEST_PAUSE = 1.0
# Sweeps that a start or the end of the sender may lose, before or after the ego knows it.
_PER_START = 2
# An interval between two sweeps of more periods is a pause of the sender.
_PERIODS = 2.0


@dataclass
class Applied:
    """A fault that was applied.

    Attributes:
        name: of the fault.
        begin: monotonic seconds.
        end: when the next one began.
        pause: longest one of the ego that began or was in the middle between, seconds.
        published: sweeps of the ego between.
        unanswered: of these.
    """

    name: str
    begin: float
    end: float = 0.0
    pause: float = 0.0
    published: int = 0
    unanswered: int = 0


def pauses(
    answers: Sequence[float], published: Sequence[float], period: float
) -> Iterator[tuple[float, float]]:
    """The middle and the length of each interval between two answers, without pauses of the sender.

    Args:
        answers: when the ego answered, ascending, monotonic seconds.
        published: when sweeps were published, ascending.
        period: of the sweeps, seconds.
    """
    silent = [(a + period, b) for a, b in pairwise(published) if b - a > _PERIODS * period]
    for begin, end in pairwise(answers):
        explained = sum(max(0.0, min(end, b) - max(begin, a)) for a, b in silent)
        yield (begin + end) / 2, end - begin - explained


class Storm:
    """One run.

    Args:
        setup: of the processes.
        options: of the command line.
    """

    def __init__(self, setup: Setup, options: argparse.Namespace) -> None:
        self.setup, self._options = setup, options
        self.applied: list[Applied] = []
        self.complaints: list[str] = []

    def _drawn(self) -> Iterator[str]:
        draw = random.Random(self._options.seed)
        rounds = 0
        while rounds != self._options.rounds:
            yield from draw.sample(list(self._options.faults), len(self._options.faults))
            rounds += 1

    def _apply(self, name: str, number: int) -> None:
        begin = time.monotonic()
        self.applied.append(Applied(name, begin))
        undo = FAULTS[name](self.setup, number)
        try:
            time.sleep(min(LASTS, self._options.every))
        finally:
            undo()
        time.sleep(max(0.0, begin + self._options.every - time.monotonic()))
        self.applied[-1].end = time.monotonic()

    def run(self) -> dict[str, object]:
        """Apply the faults, and return the result."""
        setup = self.setup
        until(self._cooperates, 'an answer with a neighbour')
        begun = time.monotonic()
        memory = []
        for number, name in enumerate(self._drawn()):
            passed = time.monotonic() - begun
            if setup.ego.returncode is not None or passed > 60.0 * self._options.minutes:
                break
            print(f'{passed:5.0f} s: {name}', flush=True)
            if number % len(self._options.faults) == 0:
                memory.append(memory_of(setup.ego, passed))
            self._apply(name, number)
        result: dict[str, object] = {}
        if setup.ego.returncode is None:
            memory.append(memory_of(setup.ego, time.monotonic() - begun))
            setup.sender.end(PATIENCE)
            # The last sweep is processed, and a report has been made after that.
            until(lambda: not self._pending(), 'the last answer')
            setup.kill(setup.recorder, signal.SIGINT)
            setup.recorded('SIGINT')
            result = self._books()
        else:
            self.complaints.append(f'the ego ended with code {setup.ego.returncode}: {setup.ego.tail()}')
        self._measure()
        self.complaints += [f'recording, {r.by}: {r.problem}' for r in setup.recordings if r.problem]
        return {
            'seconds': round(time.monotonic() - begun, 1),
            'every': self._options.every,
            'seed': self._options.seed,
            'load': os.getloadavg()[0],
            **result,
            # Before each round, and at the end.
            'ego memory [MB]': [each.own for each in memory if each is not None],
            'faults': self.table(),
            'long pauses': [asdict(each) for each in self.applied if each.pause > LONGEST_PAUSE],
            'recordings': [asdict(each) for each in setup.recordings],
            'complaints': self.complaints,
        }

    def _cooperates(self) -> bool:
        status = self.setup.observer.status
        return status is not None and any(neighbour.accepted for neighbour in status.neighbours)

    def _pending(self) -> int:
        observer = self.setup.observer
        seen = observer.reports
        until(lambda: observer.reports > seen + 1, 'diagnostics')
        return sweeps_of(observer.diagnostics['input'])['pending']

    def _books(self) -> dict[str, object]:
        observer, published = self.setup.observer, self.setup.sender.published
        sweeps = sweeps_of(observer.diagnostics['input'])
        link = {key: int(value) for key, value in observer.diagnostics['neighbours'].items()}
        complain = self.complaints.append
        self.complaints += unbalanced(sweeps, link)
        lost = len(published) - sweeps['received']
        steps = sum(each.name.startswith('clock') for each in self.applied)
        known = sweeps['missing'] + sweeps['pauses'] + 2 * steps + _PER_START * self.setup.sender.starts
        if not 0 <= lost <= known:
            complain(
                f'{len(published)} sweeps published, {sweeps["received"]} received, {known} known as lost'
            )
        stamps = [answer.stamp for answer in observer.answers]
        if len(set(stamps)) < len(stamps) or set(stamps) - {sweep.stamp for sweep in published}:
            complain('an answer is repeated, or of no sweep')
        if len(stamps) != sweeps['fused']:
            complain(f'{sweeps["fused"]} sweeps fused, {len(stamps)} answers')
        return {'sweeps': {'published': len(published), 'lost': lost, **sweeps}, 'link': link}

    def _measure(self) -> None:
        published, answers = self.setup.sender.published, self.setup.observer.answers
        answered = {answer.stamp for answer in answers}
        begins = [each.begin for each in self.applied]

        def at(moment: float) -> Applied | None:
            number = bisect.bisect(begins, moment) - 1
            return self.applied[number] if number >= 0 and moment < self.applied[number].end else None

        for sweep in published:
            if (fault := at(sweep.at)) is not None:
                fault.published += 1
                fault.unanswered += sweep.stamp not in answered
        times = [sweep.at for sweep in published]
        ends = [answer.at for answer in answers]
        if published:
            # Sweeps at the end that are not answered.
            ends.append(max(times[-1], ends[-1] if ends else times[0]))
        for middle, length in pauses(ends, times, 1 / self._options.rate):
            if (fault := at(middle)) is not None:
                fault.pause = max(fault.pause, length)

    def table(self) -> dict[str, dict[str, float]]:
        """Figures by kind of fault."""
        table = {}
        for name in self._options.faults:
            own = [each for each in self.applied if each.name == name]
            table[name] = {
                'count': len(own),
                'longest pause [s]': round(max((each.pause for each in own), default=0.0), 2),
                'pauses over 1 s': sum(each.pause > LONGEST_PAUSE for each in own),
                'sweeps': sum(each.published for each in own),
                'not answered': sum(each.unanswered for each in own),
            }
        return table


def show(result: dict) -> str:
    """The table as Markdown."""
    rows = ['| fault | ' + ' | '.join(next(iter(result['faults'].values()))) + ' |', '|---|' + 5 * '---|']
    for name, figures in result['faults'].items():
        rows.append(f'| {name} | ' + ' | '.join(str(value) for value in figures.values()) + ' |')
    return '\n'.join(rows)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--minutes', type=float, default=30.0)
    parser.add_argument('--rounds', type=int, default=-1, help='of all kinds of faults; -1: as time allows')
    parser.add_argument('--every', type=float, default=5.0, help='seconds from one fault to the next')
    parser.add_argument('--faults', nargs='+', choices=FAULTS, default=list(FAULTS))
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--rate', type=float, default=5.0, help='sweeps per second')
    parser.add_argument('--frames', type=int, default=60, help='of the drive')
    parser.add_argument(
        '--strict', action='store_true', help='a pause of the ego of more than 1 s is a failure'
    )
    parser.add_argument('--model', default='sim_edge')
    parser.add_argument('--domain', type=int, default=94, help='DDS domain')
    parser.add_argument('--out', type=Path, default=None, help='folder for storm.json, logs and recordings')
    options = parser.parse_args()
    out = (options.out or Path(tempfile.mkdtemp(prefix='storm'))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    environment = {
        **fast_dds_environment(share_directory(), loopback=True),
        'ROS_DOMAIN_ID': str(options.domain),
        'ROS_LOG_DIR': str(out / 'ros'),
        'OMP_NUM_THREADS': '1',
        'OPENBLAS_NUM_THREADS': '1',
    }
    os.environ.update(environment)
    config = SimulatorConfig(agents=3, frames_per_scenario=options.frames, rate=options.rate)
    scenario = Simulator(config, seed=77).scenario(0)
    drive = [scenario.frame(number) for number in range(options.frames)]
    observer = Observer(options.domain)
    observer.start()
    try:
        with NodeGroup([share_directory() / 'config' / 'coop.yaml'], out, environment) as group:
            setup = Setup(
                group,
                observer,
                drive,
                out,
                options.model,
                options.domain,
                options.rate,
                environment,
                PATIENCE,
            )
            try:
                storm = Storm(setup, options)
                result = storm.run()
            finally:
                setup.sender.kill()
    finally:
        observer.close()
    if options.strict:
        storm.complaints += [
            f'{each.name}: no answer for {each.pause:.2f} s'
            for each in storm.applied
            if each.pause > LONGEST_PAUSE
        ]
    (out / 'storm.json').write_text(json.dumps(result, indent=2))
    print(show(result))
    print(json.dumps({key: result[key] for key in result if key != 'faults'}, indent=2))
    return 1 if storm.complaints else 0


if __name__ == '__main__':
    sys.exit(main())
