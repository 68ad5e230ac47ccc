"""Whatever a walk along the masks writes is what its constraint says, by judges that nobody here wrote: jsonschema and re."""
import json
import os
import pathlib
import re
import subprocess
import sys

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "bench/constraint"))
import schema_suite  # noqa: E402

WALK = ROOT / os.environ.get("INTERLACE_BUILD", "out/dev") / "tests/mask_walk"

# What would be left out of the grammar, so that an output might not be valid; and what no grammar can be made of.
REFUSED = [
    ({"not": {"type": "string"}}, "not"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "array", "contains": {"type": "string"}}, "contains"),
    ({"type": "object", "if": {}, "then": {}}, "if"),
    ({"type": "number", "multipleOf": 0.1}, "multipleOf"),
    ({"type": "string", "pattern": "^a+$", "minLength": 2}, "minLength"),
    ({"minLength": 3}, "minLength"),
    ({"anyOf": [{"type": "string"}], "minLength": 3}, "minLength"),
    ({"type": "object", "anyOf": [{"properties": {"a": {}}}]}, "type"),
    ({"type": "string", "enum": ["a", 1]}, "type"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    ({"allOf": [{"type": "string"}, {"minLength": 2}]}, ""),
    ({"$ref": "#/$defs/none"}, "none"),
    ({"$ref": "https://example.com/schema"}, ""),
    ({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["b"]}, "required"),
    ({"type": "object", "properties": {"a": {"dependentRequired": {}}}}, "/properties/a"),
    ({"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2}, "minProperties"),
    ({"type": "strange"}, "strange"),
    ({"type": "string", "pattern": "(a"}, ""),
    ({"type": "string", "pattern": "(?=a)b"}, "ookahead"),
    ({"enum": []}, ""),
    (False, ""),
    ({"type": "integer", "minimum": 5, "maximum": 2}, ""),
]


def deep(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


# Schemas that were written to take for ever, or all memory.
HOSTILE_SCHEMAS = [
    deep(40),
    {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(30000)}},
    {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1500)}},
    {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1500)}, "minProperties": 700},
    {"anyOf": [{"type": "object", "properties": {f"p{i}": {"type": "string"}}} for i in range(1500)]},
    {"enum": [f"value number {i}" for i in range(4000)]},
    {"type": "string", "minLength": 100000, "maxLength": 100000},
    {"type": "string", "minLength": 1000000000},
    {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {"type": "string"}, "minItems": 9999},
                                "minItems": 9999}, "minItems": 99999},
    {"type": "array", "items": {"type": "string", "pattern": "^(a|b)*a(a|b){20}$"}, "minItems": 5000, "maxItems": 9000},
    {"type": "string", "pattern": "^" + "(" * 200 + "a" + ")" * 200 + "$"},
    {"type": "string", "pattern": "^(((a{1,100}){1,100}){1,100}){1,100}$"},
    {"type": "string", "pattern": "^(a|aa)+$"},
    {"type": "string", "pattern": "^(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)b$"},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {"$ref": "#"},
    {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]},
    {"$ref": "#/$defs/n0", "$defs": {f"n{i}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/n{i + 1}"}] * 2}
                                     for i in range(60)} | {"n60": {"type": "string"}}},
    {"$ref": "#/$defs/n0", "$defs": {f"n{i}": {"anyOf": [{"$ref": f"#/$defs/n{i + 1}"}] * 8} for i in range(30)} |
     {"n30": {"type": "string"}}},
    {"allOf": [{"allOf": [{"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}}]}]}]},
    {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
    {"type": "number", "minimum": 1.2345678901234e-300, "maximum": 1.797e308},
    {"type": "integer", "multipleOf": 1000000007},
    {"type": "object", "patternProperties": {"^(a|b)*a(a|b){18}$": {"type": "string"}}},
]
HOSTILE_PATTERNS = ["(a|b)*a(a|b){24}", "(" * 300, "a{1,100000}", "(a{1,300}){1,300}", "((a*)*)*", "(.{1,1000}){1,9}x",
                    "(a?){400}a{400}", "[" * 1000, "(|a|b|ab)*" * 40, "\\" * 999, "(x+x+)+y", "(?:" * 100 + ")" * 100,
                    "[\\s\\S]{0,5000}", "(\\d{1,50}[a-z]{1,50}){1,90}"]
HOSTILE_GRAMMARS = ["root ::= " + "(" * 5000, "root ::= root root | \"a\" | \"\"", "root ::= " + "\"a\" | " * 3000 + "\"b\"",
                    "root ::= a{1,1000000}\na ::= \"x\"", "root ::= root", "root ::= a\na ::= b\nb ::= a",
                    "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(40)) + "\nr40 ::= \"a\"\nroot ::= r0",
                    "root ::= ([a-z] | [a-z] [a-z] | [a-z] [a-z] [a-z])* ([0-9]* [0-9]*)* \"x\"", "root ::= [^", "start: start",
                    "root ::= \"" + "x" * 60000 + "\""]


def walk(questions):
    done = subprocess.run([str(WALK)], input="\n".join(json.dumps(q) for q in questions), capture_output=True, text=True,
                          timeout=900)
    answers = [json.loads(line) for line in done.stdout.split("\n") if line]
    assert done.returncode == 0 and len(answers) == len(questions), \
        f"mask_walk ended with {done.returncode} at {questions[len(answers)] if len(answers) < len(questions) else 'the end'}"
    return answers


def of(schema, seed=0, **more):
    return {"kind": "json_schema", "text": json.dumps(schema), "seed": seed, **more}


def check_schemas(schemas, compact=False):
    answers = walk([of(schema, seed, compact=compact) for seed, schema in enumerate(schemas)])
    ends = {}
    for schema, answer in zip(schemas, answers):
        ends[answer["end"]] = ends.get(answer["end"], 0) + 1
        assert answer["end"] in ("stop", "length"), (answer, schema)
        if answer["end"] == "stop":
            value = json.loads(answer["output"])
            jsonschema.Draft202012Validator(schema).validate(value)
            if compact:
                assert "\n" not in answer["output"].replace("\\n", "")
    print(len(schemas), "schemas:", ends, "slowest compilation", max(a["compile_ms"] for a in answers), "ms, mask",
          max(a["slowest_mask_us"] for a in answers), "us, mean mask",
          sum(a["mask_us"] for a in answers) / len(answers), "us")
    assert ends.get("stop", 0) >= 0.8 * len(schemas), ends


def test_any_schema():
    check_schemas(schema_suite.draw(seed=1, count=int(os.environ.get("SCHEMAS", "150"))))


def test_any_schema_compact():
    check_schemas(schema_suite.draw(seed=2, count=40), compact=True)


def test_any_object():
    for answer in walk([{"kind": "json_object", "seed": seed} for seed in range(20)]):
        assert answer["end"] in ("stop", "length"), answer
        if answer["end"] == "stop":
            assert isinstance(json.loads(answer["output"]), dict)


def test_patterns():
    patterns = ["[a-z]{2,5}", "(foo|bar)+", "\\d{3}-\\d{4}", "(yes|no)", "a*b?c+", "[^x]{1,9}", "(\\w+ ){2,3}end", "ä+ö", "\\{\\}"]
    answers = walk([{"kind": "regex", "text": p, "seed": s, "tokens": 300} for p in patterns for s in range(8)])
    for number, answer in enumerate(answers):
        if answer["end"] == "stop":
            assert re.fullmatch(patterns[number // 8], answer["output"], re.ASCII | re.DOTALL), (patterns[number // 8], answer)
        assert answer["end"] in ("stop", "length"), answer


def test_what_would_be_left_out_is_refused():
    for (schema, word), answer in zip(REFUSED, walk([of(schema) for schema, _ in REFUSED])):
        assert answer["end"] == "refused" and word in answer["error"], (schema, answer)


def test_hostile_constraints_end_in_bounded_time():
    questions = [of(schema, tokens=100) for schema in HOSTILE_SCHEMAS]
    questions += [{"kind": "regex", "text": text, "tokens": 100} for text in HOSTILE_PATTERNS]
    questions += [{"kind": "lark" if text.startswith("start") else "ebnf", "text": text, "tokens": 100}
                  for text in HOSTILE_GRAMMARS]
    for question, answer in zip(questions, walk(questions)):
        if os.environ.get("SHOW"):
            print(question["text"][:70], {k: v for k, v in answer.items() if k != "output"})
        assert answer["compile_ms"] < 5000, (question["text"][:200], answer)


if __name__ == "__main__":
    for name, check in list(globals().items()):
        if name.startswith("test_"):
            check()
            print(name, "passed")
