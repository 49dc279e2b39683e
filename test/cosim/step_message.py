# SPDX-License-Identifier: Apache-2.0
"""A step's message, as OpenCDA's adapter sends it."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray


def step_of(sweep: NDArray[np.float32], **changed: Any) -> tuple[dict, bytes]:
    """Head and data of a step of agent 1 with this sweep; `changed`: of its description."""
    agent = {
        'agent': 1,
        'points': len(sweep),
        'lidar': [1.0, 2.0, 3.0, 0.0, 90.0, 0.0],
        'velocity': [1.0, 2.0, 0.0],
    }
    head = {'protocol': 2, 'frame': 5, 'stamp': 0.25, 'agents': [agent | changed]}
    return json.loads(json.dumps(head)), sweep.tobytes()
