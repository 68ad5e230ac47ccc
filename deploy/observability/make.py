#!/usr/bin/env python3
"""Makes the dashboard and the alerts of the metric catalogue, beside this file; an error if they name what no process exports.

  python3 deploy/observability/make.py            writes dashboard.json, alerts.yaml, prometheus-rule.yaml
  python3 deploy/observability/make.py --check    says which of them are not what it would write; exits 1 if there are any
"""
import pathlib
import sys

import alerts
import catalogue
import dashboard

HERE = pathlib.Path(__file__).resolve().parent
CURES = "docs/operations.md#alerts"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _groups() -> str:
    """The member `groups` of a file of rules, as Prometheus and its operator read it."""
    lines = ["groups:", "- name: interlace", "  rules:"]
    for alert in alerts.ALERTS:
        lines += [f"  - alert: {alert.name}", "    expr: |", *(f"      {line}" for line in alert.expression.split("\n")),
                  f"    for: {alert.lasts}", "    labels:", f"      severity: {alert.severity}", "    annotations:",
                  f"      summary: {_quoted(alert.summary)}", f"      runbook: {CURES}"]
    return "\n".join(lines) + "\n"


def made() -> dict[str, str]:
    """The files by name. ValueError: an alert or a panel names what no process exports."""
    metrics = catalogue.read()
    wrong = [f"{alert.name}: {fault}" for alert in alerts.ALERTS for fault in catalogue.faults(alert.expression, metrics)]
    if wrong:
        raise ValueError("\n".join(wrong))
    note = "# Made by deploy/observability/make.py of alerts.py.\n"
    rule = ("apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: interlace\n  namespace: interlace\n"
            "  labels: {app.kubernetes.io/name: interlace, app.kubernetes.io/part-of: interlace}\nspec:\n")
    inner = "".join(f"  {line}\n" for line in _groups().splitlines())
    return {"dashboard.json": dashboard.dashboard(metrics), "alerts.yaml": note + _groups(), "prometheus-rule.yaml": note + rule + inner}


def stale() -> list[str]:
    return [name for name, text in made().items() if not (HERE / name).is_file() or (HERE / name).read_text() != text]


def write() -> None:
    for name, text in made().items():
        (HERE / name).write_text(text)


def main() -> int:
    try:
        if "--check" not in sys.argv:
            write()
        found = stale()
    except ValueError as why:
        print(why, file=sys.stderr)
        return 1
    for name in found:
        print(f"deploy/observability/{name} is not what make.py writes; run it", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
