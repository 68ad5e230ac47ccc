"""Dashboard and alerts: made of the catalogue, accepted by Prometheus, each alert fires when it should and has its cure."""
import json
import re

import alerts
import catalogue
import dashboard
import make
import pytest
import yaml
from alert_cases import CASES
from manifests import OVERLAYS, overlay
from places import PROMTOOL, ROOT, run

HERE = ROOT / "deploy/observability"
METRICS = catalogue.read()


def panels() -> list[dict]:
    return [panel for panel in json.loads((HERE / "dashboard.json").read_text())["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Every expression that deploy/ asks of Prometheus."""
    keda = [trigger["metadata"]["query"] for name in OVERLAYS for scaled in overlay(name).of_kind("ScaledObject")
            for trigger in scaled["spec"]["triggers"]]
    assert keda
    return [target["expr"] for panel in panels() for target in panel["targets"]] + [alert.expression for alert in alerts.ALERTS] + keda


def test_the_files_are_what_make_writes():
    assert make.stale() == [], "run python3 deploy/observability/make.py"


def test_every_metric_has_one_panel():
    assert sorted(panel["title"] for panel in panels()) == sorted(METRICS)
    assert sorted(panel["id"] for panel in panels()) == sorted({panel["id"] for panel in panels()})
    for panel in panels():
        assert panel["description"] == METRICS[panel["title"]].meaning


def test_panels_do_not_overlap():
    taken = set()
    for panel in json.loads((HERE / "dashboard.json").read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


def test_expressions_ask_for_what_processes_export():
    assert [fault for expression in expressions() for fault in catalogue.faults(expression, METRICS)] == []


@pytest.mark.parametrize("metric", sorted({m for a in alerts.ALERTS for m in METRICS if re.search(rf"\b{m}\b|\b{m}_(bucket|sum)\b", a.expression)}))
def test_a_metric_that_is_renamed_is_noticed(metric, tmp_path):
    header = tmp_path / "metrics.h"
    header.write_text((ROOT / "common/metrics.h").read_text().replace(f'"{metric}"', f'"{metric}_of_late"'))
    renamed = catalogue.read(header)
    assert metric not in renamed
    assert any(catalogue.faults(alert.expression, renamed) for alert in alerts.ALERTS)


def test_a_section_that_names_a_renamed_metric_is_noticed():
    with pytest.raises(ValueError, match="interlace_ranks_ready"):
        dashboard.sections({name: m for name, m in METRICS.items() if name != "interlace_ranks_ready"})


@pytest.mark.parametrize("expression, why", [
    ("rate(interlace_stepps_total[5m]) > 1", "no such metric"),
    ("interlace_step_seconds > 1", "is a histogram"),
    ("rate(interlace_steps_total_bucket[5m])", "is a counter"),
    ('interlace_shed_total{tier="x"}', "no label tier"),
    ("sum by (stage) (interlace_ranks_ready)", "the label stage"),
    ("up == 0", "names no metric"),
])
def test_faults_of_expressions_are_found(expression, why):
    assert any(why in fault for fault in catalogue.faults(expression, METRICS))


def test_prometheus_reads_the_rules_and_every_expression(tmp_path):
    run(PROMTOOL, "check", "rules", HERE / "alerts.yaml")
    rule = yaml.safe_load((HERE / "prometheus-rule.yaml").read_text())
    assert rule["spec"] == yaml.safe_load((HERE / "alerts.yaml").read_text())
    written = [e.replace("$__rate_interval", "5m").replace("$model", ".*") for e in expressions()]
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": [{"record": f"x:{i}", "expr": e} for i, e in enumerate(written)]}]}))
    assert f"SUCCESS: {len(written)} rules found" in run(PROMTOOL, "check", "rules", rules).stdout


def unit_test(name: str, series: dict[str, str], minutes: int, fire: int) -> dict:
    with_model = [{"series": (s[:-1] + ',model_name="m"}') if s.endswith("}") else s + '{model_name="m"}', "values": values}
                  for s, values in series.items()]
    expected = [{"labels": "{}", "value": fire}] if fire else []
    return {"interval": "1m", "input_series": with_model, "promql_expr_test": [
        {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})', "eval_time": f"{minutes}m", "exp_samples": expected}]}


def check_rules(folder, tests: dict[str, list[dict]]):
    """Runs promtool on each alert's tests, with its rule alone: what is not evaluated costs nothing."""
    rules = {rule["alert"]: rule for rule in yaml.safe_load((HERE / "alerts.yaml").read_text())["groups"][0]["rules"]}
    files = []
    for name, of_alert in tests.items():
        (folder / f"{name}.rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [rules[name]]}]}))
        files.append(folder / f"{name}.tests.yaml")
        files[-1].write_text(yaml.safe_dump({"rule_files": [f"{name}.rules.yaml"], "evaluation_interval": "1m", "tests": of_alert}))
    return run(PROMTOOL, "test", "rules", *files, check=False)


def test_alerts_fire_when_they_should_and_only_then(tmp_path):
    assert {case.alert for case in CASES} == {alert.name for alert in alerts.ALERTS}, "each alert has a case, and no other"
    tests = {}
    for case in CASES:
        tests.setdefault(case.alert, []).extend(unit_test(case.alert, series, case.minutes, fire)
                                                for series, fire in ((case.loud, case.fire), (case.quiet, 0)))
    done = check_rules(tmp_path, tests)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_case_that_is_wrong_fails(tmp_path):
    case = CASES[0]
    assert check_rules(tmp_path, {case.alert: [unit_test(case.alert, case.quiet, case.minutes, 1)]}).returncode != 0


def test_every_alert_has_its_cure():
    text = (ROOT / "docs/operations.md").read_text()
    section = re.search(r"^## Alerts$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]
    cures = dict(re.findall(r"^\| `(Interlace\w+)` \| (.+) \|$", section, re.MULTILINE))
    assert set(cures) == {alert.name for alert in alerts.ALERTS}
    assert all(len(cure.split()) >= 8 for cure in cures.values()), "a cure says what to look at and what to change"


def test_the_docs_name_metrics_that_there_are():
    for page in ("operations.md", "kubernetes.md"):
        named = set(re.findall(r"\b(?:interlace_[a-z]\w*|vllm:\w+)", (ROOT / "docs" / page).read_text()))
        assert {n for n in named if not catalogue.faults(n, METRICS)[0:1] or "is a histogram" in catalogue.faults(n, METRICS)[0]} == named, page


@pytest.mark.parametrize("name", [name for name in OVERLAYS if overlay(name).of_kind("ScaledObject")])
def test_tokens_in_flight_are_counted_in_the_blocks_of_the_settings(name):
    scaled = overlay(name).of_kind("ScaledObject")[0]["spec"]
    queries = [trigger["metadata"]["query"] for trigger in scaled["triggers"]]
    assert any(query.endswith("* " + overlay(name).settings()["kv.block_tokens"]) for query in queries)
    target = scaled["scaleTargetRef"]
    assert overlay(name).named(target["kind"], target["name"])["apiVersion"] == target["apiVersion"]
    grace = max(pod.spec["terminationGracePeriodSeconds"] for pod in overlay(name).pods() if pod.owner["kind"] == target["kind"])
    assert scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= grace
