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

pytest.importorskip('rclpy', reason='the nodes need ROS 2')

import rclpy
from diagnostic_msgs.msg import DiagnosticArray

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


def test_restricted_to_this_machine_it_still_uses_no_shared_memory(tmp_path):
    (tmp_path / 'lib').mkdir()
    (tmp_path / 'lib/libfastdds.so').touch()
    share, variable = share_directory(), 'FASTDDS_DEFAULT_PROFILES_FILE'
    profile = {variable: str(CONFIG / 'fastdds_loopback.xml')}
    local = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    # With LOCALHOST rmw_fastrtps adds shared memory to any profile.
    without = {**profile, 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}
    assert fast_dds_environment(share, {}, tmp_path, loopback=True) == without
    assert fast_dds_environment(share, local, tmp_path) == without
    # Nor do processes that its processes start, with its environment.
    assert fast_dds_environment(share, without, tmp_path) == without
    assert fast_dds_environment(share, without, tmp_path, loopback=True) == without
    # Others know no profile that would replace it.
    zenoh = {'RMW_IMPLEMENTATION': 'rmw_zenoh_cpp'}
    assert fast_dds_environment(share, zenoh, tmp_path, loopback=True) == {**profile, **local}
    own = {variable: '/my/own.xml'}
    assert fast_dds_environment(share, own, tmp_path, loopback=True) == {**own, **local}
    assert fast_dds_environment(share, {}, tmp_path / 'neither', loopback=True).items() >= local.items()


def test_no_shared_memory_is_used(partner):
    """A process that is killed while it holds a lock there can block the others.

    About one kill in a hundred does; `killed_neighbours.py` shows it, and takes minutes.
    """
    if not rclpy.get_rmw_implementation_identifier().startswith('rmw_fastrtps'):
        pytest.skip('the middleware in use is not Fast DDS')
    partner.publish('/diagnostics', DiagnosticArray())
    mapped = Path('/proc/self/maps').read_text()
    assert 'libfast' in mapped
    assert not re.search(r'/dev/shm/\S*fast', mapped)


def settings(path):
    """Tag and text of every leaf; names are compared as version 3 writes them."""
    result = []
    for element in ElementTree.parse(path).iter():
        tag = element.tag.partition('}')[2]
        tag = re.sub('heartbeatPeriod', 'heartbeat_period', tag)
        result.append((tag, (element.text or '').strip()))
    return result


@pytest.mark.parametrize('suffix', ['', '_loopback'])
def test_both_versions_say_the_same(suffix):
    assert settings(CONFIG / f'fastdds{suffix}.xml') == settings(CONFIG / f'fastdds_2{suffix}.xml')


def test_the_loopback_profile_differs_in_the_interface_only():
    everywhere, loopback = settings(CONFIG / 'fastdds.xml'), settings(CONFIG / 'fastdds_loopback.xml')
    assert [item for item in loopback if item not in everywhere] == [
        ('interfaceWhiteList', ''),
        ('address', '127.0.0.1'),
    ]
    assert [item for item in loopback if item in everywhere] == everywhere
