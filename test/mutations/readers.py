# SPDX-License-Identifier: Apache-2.0
"""All readers that are given damaged input, by name."""

from __future__ import annotations

from bag_readers import BagFile, BagMessage
from cases import Reader
from chunk_reader import Chunks
from config_readers import Card, Options, Plan, Recipe, Results
from link_reader import Link
from message_readers import Cloud, Feature, Gateway, Odometry
from set_readers import DairJson, Opv2vYaml, Pcd

READERS: dict[str, type[Reader]] = {
    'pcd': Pcd,
    'point_cloud2': Cloud,
    'opv2v_yaml': Opv2vYaml,
    'dair_json': DairJson,
    'bag_message': BagMessage,
    'bag_file': BagFile,
    'recipe': Recipe,
    'card': Card,
    'plan': Plan,
    'options': Options,
    'results': Results,
    'gateway': Gateway,
    'feature': Feature,
    'chunks': Chunks,
    'link': Link,
    'odometry': Odometry,
}
