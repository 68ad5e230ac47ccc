#!/usr/bin/env python3
"""Requests that schemathesis makes of /openapi.json, well-formed ones and others: none may be a 500, or end without an answer.

    python tests/nightly/openapi.py --requests 10000
"""
import argparse
import collections
import sys

import hypothesis
import requests
import schemathesis
from schemathesis import GenerationMode

from soak import Cluster, Summary, say

DRAINS = ("/debug/drain", "/debug/resume")  # behind the first of them all others would be 503
FINE = {503, 504}  # busy, and the deadline that this part sets so that long answers do not take for ever


def fuzz(operation, mode, count: int, seed: int, statuses: collections.Counter, faults: list):
    session = requests.Session()

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=count, deadline=None, database=None, phases=[hypothesis.Phase.generate],
                         suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def once(case):
        try:
            status = case.call(session=session, timeout=30).status_code
        except requests.RequestException as error:
            status = type(error).__name__
        statuses[status] += 1
        if not isinstance(status, int) or (status >= 500 and status not in FINE):
            faults.append(f"{status}: {case.as_curl_command()[:1000]}")

    once()


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--requests", type=int, default=10000)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    summary, statuses, faults = Summary("openapi"), collections.Counter(), []
    cluster = Cluster("--set", "request.deadline=1s", "--set", "request.max_tokens=8")
    try:
        schema = schemathesis.openapi.from_url(cluster.http + "/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        operations = [operation for operation in operations if not operation.path.startswith(DRAINS)]
        bodies = [operation for operation in operations if operation.body]
        say(f"{len(operations)} operations, {len(bodies)} of them with bodies")
        # Those with bodies get nine in ten of the requests, half of them wrong on purpose.
        for operation in operations:
            share = 0.9 / len(bodies) / 2 if operation.body else 0.1 / (len(operations) - len(bodies))
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if operation.body else (GenerationMode.POSITIVE,):
                fuzz(operation, mode, max(1, round(given.requests * share)), given.seed, statuses, faults)
        answers = requests.get(cluster.http + "/health", timeout=10).status_code == 200
        cluster.await_nothing_held()
    finally:
        cluster.stop()
    for fault in faults[:10]:
        say(fault)
    summary.row(f"requests, {len(faults)} of them a 500 or without an answer",
                f"{sum(statuses.values())}: " + ", ".join(f"{n} x {status}" for status, n in statuses.most_common()), not faults)
    summary.row("healthy afterwards", str(answers), answers)
    return summary.end()


if __name__ == "__main__":
    sys.exit(main())
