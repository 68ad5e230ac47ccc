"""Answers whose steps pass sublayers over, on the real model: allowed or refused, told of, and nobody else's."""
import json
import urllib.error
import urllib.request

import pytest

from cluster import Cluster

PROMPT = "The quick brown fox jumps over the lazy dog. The quick brown fox"


@pytest.fixture(scope="module")
def bounded():
    cluster = Cluster("--set", "skip.bounded=true", "--set", "skip.least_agreement=0.1", "--set", "skip.audit_every=8",
                      "--set", "skip.bounded_share=0.04")
    yield cluster
    cluster.await_nothing_held()
    cluster.stop()


def post(url, headers=None, **fields):
    body = {"prompt": PROMPT, "max_tokens": 64, "temperature": 0, "ignore_eos": True, **fields}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json", **(headers or {})})
    return urllib.request.urlopen(request, timeout=120).read().decode()


def ask(url, **fields):
    return json.loads(post(url, **fields))["choices"][0]


def test_a_bounded_answer_says_what_was_done(bounded):
    exact = ask(bounded.http)
    assert "interlace" not in exact
    choice = ask(bounded.http, fidelity="bounded")
    report = choice["interlace"]["fidelity"]
    print(report)
    assert report["mode"] == "bounded" and report["target"] == 0.1
    assert report["steps_skipped"] + report["steps_whole"] + report["steps_audited"] == 64
    assert report["steps_audited"] >= 4 and 0 <= report["agreement"] <= 1
    assert report["switched_off"] or report["steps_skipped"] > 20
    assert report["sublayers_saved"] == 2 * report["steps_skipped"], "4 % of 56 inner sublayers"
    assert bounded.metric("interlace_bounded_audits_total") >= report["steps_audited"]
    assert bounded.metric("interlace_bounded_steps_total", 'kind="skipped"') >= report["steps_skipped"]
    assert ask(bounded.http)["text"] == exact["text"], "what it left changes nobody's answer"
    assert ask(bounded.http, fidelity="off")["text"] == exact["text"]


def test_a_stream_ends_with_the_report(bounded):
    text = post(bounded.http, headers={"x-interlace-fidelity": "bounded"}, stream=True)
    events = [json.loads(line[len("data: "):]) for line in text.split("\n") if line.startswith("data: {")]
    last = next(event for event in events if event["choices"] and event["choices"][0]["finish_reason"])
    assert last["choices"][0]["interlace"]["fidelity"]["steps_audited"] >= 4
    name = last["id"].removeprefix("cmpl-")
    story = json.loads(urllib.request.urlopen(f"{bounded.http}/debug/requests/{name}").read())
    assert any(decision["kind"] == "bounded" and "audited steps" in decision["text"]
               for decision in story["decisions"]), story["decisions"]


def test_what_disagrees_is_switched_off(bounded):
    report = ask(bounded.http, fidelity={"mode": "bounded", "agreement": 1, "exit_layer": 1})["interlace"]["fidelity"]
    assert report["switched_off"], report
    assert report["steps_skipped"] == 0 and report["steps_audited"] == 4, report


@pytest.mark.parametrize("fidelity, why", [("lossy", "not known"), ({"mode": "bounded", "agreement": 0.05}, "0.1")])
def test_refused_by_name(bounded, fidelity, why):
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(bounded.http, fidelity=fidelity)
    error = json.loads(refused.value.read())["error"]
    assert refused.value.code == 400 and error["param"].startswith("fidelity") and why in error["message"], error


def test_nobody_gets_it_unless_the_operator_says_so(shared):
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(shared.http, fidelity="bounded")
    error = json.loads(refused.value.read())["error"]
    assert refused.value.code == 400 and error["param"] == "fidelity" and "skip.bounded" in error["message"], error
