# SPDX-License-Identifier: Apache-2.0
"""Missing prerequisites of `make` are reported in one line each."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'build_tools' / 'check_prerequisites.sh'


@pytest.fixture
def commands(tmp_path):
    """A function that adds commands to an empty folder, which becomes the PATH."""

    def add(name: str, body: str) -> None:
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\n{body}\n')
        path.chmod(0o755)

    add.folder = tmp_path
    return add


def check(folder: Path, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ['/bin/sh', SCRIPT], env={'PATH': str(folder), **variables}, capture_output=True, text=True
    )


def test_each_missing_thing_is_named_in_one_line(commands):
    done = check(commands.folder)
    assert done.returncode == 1
    assert done.stdout == ''
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    for line, missing in zip(lines, ('Python 3.10 or newer', 'C compiler', 'C++ compiler'), strict=True):
        assert line.startswith(f'make: no {missing}')
    assert all('apt install' in line for line in lines)


def test_python_that_is_on_the_path_but_does_not_run_is_passed_over(commands):
    commands('python3.12', 'echo "python3.12: command not found" >&2; exit 127')
    commands('python3', f'exec {sys.executable} "$@"')
    commands('cc', 'exit 0')
    commands('c++', 'exit 0')
    done = check(commands.folder)
    assert done.stderr == ''
    assert Path(done.stdout.strip()).resolve() == Path(sys.executable).resolve()


def test_python_that_is_too_old_is_passed_over(commands):
    # Like an old interpreter: it runs, but the version test fails.
    commands('python3', 'exit 1')
    assert 'no Python 3.10 or newer' in check(commands.folder).stderr


def test_python_without_venv_is_named_unless_another_one_has_it(commands):
    without_venv = f'case "$*" in *ensurepip*) exit 1;; esac; exec {sys.executable} "$@"'
    commands('python3.12', without_venv)
    commands('cc', 'exit 0')
    commands('c++', 'exit 0')
    done = check(commands.folder)
    assert done.returncode == 1
    assert 'python3.12 lacks the modules venv' in done.stderr
    assert 'apt install python3-venv' in done.stderr

    commands('python3', f'exec {sys.executable} "$@"')
    assert check(commands.folder).returncode == 0


def test_variables_override_what_is_looked_for(commands):
    commands('my-cc', 'exit 0')
    commands('my-cxx', 'exit 0')
    done = check(commands.folder, PYTHON=sys.executable, CC='my-cc -m64', CXX='my-cxx')
    assert (done.returncode, done.stderr) == (0, '')
