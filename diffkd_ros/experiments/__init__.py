# SPDX-License-Identifier: Apache-2.0
"""The robustness benchmark: any model, any source, any corruption; a table, a summary and a report."""
