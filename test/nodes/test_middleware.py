# SPDX-License-Identifier: Apache-2.0
"""The middleware profiles that ship: the same settings in each syntax, and the one that fits is chosen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from diffkd_ros.launching.middleware import fast_dds_environment
from diffkd_ros.share import share_directory

CONFIG = share_directory() / 'config'


VARIABLES = {
    'FASTRTPS_DEFAULT_PROFILES_FILE': 'fastdds_2.xml',
    'FASTDDS_DEFAULT_PROFILES_FILE': 'fastdds.xml',
}


def test_the_installed_version_gets_its_profile_and_keeps_one_that_is_set(tmp_path):
    shipped = {variable: str(CONFIG / name) for variable, name in VARIABLES.items()}
    folders = {}
    for variable, library in (
        ('FASTRTPS_DEFAULT_PROFILES_FILE', 'jazzy/lib/libfastrtps.so.2.14'),
        ('FASTDDS_DEFAULT_PROFILES_FILE', 'kilted/lib/x86_64-linux-gnu/libfastdds.so'),
    ):
        (tmp_path / library).parent.mkdir(parents=True)
        (tmp_path / library).touch()
        folders[variable] = tmp_path / library.partition('/')[0]
    share = share_directory()
    for variable, folder in folders.items():
        sourced = {'AMENT_PREFIX_PATH': f'{tmp_path}/workspace:{folder}'}
        # The one that is sourced, whatever else is installed.
        for other in folders.values():
            assert fast_dds_environment(share, sourced, other) == {variable: shipped[variable]}
        assert fast_dds_environment(share, {}, folder) == {variable: shipped[variable]}
        own = {variable: '/my/own.xml'}
        assert fast_dds_environment(share, own, folder) == own
    assert fast_dds_environment(share, {}, tmp_path / 'neither') == shipped


def test_the_version_in_use_reads_the_profile_without_a_word(partner):
    mapped = {line.split()[-1] for line in Path('/proc/self/maps').read_text().splitlines() if '.so' in line}
    if not any(re.search(r'/libfast(dds|rtps)\.so', name) for name in mapped):
        pytest.skip('the middleware in use is not Fast DDS')
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= fast_dds_environment(share_directory(), environment)
    assert len(VARIABLES.keys() & environment.keys()) == 1
    started = 'import rclpy; rclpy.init(); rclpy.create_node("reader"); rclpy.shutdown()'
    done = subprocess.run([sys.executable, '-c', started], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ''


def settings(path):
    """Tag and text of every leaf; names are compared as version 3 writes them."""
    result = []
    for element in ElementTree.parse(path).iter():
        tag = element.tag.partition('}')[2]
        tag = re.sub('heartbeatPeriod', 'heartbeat_period', tag)
        result.append((tag, (element.text or '').strip()))
    return result


def test_both_versions_say_the_same():
    assert settings(CONFIG / 'fastdds.xml') == settings(CONFIG / 'fastdds_2.xml')
