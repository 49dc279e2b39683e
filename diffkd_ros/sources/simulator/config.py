# SPDX-License-Identifier: Apache-2.0
"""Configuration of the simulator, typed and range-checked."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from diffkd_ros.sources.simulator.intensity import LAWS
from diffkd_ros.sources.simulator.sensors import SENSORS

Layout = Literal['four_way', 't_junction', 'bend', 'straight', 'car_park']
World = Literal['basic', 'varied']
DEFAULT_WORLD: World = 'basic'
"""The world of ``sim`` where none is named: the one that the shipped model was trained in."""
BASIC_VEHICLES = (40, 60)
BASIC_LAYOUTS: dict[Layout, float] = {'four_way': 0.6, 't_junction': 0.3, 'bend': 0.1}
"""What the world `basic` has."""


class LidarConfig(BaseModel):
    """The spinning LiDAR on every vehicle's roof in the world `basic`."""

    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)

    beams: Literal[32, 64] = Field(32, description='laser rings, spread evenly over the elevations')
    columns: int = Field(1024, ge=64, le=4096, description='firings per revolution')
    elevation_min: float = Field(-25.0, ge=-60.0, le=0.0, description='lowest ring, degrees')
    elevation_max: float = Field(10.0, ge=0.0, le=60.0, description='highest ring, degrees')
    max_range: float = Field(
        100.0, gt=5.0, le=300.0, description='returns from farther away are lost, metres'
    )
    min_range: float = Field(1.0, ge=0.0, le=5.0, description='returns from nearer are lost, metres')
    range_noise: float = Field(
        0.02, ge=0.0, le=1.0, description='standard deviation along the ray, metres, on a smooth surface'
    )
    dropout: float = Field(
        0.01, ge=0.0, le=1.0, description='probability that a near return at normal incidence is lost'
    )
    dropout_far: float = Field(
        0.15,
        ge=0.0,
        le=1.0,
        description='additional probability at max_range, proportional to the square of the range',
    )
    dropout_grazing: float = Field(
        0.4, ge=0.0, le=1.0, description='additional probability as the ray becomes parallel to the surface'
    )
    intensity_noise: float = Field(0.02, ge=0.0, le=1.0, description='standard deviation of the intensity')
    roof_clearance: float = Field(
        0.12, ge=0.0, le=2.0, description='height of the sensor above the roof of its vehicle, metres'
    )
    mount_tilt: float = Field(
        0.2, ge=0.0, le=2.0, description='standard deviation of the mounting roll and pitch, degrees'
    )


def _named(value: str | None, known: Iterable[str], what: str) -> str | None:
    if value is not None and value not in known:
        near = difflib.get_close_matches(value, known, 1)
        hint = f', did you mean {near[0]}?' if near else ''
        raise ValueError(f'no {what} {value!r}; known are {", ".join(known)}{hint}')
    return value


class SimulatorConfig(BaseModel):
    """Traffic, sensors and length of the simulated drives."""

    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)

    world: World = Field(
        DEFAULT_WORLD,
        description='basic: junctions, one LiDAR and one intensity law, as in version 0.1; varied: also '
        'straight roads, car parks, slopes, queues, clutter, many LiDARs and intensity laws',
    )
    agents: int = Field(3, ge=1, le=5, description='connected vehicles and road-side units, the ego included')
    vehicles: tuple[int, int] | None = Field(
        None,
        description='minimum and maximum number of vehicles in a scene, including parked and connected ones; '
        "None for the world's own",
    )
    lidar: LidarConfig = Field(
        default_factory=LidarConfig, description='sensor of every agent in the world basic'
    )
    sensor: str | None = Field(
        None, description='sensor of the catalogue that every agent has, in any world; None to draw them'
    )
    intensity: str | None = Field(
        None, description='intensity law of every sensor, in any world; None to draw them'
    )
    rate: float = Field(10.0, ge=1.0, le=20.0, description='frames per second')
    frames_per_scenario: int = Field(100, ge=1, le=300, description='frames of a drive')
    layouts: dict[Layout, float] | None = Field(
        None, description="relative frequency of each road layout; None for the world's own"
    )
    communication_range: float = Field(
        70.0,
        ge=20.0,
        le=200.0,
        description='largest distance of a neighbour from the ego in any frame, metres',
    )

    @field_validator('sensor')
    @classmethod
    def _known_sensor(cls, value: str | None) -> str | None:
        return _named(value, SENSORS, 'sensor')

    @field_validator('intensity')
    @classmethod
    def _known_law(cls, value: str | None) -> str | None:
        return _named(value, LAWS, 'intensity law')

    @model_validator(mode='before')
    @classmethod
    def _of_version_0_1(cls, values: object) -> object:
        """Recipes of version 0.1 name the values of its world."""
        if not isinstance(values, dict) or values.get('world', DEFAULT_WORLD) != 'basic':
            return values
        own = {'vehicles': BASIC_VEHICLES, 'layouts': BASIC_LAYOUTS}
        stated = {name: tuple(v) if isinstance(v := values.get(name), list) else v for name in own}
        return {**values, **{name: None for name in own if name in values and stated[name] == own[name]}}

    @model_validator(mode='after')
    def _consistent(self) -> SimulatorConfig:
        if self.vehicles is not None:
            low, high = self.vehicles
            if not 20 <= low <= high <= 120:
                raise ValueError(f'vehicles must be 20 <= minimum <= maximum <= 120, got {low} and {high}')
        if self.layouts is not None and (
            not self.layouts or min(self.layouts.values()) < 0 or sum(self.layouts.values()) <= 0
        ):
            raise ValueError(f'layouts needs weights >= 0, one of them positive, got {self.layouts}')
        return self
