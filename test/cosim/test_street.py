# SPDX-License-Identifier: Apache-2.0
"""The stand-in's street, with the real CARLA client: vehicles stand on the road and have routes."""

from __future__ import annotations

import pytest

pytest.importorskip('carla', reason='the CARLA client has no wheel here')
pytest.importorskip('msgpack', reason='the stand-in needs msgpack')

import carla

from diffkd_ros.cosim.testing.process import StandInProcess


def test_connected_vehicles_queue_on_a_lane_with_a_route():
    with StandInProcess('--street', '--vehicles', '3') as server:
        client = carla.Client('127.0.0.1', server.port)
        client.set_timeout(60.0)
        world = client.get_world()
        road = world.get_map()
        world.wait_for_tick(60.0)
        actors = {each.attributes['role_name']: each for each in world.get_actors().filter('vehicle.*')}
        places = [actors[f'cav_{number}'].get_transform() for number in (1, 2, 3)]
        waypoints = [road.get_waypoint(place.location) for place in places]
        ahead = [places[0].location.distance(place.location) for place in places]
        assert ahead == sorted(ahead)
        for place, waypoint in zip(places, waypoints, strict=True):
            assert place.location.distance(waypoint.transform.location) < 0.5
            assert abs(place.rotation.yaw - waypoint.transform.rotation.yaw) < 1.0
        # OpenCDA's route planner works on the topology, which holds roads that lead to another one.
        assert {waypoint.road_id for waypoint in waypoints} == {
            start.road_id for start, _ in road.get_topology()
        }
        # and needs the lane's marking.
        assert waypoints[0].right_lane_marking is not None
