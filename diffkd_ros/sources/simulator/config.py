# SPDX-License-Identifier: Apache-2.0
"""Configuration of the simulator, typed and range-checked."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Layout = Literal['four_way', 't_junction', 'bend']


class LidarConfig(BaseModel):
    """A spinning LiDAR on a vehicle's roof."""

    model_config = ConfigDict(frozen=True, extra='forbid')

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


def _default_layouts() -> dict[Layout, float]:
    return {'four_way': 0.6, 't_junction': 0.3, 'bend': 0.1}


class SimulatorConfig(BaseModel):
    """Traffic, sensors and length of the simulated drives."""

    model_config = ConfigDict(frozen=True, extra='forbid')

    agents: int = Field(3, ge=1, le=5, description='connected vehicles, the ego included')
    vehicles: tuple[int, int] = Field(
        (40, 60),
        description='minimum and maximum number of vehicles in a scene, including parked and connected ones',
    )
    lidar: LidarConfig = Field(default_factory=LidarConfig, description='sensor of every agent')
    rate: float = Field(10.0, ge=1.0, le=20.0, description='frames per second')
    frames_per_scenario: int = Field(100, ge=1, le=300, description='frames of a drive')
    layouts: dict[Layout, float] = Field(
        default_factory=_default_layouts,
        description='relative frequency of each road layout',
    )
    communication_range: float = Field(
        70.0,
        ge=20.0,
        le=200.0,
        description='largest distance of a neighbour from the ego in any frame, metres',
    )

    @model_validator(mode='after')
    def _consistent(self) -> SimulatorConfig:
        low, high = self.vehicles
        if not 20 <= low <= high <= 60:
            raise ValueError(f'vehicles must be 20 <= minimum <= maximum <= 60, got {low} and {high}')
        if not self.layouts or min(self.layouts.values()) < 0 or sum(self.layouts.values()) <= 0:
            raise ValueError(f'layouts needs weights >= 0, one of them positive, got {self.layouts}')
        return self
