"""JSON schemas as applications write them, drawn from a seed: every keyword that docs/http.md says is supported.

JSONSchemaBench ships in no package; a folder of its files can be given instead: read_folder.
"""
import json
import pathlib
import random

NAMES = ["name", "age", "city", "tags", "price", "id", "items", "kind", "note", "is_open", "größe", "a b", "quote\"d", "x/y", "名前"]
WORDS = ["red", "green", "blue", "a \"b\"", "ü", "back\\slash", "", "null", "1"]
PATTERNS = ["^[a-z]{2,5}$", "^\\d{3}-\\d{4}$", "^(foo|bar)+$", "[A-F0-9]{4}", "^[^@]{1,8}@[a-z]{1,8}\\.com$", "^.{1,6}$"]
FORMATS = ["date", "date-time", "time", "email", "uuid", "ipv4", "uri", "hostname"]


class Suite:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def schema(self):
        """One schema, an object at the top as a rule."""
        self.names = 0
        self.definitions = {}
        r = self.random
        top = self.object(3) if r.random() < 0.9 else self.value(3)
        if self.definitions:
            top["$defs"] = self.definitions
        if r.random() < 0.3:
            top.update({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Some title"})
        return top

    def value(self, depth):
        r = self.random
        simple = [self.string, self.integer, self.number, self.constant, lambda: {"type": "boolean"}, lambda: {"type": "null"}]
        if depth <= 0:
            return r.choice(simple)()
        nested = [lambda: self.object(depth - 1), lambda: self.array(depth - 1), lambda: self.union(depth - 1),
                  lambda: self.reference(depth - 1), lambda: {"allOf": [self.value(depth - 1)]},
                  lambda: {"type": [r.choice(["string", "integer"]), "null"]}]
        schema = r.choice(simple * 2 + nested)()
        if r.random() < 0.2:
            schema["description"] = "What it is"
        return schema

    def string(self):
        r = self.random
        schema = {"type": "string"}
        kind = r.randrange(5)
        if kind == 1:
            schema["minLength"] = r.randrange(5)
            schema["maxLength"] = schema["minLength"] + r.randrange(20)
        elif kind == 2:
            schema["pattern"] = r.choice(PATTERNS)
        elif kind == 3:
            schema["format"] = r.choice(FORMATS)
        elif kind == 4:
            schema["enum"] = r.sample(WORDS, r.randint(1, 5))
        return schema

    def integer(self):
        r = self.random
        schema = {"type": "integer"}
        if r.random() < 0.4:
            schema["minimum"] = r.randint(-1000, 1000)
        if r.random() < 0.4:
            schema["maximum"] = schema.get("minimum", -50) + r.randint(0, 5000)
        elif r.random() < 0.2:
            schema["exclusiveMaximum"] = schema.get("minimum", 0) + r.randint(1, 50)
        return schema

    def number(self):
        r = self.random
        schema = {"type": "number"}
        if r.random() < 0.3:
            schema["minimum"] = r.choice([0, -5, 0.5, 10.25])
            if r.random() < 0.5:
                schema["maximum"] = schema["minimum"] + r.choice([1, 0.5, 100])
        return schema

    def constant(self):
        r = self.random
        if r.random() < 0.3:
            return {"const": r.choice(WORDS + [3, None, True, 1.5, [1, "a"], {"a": 1}])}
        return {"enum": r.sample(WORDS + [3, None, True, 1.5], r.randint(1, 4))}

    def object(self, depth):
        r = self.random
        kind = r.random()
        if kind < 0.08:
            return {"type": "object", "additionalProperties": self.value(depth - 1)}
        if kind < 0.14:
            return {"type": "object", "patternProperties": {r.choice(["^[a-z]{1,4}$", "^x-"]): self.value(depth - 1)},
                    "additionalProperties": False}
        names = r.sample(NAMES, r.randint(1, 6))
        schema = {"type": "object", "properties": {name: self.value(depth - 1) for name in names}}
        required = [name for name in names if r.random() < 0.6]
        if required or r.random() < 0.5:
            schema["required"] = required
        if r.random() < 0.5:
            schema["additionalProperties"] = False
        elif r.random() < 0.15:
            schema["additionalProperties"] = r.choice([True, {"type": "integer"}])
        return schema

    def array(self, depth):
        r = self.random
        schema = {"type": "array", "items": self.value(depth - 1)}
        if r.random() < 0.4:
            schema["minItems"] = r.randint(0, 3)
        if r.random() < 0.5:
            schema["maxItems"] = schema.get("minItems", 0) + r.randint(0, 4)
        if r.random() < 0.1:
            schema = {"type": "array", "prefixItems": [self.value(depth - 1) for _ in range(2)], "items": False, "minItems": 2}
        return schema

    def union(self, depth):
        r = self.random
        if r.random() < 0.4:  # told apart by a member
            options = []
            for number in range(r.randint(2, 3)):
                option = self.object(depth - 1)
                option = {"type": "object", "properties": {"kind": {"const": f"k{number}"}, "value": self.value(depth - 1)},
                          "required": ["kind"], "additionalProperties": False}
                options.append(option)
            return {"oneOf": options}
        return {"anyOf": [self.value(depth - 1) for _ in range(r.randint(2, 3))]}

    def reference(self, depth):
        r = self.random
        self.names += 1
        name = f"Node{self.names}"
        if r.random() < 0.5:  # a tree
            self.definitions[name] = {"type": "object", "additionalProperties": False, "required": ["value"],
                                      "properties": {"value": self.value(0), "next": {"anyOf": [{"$ref": f"#/$defs/{name}"},
                                                                                              {"type": "null"}]}}}
        else:
            self.definitions[name] = None  # its place, so that names stay apart
            self.definitions[name] = self.value(depth - 1)
        return {"$ref": f"#/$defs/{name}"}


def draw(seed, count):
    suite = Suite(seed)
    return [suite.schema() for _ in range(count)]


def read_folder(folder):
    """Schemas of *.json files: each is one, or an object whose json_schema is one (JSONSchemaBench)."""
    found = []
    for path in sorted(pathlib.Path(folder).rglob("*.json")):
        value = json.loads(path.read_text())
        inner = value.get("json_schema") if isinstance(value, dict) else None
        found.append(json.loads(inner) if isinstance(inner, str) else inner or value)
    return found
