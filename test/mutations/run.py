# SPDX-License-Identifier: Apache-2.0
"""Gives readers damaged input and lists everything that is not a `DiffkdError` or a finite result.

    python test/mutations/run.py --reader pcd --count 100000

A case follows from the reader's name, the seed and its number; `--show NUMBER` prints it. It is at fault if

- another error than a `DiffkdError` is raised, or one that was caused by a lack of memory,
- a result holds a number that is not finite,
- it takes more than a second of CPU time, or
- it allocates more than 512 MiB, or the process dies.

Memory is limited by RLIMIT_DATA, counted from what the process has after reading undamaged input: beyond
that, allocations fail. RLIMIT_AS would count the libraries that PyTorch and ONNX Runtime map. Cases run in a
forked process; if it dies or hangs, another one goes on after the case at fault.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from cases import Reader
from changes import not_finite

from diffkd_ros.errors import DiffkdError

MEMORY = 512 << 20
SECONDS = 1.0
# CPU seconds after which a case is ended.
LONGEST = 2.0

Readers = Mapping[str, type[Reader]]


@dataclass(frozen=True)
class Result:
    """What became of a case.

    Attributes:
        number: of the case.
        refusal: message of the `DiffkdError`; empty if the case was read.
        fault: error's name, `memory`, `time`, `not finite` or `died`; empty if there is none.
        place: last line of the package that was executed, where it is known.
        detail: of the fault.
        seconds: CPU time.
        peak: largest resident size of the process so far, bytes.
    """

    number: int
    refusal: str = ''
    fault: str = ''
    place: str = ''
    detail: str = ''
    seconds: float = 0.0
    peak: int = 0


@dataclass
class Outcome:
    """Totals of the cases of a reader.

    Attributes:
        reader: its name.
        cases: number of cases, each with so many `parts` that are damaged.
        refused: cases that raised a `DiffkdError`.
        messages: number of different error messages, apart from the values in them.
        slowest: CPU seconds of the slowest case.
        cpu: CPU seconds of all.
        peak: MiB by which the resident size grew.
        faults: the cases at fault.
    """

    reader: str
    parts: int
    cases: int = 0
    refused: int = 0
    messages: int = 0
    slowest: float = 0.0
    cpu: float = 0.0
    peak: float = 0.0
    faults: list[Result] = field(default_factory=list)


def run(readers: Readers, name: str, count: int, seed: int = 0, first: int = 0) -> Outcome:
    """Give a reader so many damaged inputs, from case `first` on."""
    outcome, messages = Outcome(name, readers[name].parts), set[str]()
    number, last = first, first + -(-count // readers[name].parts)
    while number < last:
        for result in _forked(readers[name], name, seed, range(number, last)):
            number = result.number + 1
            outcome.cases += 1
            if result.fault:
                outcome.faults.append(result)
            elif result.refusal:
                outcome.refused += 1
                messages.add(_pattern(result.refusal))
            outcome.cpu += result.seconds
            outcome.slowest = max(outcome.slowest, result.seconds)
            outcome.peak = max(outcome.peak, result.peak / 2**20)
    outcome.messages = len(messages)
    return outcome


def case_of(reader: Reader, name: str, seed: int, number: int) -> Any:
    """The damaged input of this number."""
    return reader.case(random.Random(f'{name}/{seed}/{number}'))


def _pattern(message: str) -> str:
    """A message without the values in it."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*|[-+.\d]+|\[.*\]", '', message)[:80]


def _forked(kind: type[Reader], name: str, seed: int, numbers: range) -> Iterator[Result]:
    """The results of cases in a process of their own, up to one that it does not survive."""
    folder = Path(tempfile.mkdtemp(prefix='mutations-'))
    ours, theirs = os.pipe()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os.close(ours)
        status = 1
        try:
            with os.fdopen(theirs, 'wb', buffering=0) as pipe:
                for result in _results(kind(folder), name, seed, numbers):
                    pickle.dump(result, pipe)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(theirs)
    number = numbers.start
    try:
        with os.fdopen(ours, 'rb') as pipe:
            while True:
                try:
                    result = pickle.load(pipe)
                except (EOFError, pickle.UnpicklingError):
                    break
                number = result.number + 1
                yield result
    finally:
        _, status = os.waitpid(child, 0)
        shutil.rmtree(folder, ignore_errors=True)
    if os.WIFSIGNALED(status):
        ended = signal.Signals(os.WTERMSIG(status))
        fault = 'time' if ended is signal.SIGPROF else 'died'
        yield Result(
            number, fault=fault, detail=f'ended by {ended.name}', seconds=LONGEST * (fault == 'time')
        )
    elif status:
        raise RuntimeError(f'{name}: not a fault of the reader, see above')


def _size(key: str) -> int:
    """A size of this process in bytes."""
    (line,) = (
        line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(f'{key}:')
    )
    return int(line.split()[1]) << 10


def _results(reader: Reader, name: str, seed: int, numbers: range) -> Iterator[Result]:
    warnings.simplefilter('ignore')
    logging.disable()
    # Libraries that print.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for valid in reader.valid():
        if problem := not_finite(reader.read(valid)):
            raise ValueError(f'an undamaged result is not finite: {problem}')
    before = _size('VmHWM')
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_size('VmData') + MEMORY, resource.RLIM_INFINITY))
    for number in numbers:
        case = case_of(reader, name, seed, number)
        signal.setitimer(signal.ITIMER_PROF, LONGEST)
        begun = time.process_time()
        refusal = fault = place = detail = ''
        try:
            if problem := not_finite(reader.read(case)):
                fault, detail = 'not finite', problem
        except DiffkdError as error:
            refusal = str(error) or type(error).__name__
            if (cause := _memory_error(error)) is not None:
                fault, place, detail = 'memory', _place(cause), _text(cause)
        except BaseException as error:
            fault = 'memory' if isinstance(error, MemoryError) else type(error).__name__
            place, detail = _place(error), _text(error)
        seconds = time.process_time() - begun
        signal.setitimer(signal.ITIMER_PROF, 0)
        if not fault and seconds > SECONDS:
            fault, detail = 'time', f'{seconds:.1f} s of CPU time'
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
        yield Result(number, refusal[:200], fault, place, detail, seconds, peak)


def _memory_error(error: BaseException | None) -> BaseException | None:
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error


def _text(error: BaseException) -> str:
    return ''.join(line[:600] for line in traceback.format_exception(error, limit=-4))[-2000:]


def _place(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if '/diffkd_ros/' in f.filename]
    return f'{frames[-1].filename.rpartition("/diffkd_ros/")[2]}:{frames[-1].lineno}' if frames else ''


def _print(outcome: Outcome) -> None:
    print(
        f'{outcome.reader}: {outcome.cases} cases of {outcome.parts}, {outcome.refused} refused with '
        f'{outcome.messages} messages, {len(outcome.faults)} at fault; slowest {outcome.slowest:.2f} s, '
        f'all {outcome.cpu:.0f} s of CPU, {outcome.peak:.0f} MiB',
        flush=True,
    )
    kinds: dict[tuple[str, str], list[Result]] = {}
    for fault in outcome.faults:
        kinds.setdefault((fault.fault, fault.place), []).append(fault)
    for (kind, place), faults in sorted(kinds.items(), key=lambda item: -len(item[1])):
        print(f'  {len(faults)} x {kind} {place}: case {faults[0].number}')
        print('    ' + faults[0].detail.replace('\n', '\n    '), flush=True)


def main(readers: Readers) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description='Give readers damaged input.')
    parser.add_argument('--reader', action='append', choices=list(readers), help='all by default')
    parser.add_argument('--count', type=int, default=2000, help='damaged parts for each reader')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--first', type=int, default=0, help='number of the first case')
    parser.add_argument('--json', action='store_true', help='print a line of JSON for each reader')
    parser.add_argument('--show', type=int, metavar='NUMBER', help='print this case')
    options = parser.parse_args()
    failed = False
    for name in options.reader or readers:
        if options.show is not None:
            with tempfile.TemporaryDirectory() as folder:
                print(case_of(readers[name](Path(folder)), name, options.seed, options.show))
            continue
        outcome = run(readers, name, options.count, options.seed, options.first)
        failed |= bool(outcome.faults)
        if options.json:
            print(json.dumps(asdict(outcome)), flush=True)
        else:
            _print(outcome)
    sys.exit(failed)


if __name__ == '__main__':
    from readers import READERS

    main(READERS)
