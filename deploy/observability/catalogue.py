"""The metric catalogue of common/metrics.h, for whatever is made of it: docs/metrics.md, the dashboard, the alerts."""
import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_ROW = re.compile(r'\{"([^"]+)",\s*MetricKind::k(\w+),\s*"([^"]*)",((?:\s*"[^"]*")+)\}')
# vllm:x or interlace_x, as a word of an expression; a histogram's series have endings of their own.
_SERIES = re.compile(r"(?<![\w:])((?:vllm:|interlace_)\w+)(\{[^}]*\})?")
_ENDINGS = ("_bucket", "_sum", "_count")
# What every series has besides: the process's own label, those of whoever scrapes, and those of histograms.
COMMON_LABELS = {"model_name", "namespace", "pod", "job", "instance", "le"}


@dataclasses.dataclass(frozen=True)
class Metric:
    name: str
    kind: str  # counter, gauge or histogram
    labels: tuple[str, ...]
    meaning: str


def read(header: pathlib.Path = ROOT / "common/metrics.h") -> dict[str, Metric]:
    """The rows in their order. An assertion fails if they were not understood."""
    source = header.read_text()
    found = {}
    for name, kind, labels, meaning in _ROW.findall(source):
        found[name] = Metric(name, kind.lower(), tuple(filter(None, labels.split(","))), "".join(re.findall(r'"([^"]*)"', meaning)))
    assert len(found) >= 20 and len(found) == source.count(", MetricKind::k"), f"the catalogue in {header} was not understood"
    return found


def faults(expression: str, metrics: dict[str, Metric]) -> list[str]:
    """What an expression of PromQL asks of series that no process exports: names, series of histograms, labels."""
    said = []
    seen = _SERIES.findall(expression)
    for series, selector in seen:
        ending = next((e for e in _ENDINGS if series.endswith(e) and series[: -len(e)] in metrics), "")
        metric = metrics.get(series[: -len(ending)] if ending else series)
        if metric is None:
            said.append(f"{series}: no such metric in common/metrics.h")
            continue
        if (metric.kind == "histogram") != bool(ending):
            said.append(f"{series}: {metric.name} is a {metric.kind}")
        for label in re.findall(r"(\w+)\s*[!=]", selector):
            if label not in metric.labels and label not in COMMON_LABELS:
                said.append(f"{series}: has no label {label}, only {', '.join(metric.labels) or 'none'}")
    if not seen:
        said.append(f"'{expression}' names no metric")
    grouped = {label.strip() for labels in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression)
               for label in labels.split(",") if label.strip()}
    known = COMMON_LABELS | {label for m in metrics.values() if any(s.startswith(m.name) for s, _ in seen) for label in m.labels}
    said += [f"{expression}: no series of it has the label {label}" for label in sorted(grouped - known)]
    return said
