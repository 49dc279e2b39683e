# SPDX-License-Identifier: Apache-2.0
"""Opening a model calls nobody and leaves nothing behind."""

import os
import re
import shutil
import subprocess
import sys

import pytest

OPEN = """
import time
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.runtime.model_folder import model_folder
encoder = FeatureEncoder(ModelCard.load(model_folder('sim_edge')))
time.sleep(5)
"""


def run(home, *before, **variables):
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != 'ORT_DISABLE_TELEMETRY'}
    environment |= {'HOME': str(home), 'XDG_CACHE_HOME': str(home), **variables}
    command = [*before, sys.executable, '-c', OPEN]
    subprocess.run(command, env=environment, check=True, timeout=240)


@pytest.mark.skipif(shutil.which('strace') is None, reason='strace is not installed')
def test_opening_a_model_uses_no_network_and_writes_no_file(tmp_path):
    traced = tmp_path / 'calls'
    run(tmp_path / 'home', 'strace', '-f', '-e', 'trace=socket,connect', '-o', str(traced))
    assert not re.findall(r'AF_INET', traced.read_text())
    assert not [path for path in (tmp_path / 'home').rglob('*') if path.is_file()]


def test_it_writes_no_file_to_the_home_folder(tmp_path):
    run(tmp_path / 'home')
    assert not [path for path in (tmp_path / 'home').rglob('*') if path.is_file()]


def test_a_value_of_the_user_is_kept():
    code = 'import os, diffkd_ros.runtime.session; print(os.environ["ORT_DISABLE_TELEMETRY"])'
    environment = {**os.environ, 'ORT_DISABLE_TELEMETRY': '0'}
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True)
    assert done.stdout == '0\n', done.stderr
