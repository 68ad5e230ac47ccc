"""`interlace bench serve` on a real cluster: what it reports is what the cluster did."""
import json
import subprocess

import pytest

from cluster import BIN

PROTOCOLS = ["openai-completions", "openai-chat", "interlace-grpc"]


def bench(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(BIN / "interlace"), "bench", *flags], capture_output=True, text=True, timeout=120)


def serve(cluster, folder, *flags: str, protocol: str = "openai-completions") -> dict:
    url = cluster.grpc if protocol == "interlace-grpc" else cluster.http
    result = folder / f"{protocol}.json"
    done = bench("serve", "--url", url, "--protocol", protocol, "--json", str(result), *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(result.read_text())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_counts_are_the_clusters(shared, tmp_path, protocol):
    names = ["vllm:prompt_tokens_total", "vllm:generation_tokens_total"]
    before = [shared.metric(name) for name in names]
    result = serve(shared, tmp_path, "--rate", "8", "--requests", "6", "--input-tokens", "40", "--output-tokens", "12",
                   protocol=protocol)
    shared.await_nothing_held()
    after = [shared.metric(name) for name in names]
    assert result["completed"] == 6 and result["failed"] == 0
    assert result["total_output_tokens"] == 72 == after[1] - before[1]
    assert result["total_input_tokens"] == after[0] - before[0]
    assert all(0 < ttft < 60 for ttft in result["ttfts"])


def test_the_same_ids_give_the_same_texts_by_both_doors(shared, tmp_path):
    flags = ["--rate", "20", "--requests", "5", "--input-tokens", "30", "--output-tokens", "10", "--save-texts", "--seed", "5"]
    texts = [serve(shared, tmp_path, *flags, protocol=p)["generated_texts"]
             for p in ("openai-completions", "interlace-grpc")]
    assert texts[0] == texts[1] and len(set(texts[0])) == 5


def test_sessions_find_their_past_in_the_cache(shared, tmp_path):
    result = serve(shared, tmp_path, "--arrivals", "burst", "--requests", "6", "--turns", "3", "--input-tokens", "60",
                   "--output-tokens", "16", protocol="openai-chat")
    figures = result["interlace"]["figures"]
    assert result["completed"] == 6
    assert 0.2 < figures["hit_rate"] < 1 and 0.3 < figures["hit_rate_ceiling"] < 1


def test_hanging_up_gives_everything_back(shared, tmp_path):
    result = serve(shared, tmp_path, "--rate", "20", "--requests", "8", "--input-tokens", "20", "--output-tokens", "400",
                   "--cancel-percent", "100", "--seed", "2")
    assert {record["outcome"] for record in result["interlace"]["records"]} == {"cancelled"}
    shared.await_nothing_held()


def test_a_result_does_not_regress_against_itself(shared, tmp_path):
    serve(shared, tmp_path, "--rate", "20", "--requests", "5", "--input-tokens", "16", "--output-tokens", "8", "--html",
          str(tmp_path / "page.html"))
    result = str(tmp_path / "openai-completions.json")
    assert bench("compare", result, result).returncode == 0
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_nobody_there(tmp_path):
    done = bench("serve", "--url", "http://127.0.0.1:9", "--rate", "1")
    assert done.returncode == 1 and "--url" in done.stderr
