"""The overlays: what Kubernetes takes, what a restricted namespace lets in, and that their parts fit together."""
import copy
import re

import jsonschema
import kubernetes_validate
import pytest
import yaml
from crds import SCHEMAS
from manifests import KUBERNETES, OVERLAYS, Overlay, overlay, rendered, role
from places import KUBECTL, PROGRAMS, ROOT, flags, objects, run, seconds, settings, size

ALL = pytest.mark.parametrize("name", OVERLAYS)
VERSION = "1.37"


def within(labels: dict, selector: dict) -> bool:
    return selector.items() <= labels.items()


@ALL
def test_kubernetes_takes_every_object(name):
    for found in overlay(name).objects:
        if found["kind"] in SCHEMAS:
            jsonschema.validate(found, SCHEMAS[found["kind"]])
        else:
            kubernetes_validate.validate(found, VERSION, strict=True)
    for pod in overlay(name).pods():
        metadata = {**pod.template["metadata"], "name": "x"}
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec}, VERSION, strict=True)


def test_the_schemas_refuse_what_is_misspelt():
    group = overlay("gpu-pp").named("LeaderWorkerSet", "interlace")
    broken = copy.deepcopy(group)
    broken["spec"]["leaderWorkerTemplate"]["restartPolicies"] = "None"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMAS["LeaderWorkerSet"])
    service = copy.deepcopy(overlay("gpu-pp").named("Service", "interlace"))
    service["spec"]["selectors"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, VERSION, strict=True)


@ALL
def test_a_restricted_namespace_lets_the_pods_in(name):
    enforced = overlay(name).named("Namespace", "interlace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"
    for pod in overlay(name).pods():
        spec, whole = pod.spec, pod.spec["securityContext"]
        assert whole["runAsNonRoot"] and whole["runAsUser"] == whole["runAsGroup"] == whole["fsGroup"] == 10001
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec["automountServiceAccountToken"] and not spec["enableServiceLinks"]
        assert not any(spec.get(member) for member in ("hostNetwork", "hostPID", "hostIPC"))
        kinds = {"secret", "emptyDir", "persistentVolumeClaim", "configMap", "projected"}
        assert all(set(volume) - {"name"} <= kinds for volume in spec["volumes"])
        for container in pod.containers + spec.get("initContainers", []):
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                    "capabilities": {"drop": ["ALL"]}}, container["name"]


@ALL
def test_containers_say_what_they_need_and_which_image(name):
    for pod in overlay(name).pods():
        for container in pod.containers + pod.spec.get("initContainers", []):
            resources = container["resources"]
            assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["requests"]), container["name"]
            assert {"memory", "ephemeral-storage"} <= set(resources["limits"]), container["name"]
            assert re.fullmatch(r"interlace-[a-z-]+:\d+\.\d+\.\d+(-cuda)?", container["image"]), container["image"]
        names = [container["name"] for container in pod.containers]
        assert len(set(names)) == len(names)


@ALL
def test_memory_and_disk_hold_what_the_settings_ask_for(name):
    values, found = overlay(name).settings(), overlay(name)
    on_gpu = values.get("engine.backend") == "cuda"
    for _, container in found.ranks():
        kv = size(values["kv.host_bytes"]) + (0 if on_gpu else size(values["kv.device_bytes"]))
        assert size(container["resources"]["limits"]["memory"]) >= 1.25 * kv
        assert on_gpu == ("nvidia.com/gpu" in container["resources"]["limits"])
    store = found.named("StatefulSet", "interlace-kvstore")["spec"]
    limits = store["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert size(limits["memory"]) >= 1.25 * size(values["kvstore.host_bytes"])
    claim = store["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
    assert size(claim) >= 1.2 * size(values["kvstore.rocksdb_bytes"]), "RocksDB needs room to compact"


@ALL
def test_every_container_is_probed(name):
    for pod, container in overlay(name).containers():
        paths = {probe: container.get(probe, {}).get("httpGet", {}).get("path") for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
        if role(container) == "coordinator":
            assert paths == {"startupProbe": "/version", "livenessProbe": "/version", "readinessProbe": "/ready"}
            continue
        ready = container["args"][container["args"].index("--ready-file") + 1]
        for probe in ("startupProbe", "readinessProbe"):
            assert container[probe]["exec"]["command"] == ["test", "-e", ready], f"{pod.name} {container['name']}"
        assert "livenessProbe" not in container, "a rank that waits for its coordinator must not be killed for it"
        if role(container) == "worker":
            assert f"-e {ready} " in container["lifecycle"]["preStop"]["exec"]["command"][2]


@ALL
def test_pods_have_the_time_that_draining_takes(name):
    drain = seconds(overlay(name).settings()["server.drain_timeout"])
    for pod in overlay(name).pods():
        has, coordinators = pod.spec["terminationGracePeriodSeconds"], 0
        for container in pod.containers:
            if role(container) == "coordinator":
                coordinators += 1
                assert has >= container["lifecycle"]["preStop"]["sleep"]["seconds"] + drain + 30, "with the doors' last words"
            elif role(container) == "worker":
                patience = int(re.search(r"n=(\d+);", container["lifecycle"]["preStop"]["exec"]["command"][2])[1])
                assert patience >= 10 + drain + 30, "ranks outlast the coordinator that still uses them"
                assert has >= patience + 15


@ALL
def test_selectors_find_pods_and_ports(name):
    pods = overlay(name).pods()
    for service in overlay(name).of_kind("Service"):
        chosen = [pod for pod in pods if within(pod.labels, service["spec"]["selector"])]
        assert chosen, f"service {service['metadata']['name']} selects no pod"
        for port in service["spec"].get("ports", []):
            for pod in chosen:
                named = {p["name"]: p["containerPort"] for c in pod.containers for p in c.get("ports", [])}
                assert named.get(port["targetPort"]) == port["port"], f"{service['metadata']['name']} {port['name']} in {pod.name}"
    for budget in overlay(name).of_kind("PodDisruptionBudget"):
        assert any(within(pod.labels, budget["spec"]["selector"]["matchLabels"]) for pod in pods), budget["metadata"]["name"]
    for pod in pods:
        budgets = [b for b in overlay(name).of_kind("PodDisruptionBudget") if within(pod.labels, b["spec"]["selector"]["matchLabels"])]
        assert len(budgets) == 1, f"{pod.name}: {len(budgets)} budgets; an eviction needs exactly one"
        if pod.owner["kind"] != "LeaderWorkerSet":
            assert within(pod.labels, pod.owner["spec"]["selector"]["matchLabels"])
        if pod.owner["kind"] == "StatefulSet":
            overlay(name).named("Service", pod.owner["spec"]["serviceName"])


@ALL
def test_ranks_find_a_coordinator_that_is_not_ready_yet(name):
    values = overlay(name).settings()
    if overlay(name).of_kind("LeaderWorkerSet"):
        for _, container in overlay(name).ranks():
            assert "cluster.coordinator=$(LWS_LEADER_ADDRESS):7070" in container["args"]
        return
    hosts = [address.split(":")[0] for address in values["cluster.coordinator"].split(",")]
    service = overlay(name).named("Service", hosts[0].split(".")[-1])
    assert service["spec"]["publishNotReadyAddresses"], "it is ready when they are there: neither would come first"
    assert overlay(name).named("StatefulSet", "interlace-worker")["spec"]["podManagementPolicy"] == "Parallel"
    if values.get("election.backend", "none") == "none":
        assert overlay(name).named("Deployment", "interlace-coordinator")["spec"]["strategy"] == {"type": "Recreate"}
        return
    both = overlay(name).named("StatefulSet", "interlace-coordinator")["spec"]
    assert hosts == [f"interlace-coordinator-{i}.{both['serviceName']}" for i in range(both["replicas"])]
    assert both["podManagementPolicy"] == "Parallel" and both["updateStrategy"] == {"type": "OnDelete"}, "one of them is never ready"


def test_a_coordinator_that_stands_by_may_hold_the_lease_and_nothing_else():
    found = overlay("standby")
    namespace, lease = found.settings()["election.key"].split("/")
    pods = found.named("StatefulSet", "interlace-coordinator")["spec"]["template"]["spec"]
    binding = found.named("RoleBinding", "interlace-leader")
    assert namespace == found.named("Namespace", "interlace")["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": pods["serviceAccountName"], "namespace": namespace}]
    rules = found.named("Role", binding["roleRef"]["name"])["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "create", "update"}
    assert all(rule["resources"] == ["leases"] and rule["apiGroups"] == ["coordination.k8s.io"] for rule in rules)
    assert all(rule.get("resourceNames", [lease]) == [lease] for rule in rules)
    others = [pod for pod in found.pods() if pod.owner["metadata"]["name"] != "interlace-coordinator"]
    assert not any("serviceAccountName" in pod.spec for pod in others)
    budget = found.named("PodDisruptionBudget", "interlace-coordinator")["spec"]
    assert budget["maxUnavailable"] == 2, "the one that stands by counts as unavailable"


@ALL
def test_programs_take_every_flag_and_setting(name):
    """Each container's program gets as far as the first file that only a pod has."""
    data = next(o for o in overlay(name).of_kind("ConfigMap") if o["metadata"]["name"].startswith("interlace-settings"))["data"]
    of_the_pod = {"INTERLACE_CLUSTER_STAGE": "0", "INTERLACE_CLUSTER_REPLICA": "0", "INTERLACE_TRANSPORT_HOST": "127.0.0.1",
                  "INTERLACE_ELECTION_HOST": "127.0.0.1"}
    of_the_group = {"LWS_LEADER_ADDRESS": "leader", "LWS_WORKER_INDEX": "1"}
    assert overlay(name).settings().keys() <= settings()
    for pod, container in overlay(name).containers():
        words = [re.sub(r"\$\((\w+)\)", lambda found: of_the_group[found[1]], word) for word in container["args"]]
        assert {word for word in words if word.startswith("-")} <= flags(role(container))
        own = {v["name"]: v.get("value", of_the_pod.get(v["name"])) for v in container.get("env", [])}
        done = run(PROGRAMS[role(container)], *words, check=False, env=data | own)
        assert done.returncode == 1 and re.search(r"/models/model\.gguf|/etc/interlace/cluster/secret", done.stderr), f"{pod.name}: {done.stderr}"


@ALL
def test_every_rank_of_every_replica_is_there_once(name):
    values = overlay(name).settings()
    stages, tensor_ranks = int(values["cluster.stages"]), int(values["cluster.tensor_ranks"])
    replicas = int(values.get("cluster.replicas", 1))
    assert stages == 1 or replicas == 1, "a pod of a StatefulSet has one number"
    assert sum(pod.count for pod in overlay(name).pods() if any(role(c) == "worker" for c in pod.containers)) == stages * replicas
    if "router.roles" in values:
        assert sum(int(part.split(":")[1]) for part in values["router.roles"].split(",")) == replicas
        assert "remote" in values["kv.tiers"].split(","), "KV gets from replica to replica by the kvstore"
    for pod in overlay(name).pods():
        ranks = [c for c in pod.containers if role(c) == "worker"]
        if not ranks:
            continue
        variables = [{v["name"]: v.get("value") or v["valueFrom"]["fieldRef"]["fieldPath"] for v in c["env"]} for c in ranks]
        assert replicas == 1 or all("pod-index" in v["INTERLACE_CLUSTER_REPLICA"] for v in variables)
        shares = [int(v.get("INTERLACE_CLUSTER_TENSOR_RANK", 0)) for v in variables]
        assert shares == list(range(tensor_ranks))
        assert all(v["INTERLACE_TRANSPORT_HOST"] == "status.podIP" for v in variables)
        assert tensor_ranks == 1 or pod.spec["shareProcessNamespace"], "ranks of a stage open each other's memory"
        ready = [c["args"][1] for c in pod.containers]
        assert len(set(ready)) == len(ready), "a ready file each"
    if values.get("engine.backend") == "cuda":
        assert tensor_ranks == 1, "worker/rank.cc refuses more"


@ALL
def test_ports_are_those_of_the_settings(name):
    values = overlay(name).settings()
    wanted = {"http": values["server.http_port"], "grpc": values["server.grpc_port"],
              "ranks": values["cluster.listen"].rsplit(":", 1)[1], "kvstore": values["kvstore.listen"].rsplit(":", 1)[1]}
    seen = {}
    for _, container in overlay(name).containers():
        seen.update({port["name"]: str(port["containerPort"]) for port in container.get("ports", [])})
    assert seen == wanted
    assert values["kv.remote"] == f"interlace-kvstore:{wanted['kvstore']}"
    for address in values["cluster.coordinator"].split(","):
        assert re.fullmatch(rf"(interlace-coordinator-\d\.)?interlace-ranks:{wanted['ranks']}", address)


@ALL
def test_paths_lie_in_volumes_and_what_is_written_in_writable_ones(name):
    values = overlay(name).settings()
    reads = {"coordinator": ["model.path", "cluster.secret_file", "server.api_keys", "server.tls_cert", "server.tls_key"],
             "worker": ["model.path", "cluster.secret_file"], "kvstore": ["cluster.secret_file"]}
    writes = {"coordinator": ["coordinator.state"], "worker": [], "kvstore": ["kvstore.rocksdb_dir"]}
    for pod, container in overlay(name).containers():
        mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
        volumes = {v["name"] for v in pod.spec["volumes"]} | {c["metadata"]["name"] for c in pod.owner["spec"].get("volumeClaimTemplates", [])}
        assert {m["name"] for m in mounts.values()} <= volumes, pod.name
        args = container["args"]
        assert not mounts[args[args.index("--ready-file") + 1].rsplit("/", 1)[0]].get("readOnly")
        for setting in filter(values.get, reads[role(container)]):
            assert mounts[values[setting].rsplit("/", 1)[0]]["readOnly"], f"{container['name']}: {setting}"
        for setting in writes[role(container)]:
            assert not mounts[values[setting].rsplit("/", 1)[0]].get("readOnly"), f"{container['name']}: {setting}"


@ALL
def test_what_is_referred_to_is_there_or_is_said_to_be_needed(name):
    found, docs = overlay(name), (ROOT / "docs/kubernetes.md").read_text()
    maps = {o["metadata"]["name"] for o in found.of_kind("ConfigMap")}
    secrets = {o["metadata"]["name"] for o in found.of_kind("Secret")}
    claims = {o["metadata"]["name"] for o in found.of_kind("PersistentVolumeClaim")}
    for pod in found.pods():
        for container in pod.containers:
            assert {e["configMapRef"]["name"] for e in container["envFrom"]} <= maps, container["name"]
        for volume in pod.spec["volumes"]:
            if "secret" in volume:
                secret = volume["secret"]["secretName"]
                assert secret in secrets or f"`{secret}`" in docs, f"nobody is told to make the Secret {secret}"
                assert volume["secret"]["defaultMode"] == 0o440, "cluster.secret_file is refused if others can read it"
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims


@ALL
def test_pods_are_closed_but_for_members_and_doors(name):
    pods, policies = overlay(name).pods(), {o["metadata"]["name"]: o["spec"] for o in overlay(name).of_kind("NetworkPolicy")}
    for policy in ("interlace-closed", "interlace-members"):
        for pod in pods:
            assert within(pod.labels, policies[policy]["podSelector"]["matchLabels"]), f"{policy} leaves out {pod.name}"
        assert set(policies[policy]["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in policies["interlace-closed"] and "egress" not in policies["interlace-closed"]
    doors = [pod for pod in pods if within(pod.labels, policies["interlace-doors"]["podSelector"]["matchLabels"])]
    assert [pod for pod in pods if any(role(c) == "coordinator" for c in pod.containers)] == doors
    opened = {port["port"] for rule in policies["interlace-doors"]["ingress"] for port in rule["ports"]}
    assert opened == {"http", "grpc"}, "the port of ranks is for members"
    for rule in policies["interlace-doors"]["ingress"]:
        assert all(peer["namespaceSelector"]["matchLabels"] for peer in rule["from"])


@ALL
def test_prometheus_finds_the_doors(name):
    monitors = overlay(name).of_kind("ServiceMonitor")
    if not monitors:
        assert name == "cpu-demo", "overlays for work are watched"
        return
    selector = monitors[0]["spec"]["selector"]["matchLabels"]
    services = [s for s in overlay(name).of_kind("Service") if within(s["metadata"]["labels"], selector)]
    named = [s["metadata"]["name"] for s in services for port in s["spec"]["ports"] if port["name"] == monitors[0]["spec"]["endpoints"][0]["port"]]
    assert named == ["interlace"], "each coordinator once"


def test_the_doors_speak_tls_and_ask_for_keys_where_the_components_say_so():
    for name in ("cpu-demo", "gpu-pp"):
        folder = ROOT / "out/tests-deploy" / name
        folder.mkdir(parents=True, exist_ok=True)
        up = "../../../deploy/kubernetes"
        (folder / "kustomization.yaml").write_text(yaml.safe_dump({
            "resources": [f"{up}/overlays/{name}"], "components": [f"{up}/components/tls", f"{up}/components/api-keys"]}))
        found = Overlay(objects(run(KUBECTL, "kustomize", folder).stdout))
        coordinators = [c for _, c in found.containers() if role(c) == "coordinator"]
        assert len(coordinators) == 1
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert coordinators[0][probe]["httpGet"]["scheme"] == "HTTPS"
        values, mounts = found.settings(), {m["mountPath"]: m["name"] for m in coordinators[0]["volumeMounts"]}
        assert mounts[values["server.tls_cert"].rsplit("/", 1)[0]] == mounts[values["server.tls_key"].rsplit("/", 1)[0]] == "tls"
        assert mounts[values["server.api_keys"].rsplit("/", 1)[0]] == "api-keys"
        for monitor in found.of_kind("ServiceMonitor"):
            assert monitor["spec"]["endpoints"][0]["scheme"] == "https"
            jsonschema.validate(monitor, SCHEMAS["ServiceMonitor"])
        for found_object in found.objects:
            if found_object["kind"] not in SCHEMAS:
                kubernetes_validate.validate(found_object, VERSION, strict=True)


def examples() -> list[dict]:
    """The blocks of YAML in the docs."""
    return [objects(block)[0] for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/kubernetes.md").read_text(), re.DOTALL)]


def test_the_overlay_of_the_docs_is_built():
    own = next(e for e in examples() if e["kind"] == "Kustomization")
    folder = ROOT / "out/tests-deploy/own"
    folder.mkdir(parents=True, exist_ok=True)
    for member in ("resources", "components"):  # it stands in deploy/kubernetes/overlays/own there
        own[member] = ["../../../deploy/kubernetes/overlays/own/" + path for path in own[member]]
        own[member] = [re.sub(r"overlays/own/\.\./\.\./(\.\./)?", lambda up: "../" if up[1] else "", path) for path in own[member]]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
    found = Overlay(objects(run(KUBECTL, "kustomize", folder).stdout))
    assert found.settings()["model.path"] == "/models/llama-3.1-8b-instruct.gguf"
    assert [c["image"] for _, c in found.containers()][1].startswith("registry.example/interlace-coordinator:")
    for kind in ("ServiceMonitor", "PrometheusRule", "ScaledObject", "LeaderWorkerSet"):
        assert len(found.of_kind(kind)) == 1


def test_the_pool_of_the_docs_chooses_the_doors():
    pool = next(e for e in examples() if e["kind"] == "InferencePool")["spec"]
    for name in OVERLAYS:
        chosen = [pod for pod in overlay(name).pods() if within(pod.labels, pool["selector"]["matchLabels"])]
        assert [role(pod.containers[0]) for pod in chosen] == ["coordinator"]
        assert str(pool["targetPorts"][0]["number"]) == overlay(name).settings()["server.http_port"]


def test_overlays_render_the_same_every_time():
    first = rendered(KUBERNETES / "overlays" / OVERLAYS[0])
    assert run(KUBECTL, "kustomize", KUBERNETES / "overlays" / OVERLAYS[0]).stdout == first
