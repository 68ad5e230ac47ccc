#!/usr/bin/env python3
"""Constrained answers of a running server, judged and timed.   usage: constrained.py COMMAND URL [options]

  schemas   answers to many JSON schemas (--count 1000 --seed 1, or --folder of JSONSchemaBench's files): how many are refused,
            cut by length, valid and, the aim of none, invalid; by the PyPI package jsonschema
  cost      time per token of constrained answers against free text, --streams 8 side by side, in turns
"""
import argparse
import collections
import concurrent.futures
import json
import statistics
import time
import urllib.error
import urllib.request

import jsonschema
import schema_suite

PROMPT = "Write a JSON document for this schema, short and simple: "
LONG = {"type": "array", "minItems": 200, "items": {"type": "object", "required": ["name", "age", "tags"], "additionalProperties": False,
        "properties": {"name": {"type": "string", "maxLength": 40}, "age": {"type": "integer"},
                       "tags": {"type": "array", "maxItems": 4, "items": {"enum": ["red", "green", "blue"]}}}}}


def post(url, body, timeout=600):
    request = urllib.request.Request(url + "/v1/chat/completions", data=json.dumps(body).encode(),
                                     headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)


def ask(url, schema, seed, tokens):
    body = {"messages": [{"role": "user", "content": PROMPT + json.dumps(schema)[:1500]}], "max_tokens": tokens, "temperature": 0.7,
            "seed": seed, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}
    try:
        choice = post(url, body)["choices"][0]
    except urllib.error.HTTPError as error:
        return "refused" if error.code == 400 else f"error {error.code}", json.load(error)["error"]["message"]
    if choice["finish_reason"] != "stop":
        return choice["finish_reason"], ""
    text = choice["message"]["content"]
    try:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as wrong:
        return "INVALID", f"{str(wrong)[:200]} in {text[:300]}"
    return "valid", ""


def schemas(args):
    drawn = schema_suite.read_folder(args.folder) if args.folder else schema_suite.draw(args.seed, args.count)
    begin, ends = time.monotonic(), collections.Counter()
    with concurrent.futures.ThreadPoolExecutor(args.streams) as pool:
        answers = pool.map(lambda item: ask(args.url, item[1], item[0], args.tokens), enumerate(drawn))
        for schema, (end, why) in zip(drawn, answers):
            ends[end] += 1
            if end == "INVALID" or end.startswith("error"):
                print(end, why, json.dumps(schema)[:600])
    ended = ends["valid"] + ends["INVALID"]
    print(f"{len(drawn)} schemas in {time.monotonic() - begin:.0f} s: {dict(ends)}; of those that ended by themselves "
          f"{100 * ends['valid'] / max(1, ended):.2f} % valid")
    return 1 if ends["INVALID"] else 0


def run(args, constrained, round_):
    """Seconds per token of a stream, from its first token on, all streams side by side."""
    def one(number):
        body = {"messages": [{"role": "user", "content": "Tell me about people, number " + str(number)}], "max_tokens": args.tokens,
                "temperature": 0.8, "seed": round_ * 100 + number, "stream": True}
        if constrained:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "s", "schema": LONG}}
        else:
            body["ignore_eos"] = True
        request = urllib.request.Request(args.url + "/v1/chat/completions",
                                         data=json.dumps({**body, "stream_options": {"include_usage": True}}).encode(),
                                         headers={"Content-Type": "application/json"})
        first = last = None
        tokens = 0
        with urllib.request.urlopen(request, timeout=600) as answer:
            for line in answer:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if event.get("usage"):
                    tokens = event["usage"]["completion_tokens"]
                elif event["choices"] and event["choices"][0]["delta"].get("content"):
                    last = time.monotonic()
                    first = first or last
        return (last - first) / max(1, tokens - 1)

    with concurrent.futures.ThreadPoolExecutor(args.streams) as pool:
        return statistics.mean(pool.map(one, range(args.streams)))


def cost(args):
    run(args, True, 0), run(args, False, 0)
    rows = [(run(args, True, r), run(args, False, r)) for r in range(1, args.rounds + 1)]
    constrained, free = (statistics.median(column) for column in zip(*rows))
    ratios = sorted(a / b for a, b in rows)
    print(f"{args.streams} streams of {args.tokens} tokens, {args.rounds} rounds: constrained {1000 * constrained:.2f} ms a token, free "
          f"{1000 * free:.2f} ms; ratio median {statistics.median(ratios):.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f}")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["schemas", "cost"])
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    raise SystemExit({"schemas": schemas, "cost": cost}[args.command](args))


if __name__ == "__main__":
    main()
