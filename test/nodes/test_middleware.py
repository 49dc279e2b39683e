# SPDX-License-Identifier: Apache-2.0
"""The middleware profiles that ship: the same settings in each syntax, and the one that fits is chosen."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from diffkd_ros.nodes.middleware import fast_dds_environment
from diffkd_ros.share import share_directory

CONFIG = share_directory() / 'config'


@pytest.mark.parametrize(
    ('distribution', 'variable', 'name'),
    [
        ('humble', 'FASTRTPS_DEFAULT_PROFILES_FILE', 'fastdds_2.xml'),
        ('jazzy', 'FASTRTPS_DEFAULT_PROFILES_FILE', 'fastdds_2.xml'),
        ('kilted', 'FASTDDS_DEFAULT_PROFILES_FILE', 'fastdds.xml'),
        ('', 'FASTDDS_DEFAULT_PROFILES_FILE', 'fastdds.xml'),
    ],
)
def test_each_distribution_gets_its_profile_and_keeps_one_that_is_set(distribution, variable, name):
    environment = {'ROS_DISTRO': distribution}
    assert fast_dds_environment(share_directory(), environment) == {variable: str(CONFIG / name)}
    own = {**environment, variable: '/my/own.xml'}
    assert fast_dds_environment(share_directory(), own) == {variable: '/my/own.xml'}


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
