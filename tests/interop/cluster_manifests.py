"""Checks what `tuning/` has for a cluster, from its folder: the manifests against the schemas of Kubernetes, strictly,
and that names and files of manifests and of the Compose file agree. Writes the configurations in the manifests to
the folder given.

    cluster_manifests.py TUNING FOLDER
"""

import pathlib
import sys

import kubernetes_validate
import yaml

tuning, folder = map(pathlib.Path, sys.argv[1:])
documents = list(yaml.safe_load_all((tuning / "kubernetes-cluster.yaml").read_text()))
for document in documents:
    kubernetes_validate.validate(document, "1.37.0", strict=True)
known = {(document["kind"], document["metadata"]["name"]): document for document in documents}
assert len(known) == len(documents), "a name comes twice"

SERVERS = ["nats://nats-0.nats:4222", "nats://nats-1.nats:4222", "nats://nats-2.nats:4222"]
for name, file in [("nats", "nats-server.conf"), ("ringmq", "ringmq.yaml")]:
    workload = known["StatefulSet", name]["spec"]
    labels, pod = workload["template"]["metadata"]["labels"], workload["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for selector in [
        workload["selector"]["matchLabels"],
        known["Service", workload["serviceName"]]["spec"]["selector"],
        known["Service", name]["spec"]["selector"],
        known["PodDisruptionBudget", name]["spec"]["selector"]["matchLabels"],
        pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0][
            "labelSelector"
        ]["matchLabels"],
    ]:
        assert selector == labels, f"{name}: {selector} finds its pods"
    assert known["Service", workload["serviceName"]]["spec"]["clusterIP"] == "None"
    for port in known["Service", name]["spec"]["ports"]:
        assert ports[port["targetPort"]] == port["port"], port
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
        assert probe not in container or container[probe]["httpGet"]["port"] in ports, probe
    assert pod["enableServiceLinks"] is False and pod["securityContext"]["runAsNonRoot"]
    (volume,), (mount,) = pod["volumes"], container["volumeMounts"]
    assert volume["configMap"]["name"] == name and volume["name"] == mount["name"]
    ((data, text),) = known["ConfigMap", name]["data"].items()
    assert data == file and container["args"][1] == f"{mount['mountPath']}/{file}"
    (folder / file).write_text(text)

workload = known["StatefulSet", "nats"]["spec"]
names = [f"nats://nats-{number}.{workload['serviceName']}:4222" for number in range(workload["replicas"])]
assert names == SERVERS
broker = yaml.safe_load((folder / "ringmq.yaml").read_text())
assert broker["cluster"]["nats"]["servers"] == SERVERS
for server in SERVERS:
    assert server.replace("4222", "6222") in (folder / "nats-server.conf").read_text()
policy = known["NetworkPolicy", "nats"]["spec"]
assert [rule["from"][0]["podSelector"]["matchLabels"]["app"] for rule in policy["ingress"]] == ["ringmq", "nats"]
(container,) = known["StatefulSet", "ringmq"]["spec"]["template"]["spec"]["containers"]
values = {variable["name"]: variable.get("value") for variable in container["env"]}
assert values["RINGMQ_ADMIN__PAGES_BIND"] == f"$(POD_IP):{container['ports'][1]['containerPort']}"

compose = yaml.safe_load((tuning / "cluster-compose.yaml").read_text())
services = compose["services"]
assert sorted(services) == ["nats-1", "nats-2", "nats-3", "node-1", "node-2", "node-3"]
broker = yaml.safe_load((tuning / "cluster.yaml").read_text())
hosts = [server.removeprefix("nats://").removesuffix(":4222") for server in broker["cluster"]["nats"]["servers"]]
assert all(services[host]["hostname"] == host for host in hosts) and len(hosts) == 3
routes = services["nats-1"]["command"][-1].split(",")
assert routes == [f"nats://{host}:6222" for host in hosts]
for name, service in services.items():
    assert set(service["networks"]) <= set(compose["networks"]), name
    (volume,) = service["volumes"]
    assert (tuning / volume["source"]).is_file() and volume["target"] in service["command"], name
assert [services[f"node-{n}"]["ports"] for n in (1, 2, 3)] == [["1883:1883"], ["1884:1883"], ["1885:1883"]]
print("well")
