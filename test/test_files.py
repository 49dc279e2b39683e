# SPDX-License-Identifier: Apache-2.0
"""Files are complete or absent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffkd_ros.errors import DiffkdError
from diffkd_ros.files import check_results_file, results_folder, whole_file, write_text
from diffkd_ros.metrics.result_file import write_json


def test_a_file_that_fails_leaves_the_previous_one_and_no_other(tmp_path):
    path = tmp_path / 'a.txt'
    write_text(path, 'before')

    def fail():
        with whole_file(path) as unfinished:
            unfinished.write_text('half')
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [file.name for file in tmp_path.iterdir()] == ['a.txt']
    assert path.read_text() == 'before'


def test_a_full_disk_leaves_the_previous_file(tmp_path):
    write_text(tmp_path / 'a.json', '[1]')
    code = """
import resource, sys
from pathlib import Path
from diffkd_ros.errors import DiffkdError
from diffkd_ros.metrics.result_file import write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_json(Path(sys.argv[1]), list(range(1000)))
except DiffkdError as error:
    print(error)
"""
    command = [sys.executable, '-c', code, str(tmp_path / 'a.json')]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f'cannot write {tmp_path / "a.json"}: File too large\n', done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ['a.json']
    assert (tmp_path / 'a.json').read_text() == '[1]'


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / 'file').touch()
    for place in (tmp_path / 'file', tmp_path / 'file' / 'below', Path('/proc/nowhere')):
        with pytest.raises(DiffkdError, match=f'cannot write {place}'):
            results_folder(place)
    for place in (tmp_path, tmp_path / 'absent' / 'a.json', tmp_path / 'file' / 'a.json'):
        with pytest.raises(DiffkdError, match=f'cannot write {place}'):
            check_results_file(place)
        with pytest.raises(DiffkdError, match=f'cannot write {place}'):
            write_json(place, {})
    check_results_file(tmp_path / 'a.json')
    assert [file.name for file in results_folder(tmp_path).iterdir()] == ['file']


def test_names_that_are_not_unicode_can_be_written(tmp_path):
    name = b'caf\xe9'.decode('utf-8', 'surrogateescape')
    write_text(tmp_path / 'a.txt', name)
    assert (tmp_path / 'a.txt').read_bytes() == rb'caf\udce9'
    write_json(tmp_path / 'a.json', [name])
    assert json.loads((tmp_path / 'a.json').read_text()) == [name]
