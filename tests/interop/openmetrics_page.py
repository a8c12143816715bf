"""Reads a page in OpenMetrics from standard input with Prometheus's own parser, and tells of its exemplars.

Ends with 1 when the page breaks the format.
"""

import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

families = list(text_string_to_metric_families(sys.stdin.read()))
names = [family.name for family in families]
assert len(names) == len(set(names)), "a family comes twice"
assert all(family.documentation for family in families)
exemplars = [sample.exemplar for family in families for sample in family.samples if sample.exemplar]
assert exemplars, "there is no exemplar"
assert all(len(exemplar.labels["trace_id"]) == 32 and exemplar.timestamp for exemplar in exemplars)
print(f"{len(families)} families, {len(exemplars)} exemplars")
