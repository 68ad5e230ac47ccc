#!/usr/bin/env python3
"""lm_eval's own loglikelihoods and generations on a task of 200 items, against transformers' (tests/golden/model).

    out/nightly/lm_eval/bin/python tests/nightly/lm_eval_task.py

The task is written beside its output; nothing is downloaded. Prints a row for tests/nightly.sh into out/nightly/lm_eval.tsv.
"""
import json
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/cluster"))
from cluster import Cluster  # noqa: E402

OUT = ROOT / "out/nightly/lm_eval_run"
TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{context}}}}"
target_delimiter: ""
{more}
metadata: {{version: 1}}
"""
CHOICE = """doc_to_choice: "{{[first, second]}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]"""
GENERATE = """doc_to_target: "{{first}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, temperature: 0}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]"""


def write_tasks(items):
    OUT.mkdir(parents=True, exist_ok=True)
    data = OUT / "items.jsonl"
    with open(data, "w", encoding="utf-8") as file:
        for first, second in zip(items[::2], items[1::2]):
            file.write(json.dumps({"context": first["context_text"], "first": first["continuation_text"],
                                   "second": second["continuation_text"]}) + "\n")
    (OUT / "choice.yaml").write_text(TASK.format(name="interlace_choice", data=data, kind="multiple_choice", more=CHOICE))
    (OUT / "generate.yaml").write_text(TASK.format(name="interlace_generate", data=data, kind="generate_until", more=GENERATE))


def evaluate(base_url, tokenized):
    import lm_eval
    from lm_eval.tasks import TaskManager

    args = f"model=small,base_url={base_url}/v1/completions,tokenizer_backend=remote,num_concurrent=4,tokenized_requests={tokenized},max_length=2048"
    return lm_eval.simple_evaluate(model="local-completions", model_args=args, tasks=["interlace_choice", "interlace_generate"],
                                   task_manager=TaskManager(include_path=str(OUT), include_defaults=False), batch_size=8,
                                   bootstrap_iters=0, log_samples=True)


def main():
    items = json.loads((ROOT / "tests/golden/model/loglikelihood.json").read_text())["items"]
    write_tasks(items)
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("HF_HOME", str(OUT / "home"))
    cluster = Cluster("--set", "model.name=small")
    rows, failed = [], False
    try:
        for tokenized in (True, False):
            results = evaluate(cluster.http, tokenized)
            samples = sorted(results["samples"]["interlace_choice"], key=lambda sample: sample["doc_id"])
            ours = [float(pair[0]) for sample in samples for pair in sample["filtered_resps"]]
            off = [abs(got - item["loglikelihood"]) / len(item["continuation"]) for got, item in zip(ours, items)]
            want = sum(a["loglikelihood"] > b["loglikelihood"] for a, b in zip(items[::2], items[1::2])) / (len(items) // 2)
            accuracy = results["results"]["interlace_choice"]["acc,none"]
            generated = len(results["samples"]["interlace_generate"])
            good = len(ours) == len(items) and sum(off) / len(off) < 0.1 and abs(accuracy - want) <= 0.02 and generated == len(items) // 2
            failed |= not good
            rows.append(("lm_eval", f"{len(items) // 2} items, tokenized_requests={tokenized}",
                         f"off by {sum(off) / len(off):.4f} a token (mean), {max(off):.4f} (most); acc {accuracy:.3f}, transformers {want:.3f}",
                         "ok" if good else "FAILED"))
    finally:
        cluster.stop()
    with open(ROOT / "out/nightly/lm_eval.tsv", "w", encoding="utf-8") as file:
        for row in rows:
            file.write("\t".join(row) + "\n")
            print(*row, sep="  ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
