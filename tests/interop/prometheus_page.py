"""What Prometheus's own client library reads from the admin server: prometheus_page.py HOST PORT

Prints the families it found and ends with 1 when the page is not what it should be.
"""

import sys
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

url = f"http://{sys.argv[1]}:{sys.argv[2]}/metrics"
with urllib.request.urlopen(url, timeout=10) as answer:
    kind = answer.headers["Content-Type"]
    assert kind == "text/plain; version=0.0.4; charset=utf-8", kind
    page = answer.read().decode()

families = {family.name: family for family in text_string_to_metric_families(page)}
seen = set()
for family in families.values():
    assert family.documentation, family.name
    assert family.type in ("counter", "gauge", "histogram"), (family.name, family.type)
    for sample in family.samples:
        key = (sample.name, tuple(sorted(sample.labels.items())))
        assert key not in seen, f"twice: {key}"
        seen.add(key)

# The library takes `_total` off the names of counters.
for name, kind, labels in [
    ("ringmq_connections", "gauge", {"shard"}),
    ("ringmq_sessions", "gauge", {"shard"}),
    ("ringmq_subscriptions", "gauge", {"shard"}),
    ("ringmq_messages_received", "counter", {"shard", "qos"}),
    ("ringmq_messages_sent", "counter", {"shard", "qos"}),
    ("ringmq_publish_received_bytes", "counter", {"shard", "qos"}),
    ("ringmq_messages_dropped", "counter", {"shard", "reason"}),
    ("ringmq_parked_seconds", "counter", {"shard"}),
    ("ringmq_loop_lag_seconds", "gauge", {"shard"}),
    ("ringmq_receive_buffers_free", "gauge", {"shard"}),
    ("ringmq_socket_slots_free", "gauge", {"shard"}),
    ("ringmq_build_info", "gauge", {"version"}),
    ("process_resident_memory_bytes", "gauge", set()),
    ("process_cpu_seconds", "counter", set()),
]:
    family = families[name]
    assert family.type == kind, (name, family.type)
    assert family.samples, name
    for sample in family.samples:
        assert set(sample.labels) == labels, sample

shards = [sample.labels["shard"] for sample in families["ringmq_shard_up"].samples]
steps = families["ringmq_step_seconds"]
assert steps.type == "histogram"
for shard in shards:
    mine = [sample for sample in steps.samples if sample.labels["shard"] == shard]
    buckets = [(float(s.labels["le"]), s.value) for s in mine if s.name.endswith("_bucket")]
    assert len(buckets) > 10 and buckets == sorted(buckets), buckets
    counts = [count for _, count in buckets]
    assert counts == sorted(counts) and buckets[-1][0] == float("inf"), buckets
    total = [s.value for s in mine if s.name.endswith("_count")]
    assert total == [counts[-1]], (total, counts[-1])

print(f"{len(families)} families, {len(seen)} series, {len(shards)} shards")
