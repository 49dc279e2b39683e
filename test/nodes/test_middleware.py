# SPDX-License-Identifier: Apache-2.0
"""The middleware profiles that ship: the same settings in each syntax, and the one that fits is chosen."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from diffkd_ros.nodes.middleware import fast_dds_environment
from diffkd_ros.share import share_directory

CONFIG = share_directory() / 'config'


VARIABLES = {
    'FASTRTPS_DEFAULT_PROFILES_FILE': 'fastdds_2.xml',
    'FASTDDS_DEFAULT_PROFILES_FILE': 'fastdds.xml',
}


def test_each_version_of_fast_dds_gets_its_profile_and_keeps_one_that_is_set():
    shipped = {variable: str(CONFIG / name) for variable, name in VARIABLES.items()}
    assert fast_dds_environment(share_directory(), {}) == shipped
    for variable in VARIABLES:
        own = {variable: '/my/own.xml'}
        assert fast_dds_environment(share_directory(), own) == shipped | own


def test_the_version_in_use_reads_one_of_them(partner):
    mapped = {line.split()[-1] for line in Path('/proc/self/maps').read_text().splitlines() if '.so' in line}
    libraries = {Path(name).resolve() for name in mapped if re.search(r'/libfast(dds|rtps)\.so', name)}
    if not libraries:
        pytest.skip('the middleware in use is not Fast DDS')
    (library,) = libraries
    read = {variable for variable in VARIABLES if variable.encode() in library.read_bytes()}
    assert len(read) == 1


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
