# SPDX-License-Identifier: Apache-2.0
"""How an evaluation is shown: tables, plots, pictures and one HTML page."""
