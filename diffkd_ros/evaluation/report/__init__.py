# SPDX-License-Identifier: Apache-2.0
"""How an evaluation is shown: tables, plots, pictures and one HTML page."""

import os

# Everything is drawn into files. In a notebook this names a backend that the environment of a command may
# lack, and then Matplotlib cannot be imported.
os.environ['MPLBACKEND'] = 'agg'
