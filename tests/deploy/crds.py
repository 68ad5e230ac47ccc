"""Schemas of the members that our manifests use of kinds that Kubernetes itself does not have: nothing else may stand there.

They were written after the definitions of the projects named below; kubernetes-validate has none of them. Templates of pods are
checked by its schema of a Pod.
"""
_TEXT, _NUMBER, _FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_SELECTOR = {"type": "object", "additionalProperties": False, "properties": {"matchLabels": _TEXTS}}


def _object(properties: dict, *required: str) -> dict:
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": list(required)}


def _list(items: dict) -> dict:
    return {"type": "array", "minItems": 1, "items": items}


def _either(*texts: str) -> dict:
    return {"type": "string", "enum": list(texts)}


_POD_TEMPLATE = _object({"metadata": {"type": "object"}, "spec": {"type": "object"}}, "spec")
# leaderworkerset.x-k8s.io/v1
_LEADER_WORKER_SET = _object({
    "replicas": _NUMBER, "startupPolicy": _either("LeaderCreated", "LeaderReady"),
    "rolloutStrategy": _object({"type": _either("RollingUpdate"), "rollingUpdateConfiguration": _object({
        "partition": _NUMBER, "maxUnavailable": _NUMBER, "maxSurge": _NUMBER})}, "type"),
    "networkConfig": _object({"subdomainPolicy": _either("Shared", "UniquePerReplica")}, "subdomainPolicy"),
    "leaderWorkerTemplate": _object({
        "size": _NUMBER, "restartPolicy": _either("RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"),
        "leaderTemplate": _POD_TEMPLATE, "workerTemplate": _POD_TEMPLATE}, "workerTemplate")}, "leaderWorkerTemplate")
# monitoring.coreos.com/v1
_RULE = _object({"alert": _TEXT, "expr": _TEXT, "for": _TEXT, "labels": _TEXTS, "annotations": _TEXTS}, "alert", "expr")
_PROMETHEUS_RULE = _object({"groups": _list(_object({"name": _TEXT, "rules": _list(_RULE)}, "name"))})
_SERVICE_MONITOR = _object({
    "selector": _SELECTOR,
    "endpoints": _list(_object({"port": _TEXT, "path": _TEXT, "interval": _TEXT, "scrapeTimeout": _TEXT, "scheme": _either("http", "https"),
                                "tlsConfig": _object({"ca": _object({"secret": _object({"name": _TEXT, "key": _TEXT}, "key")}),
                                                      "serverName": _TEXT})}))}, "selector", "endpoints")
# keda.sh/v1alpha1; a trigger's metadata are those of its Prometheus scaler
_POLICIES = _object({"stabilizationWindowSeconds": _NUMBER, "selectPolicy": _either("Max", "Min", "Disabled"),
                     "policies": _list(_object({"type": _either("Pods", "Percent"), "value": _NUMBER, "periodSeconds": _NUMBER},
                                               "type", "value", "periodSeconds"))})
_SCALED_OBJECT = _object({
    "scaleTargetRef": _object({"apiVersion": _TEXT, "kind": _TEXT, "name": _TEXT}, "name"),
    "minReplicaCount": _NUMBER, "maxReplicaCount": _NUMBER, "pollingInterval": _NUMBER, "cooldownPeriod": _NUMBER,
    "advanced": _object({"horizontalPodAutoscalerConfig": _object({"behavior": _object({"scaleUp": _POLICIES, "scaleDown": _POLICIES})})}),
    "triggers": _list(_object({
        "type": _either("prometheus"), "name": _TEXT, "metricType": _either("AverageValue", "Value"),
        "metadata": _object({"serverAddress": _TEXT, "query": _TEXT, "threshold": _TEXT, "activationThreshold": _TEXT},
                            "serverAddress", "query", "threshold")}, "type", "metadata"))}, "scaleTargetRef", "triggers")


def _kind(version: str, kind: str, spec: dict) -> dict:
    metadata = _object({"name": _TEXT, "namespace": _TEXT, "labels": _TEXTS, "annotations": _TEXTS}, "name")
    return _object({"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": metadata, "spec": spec},
                   "apiVersion", "kind", "metadata", "spec")


SCHEMAS = {
    "LeaderWorkerSet": _kind("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", _LEADER_WORKER_SET),
    "PrometheusRule": _kind("monitoring.coreos.com/v1", "PrometheusRule", _PROMETHEUS_RULE),
    "ServiceMonitor": _kind("monitoring.coreos.com/v1", "ServiceMonitor", _SERVICE_MONITOR),
    "ScaledObject": _kind("keda.sh/v1alpha1", "ScaledObject", _SCALED_OBJECT),
}
