"""Checks manifests from standard input: each against the schemas of Kubernetes, strictly, and what they
say about each other. Prints the kinds, and the broker's configuration after a line of its own.

    kubernetes_manifests.py [KUBERNETES-VERSION] < MANIFESTS
"""

import sys

import kubernetes_validate
import yaml

VERSION = sys.argv[1] if len(sys.argv) > 1 else "1.37.0"
documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
by_kind = {document["kind"]: document for document in documents}
assert len(by_kind) == len(documents), "a kind comes twice"

# The operator's own kinds are in no schema of Kubernetes.
for document in documents:
    if document["apiVersion"] != "monitoring.coreos.com/v1":
        kubernetes_validate.validate(document, VERSION, strict=True)

workload = by_kind.get("Deployment") or by_kind["DaemonSet"]
template = workload["spec"]["template"]
labels, pod = template["metadata"]["labels"], template["spec"]
(container,) = pod["containers"]
ports = {port["name"]: port["containerPort"] for port in container["ports"]}


def is_selected(selector):
    return selector and all(labels.get(key) == value for key, value in selector.items())


assert is_selected(workload["spec"]["selector"]["matchLabels"]), "the workload finds its pods"
service = by_kind["Service"]["spec"]
assert is_selected(service["selector"]), "the Service finds the pods"
assert [port["targetPort"] for port in service["ports"]] == ["mqtt"] and ports["mqtt"] == 1883

monitor = by_kind.get("PodMonitor")
if monitor:
    assert is_selected(monitor["spec"]["selector"]["matchLabels"]), "the PodMonitor finds the pods"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics" and endpoint["port"] in ports, "it finds the port"
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert values["RINGMQ_ADMIN__PAGES_BIND"] == f"$(POD_IP):{ports[endpoint['port']]}", values

for name in ["startupProbe", "livenessProbe", "readinessProbe"]:
    probe = container[name]
    if "httpGet" in probe and isinstance(probe["httpGet"]["port"], str):
        assert probe["httpGet"]["port"] in ports, f"{name}: no such port"

assert pod["enableServiceLinks"] is False, "a Service called ringmq would set RINGMQ_... variables"
assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 65532
(volume,) = [volume for volume in pod["volumes"] if volume["name"] == "configuration"]
assert volume["configMap"]["name"] == by_kind["ConfigMap"]["metadata"]["name"]
(file,) = by_kind["ConfigMap"]["data"]
(mount,) = container["volumeMounts"]
assert container["args"] == ["--config", f"{mount['mountPath']}/{file}"]

print(*sorted(by_kind))
print("--- configuration")
print(by_kind["ConfigMap"]["data"][file], end="")
