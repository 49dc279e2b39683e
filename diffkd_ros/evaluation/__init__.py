# SPDX-License-Identifier: Apache-2.0
"""`diffkd evaluate`: any model, any source, any corruption; tables, a summary and a report."""
