#!/usr/bin/env python3
"""Writes what tests/text/template_golden_test.cc compares with: chats as transformers renders them.

    python3 tests/golden/make_template_reference.py tests/golden/templates

Renders each OUT/*.jinja with transformers' own function, over the conversations below, and writes OUT/expected.json:
  "conversations"  [{"messages", "tools"?, "add_generation_prompt", "variables"?}]
  "tokens"         the special tokens given to every template
  "time"           seconds since 1970 that strftime_now shows
  "rendered"       by template: for each conversation the text, or null where rendering fails
Texts that occur often are kept once in "texts"; "rendered" holds their numbers.
Also OUT/snippets.json: small templates that walk the language's corners, with what they render or null.
"""

import datetime
import json
import os
import re
import sys

import jinja2.sandbox
import transformers.utils.chat_template_utils as chat

TIME = 1767323045  # 2026-01-02 03:04:05 UTC
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a place & its <wind>; \"now\".",
    "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "City, e.g. Zürich or 北京"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
        "days": {"type": "integer", "minimum": 1, "maximum": 7}},
        "required": ["place"]}}}
SEARCH = {"type": "function", "function": {
    "name": "search", "description": "Looks things up.",
    "parameters": {"type": "object", "properties": {
        "query": {"type": "string"}, "filters": {"type": "array", "items": {"type": "object", "properties": {
            "field": {"type": "string"}, "above": {"type": "number"}}}},
        "exact": {"type": "boolean"}}, "required": ["query", "exact"]}, "return": {"type": "string"}}}


def call(name, arguments, number):
    return {"id": f"call0000{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def conversations():
    user = {"role": "user", "content": "Hello, who are you?"}
    turns = [{"role": "system", "content": "You are terse."}, user, {"role": "assistant", "content": " I am a model.\n"},
             {"role": "user", "content": "  Two spaces, 'quotes' & <tags>\n\nand \"lines\"  "}]
    uni = [{"role": "user", "content": "你好，世界！ 😀👩‍👩‍👧 naïve ß\u00a0ﬁ \u2028 é"}, {"role": "assistant", "content": "再见。"},
           {"role": "user", "content": "Ünïcödé?"}]
    tool_use = [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Weather in Zürich?"},
                {"role": "assistant", "content": None, "tool_calls": [call("get_weather", {"place": "Zürich", "days": 3}, 1)]},
                {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "{\"temp\": 21.5}"}]
    empty = [dict(m, content="") if m["content"] is None else m for m in tool_use]
    two_calls = [{"role": "user", "content": "Compare."},
                 {"role": "assistant", "content": "I look.", "tool_calls": [call("get_weather", {"place": "A"}, 1),
                                                                           call("search", {"query": "x\n\"y\"", "exact": True, "n": None, "r": 1.0}, 2)]},
                 {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "sun"},
                 {"role": "tool", "name": "search", "tool_call_id": "call00002", "content": "a\nb"},
                 {"role": "assistant", "content": "Done."}, {"role": "user", "content": "Thanks!"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": " Two. "}]}]
    thinking = [user, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}, {"role": "user", "content": "Why?"},
                {"role": "assistant", "content": "Because.", "reasoning_content": "Let me see."}, {"role": "user", "content": "Ok."}]
    out = []
    for prompt in (True, False):
        out += [{"messages": m, "add_generation_prompt": prompt} for m in ([user], turns, uni, thinking)]
    out += [{"messages": turns[:3], "add_generation_prompt": False}, {"messages": parts, "add_generation_prompt": True},
            {"messages": [turns[0]], "add_generation_prompt": True}, {"messages": turns[1:], "tools": [WEATHER, SEARCH], "add_generation_prompt": True},
            {"messages": turns, "tools": [SEARCH], "add_generation_prompt": True}]
    out += [{"messages": m, "tools": [WEATHER, SEARCH], "add_generation_prompt": p} for m, p in ((tool_use, True), (empty, False), (two_calls, True))]
    out += [{"messages": turns, "add_generation_prompt": True, "variables": {"enable_thinking": False}},
            {"messages": thinking, "add_generation_prompt": True, "variables": {"enable_thinking": True, "thinking": True}},
            {"messages": [user, user], "add_generation_prompt": True}, {"messages": [{"role": "other", "content": "x"}], "add_generation_prompt": True},
            {"messages": two_calls[:2], "add_generation_prompt": False}]
    return out


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(TIME, datetime.timezone.utc).replace(tzinfo=None)


def render(template, conversation):
    """None where rendering fails. What fails because the sandbox forbids append and the like is rendered in one that
    does not: the interpreter here is as lenient."""
    text = render_in(jinja2.sandbox.ImmutableSandboxedEnvironment, template, conversation)
    changes = any(method in template for method in (".append(", ".pop(", ".update(", ".extend("))
    return render_in(jinja2.sandbox.SandboxedEnvironment, template, conversation) if text is None and changes else text


def render_in(sandbox, template, conversation):
    chat.ImmutableSandboxedEnvironment = sandbox
    chat._compile_jinja_template = chat._cached_compile_jinja_template.__wrapped__ if hasattr(
        chat._cached_compile_jinja_template, "__wrapped__") else chat._cached_compile_jinja_template
    try:
        out, _ = chat.render_jinja_template(
            [json.loads(json.dumps(conversation["messages"]))], tools=conversation.get("tools"), chat_template=template,
            add_generation_prompt=conversation["add_generation_prompt"], **TOKENS, **conversation.get("variables", {}))
        return out[0]
    except (jinja2.exceptions.TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError, ZeroDivisionError):
        return None


# One construct or two each; rendered with `messages`, `tools` and the variables of SNIPPET_DATA.
SNIPPET_DATA = {
    "s": "Hello, Wörld foo-bar", "e": "", "n": 7, "f": 2.5, "b": True, "z": None, "l": [3, 1, 2], "w": ["b", "A", "c", "a"],
    "d": {"b": 1, "a": {"x": [1, 2.0, "ü\n"]}, "items2": None}, "pad": "  a b\t\n", "big": 12345678901, "neg": -7,
    "people": [{"name": "Bo", "age": 3, "tags": ["x"]}, {"name": "al", "age": 2}, {"name": "Cy", "age": 3, "tags": []}]}
SNIPPETS = r"""
{{ s|upper }}|{{ s|lower }}|{{ s|title }}|{{ s|capitalize }}|{{ s.title() }}|{{ s.capitalize() }}|{{ s.swapcase() }}
{{ s[0] }}{{ s[-1] }}{{ s[7:12] }}{{ s[::-1] }}{{ s[::2] }}{{ s[-3:] }}{{ s[:-3] }}{{ s[5:2] }}{{ s[99:] }}{{ l[::-1] }}{{ l[1:] }}{{ l[-2:5:1] }}
{{ s.split() }}{{ s.split(',') }}{{ s.split(',', 1)[1] }}{{ s.rsplit(' ', 1) }}{{ pad.split() }}{{ pad.split(None, 1) }}{{ pad.splitlines() }}
[{{ pad.strip() }}][{{ pad.lstrip() }}][{{ pad.rstrip() }}][{{ pad|trim }}][{{ 'xxaxx'.strip('x') }}][{{ 'abcab'.lstrip('ba') }}]
{{ s.replace('o', '0') }}{{ s|replace('o', '0', 1) }}{{ 'aaa'.replace('', '-') }}{{ s.startswith('He') }}{{ s.endswith(('x','bar')) }}{{ s.find('W') }}{{ s.find('q') }}{{ s.count('o') }}
{{ '-'.join(['a','b']) }}{{ l|join(', ') }}{{ w|join }}{{ people|join('/', attribute='name') }}{{ e|join(',') }}
{{ l }}{{ d }}{{ w }}{{ (1,) }}{{ (1, 'a') }}{{ [] }}{{ {} }}{{ none }}{{ true }}{{ [none, true, 1.0, 'a\'b', "q\"'", 'tab\t\x00é😀'] }}
{{ d|tojson }}{{ l|tojson }}{{ s|tojson }}{{ d|tojson(indent=2) }}{{ d|tojson(ensure_ascii=true) }}{{ d|tojson(sort_keys=true, separators=(',', ':')) }}{{ [1.0, 1e20, 1e-7, -0.0, 123456.789]|tojson }}
{{ '<a href="x">&\'</a>'|tojson }}{{ '<&>'|escape }}{{ '</script>'|safe }}{{ "a\\b\u0001\x7f"|tojson }}
{{ 1.0 }} {{ 0.1 }} {{ 1e16 }} {{ 1e15 }} {{ 123456789.125 }} {{ 1e-4 }} {{ 1e-5 }} {{ 2.5e100 }} {{ 1/3 }} {{ 10/5 }} {{ 7//2 }} {{ -7//2 }} {{ -7%3 }} {{ 7%-3 }} {{ 2**10 }} {{ 2**-1 }} {{ 7.5//2 }} {{ -7.5%2 }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ -2 ** 2 }} {{ (1 + 2) * 3 }} {{ 2 ** 3 ** 2 }} {{ 'a' * 3 }} {{ [1] * 2 + [3] }} {{ 1 ~ 2 ~ 'x' ~ none ~ 1.5 }} {{ +5 }} {{ --5 }} {{ 'a' 'b' }}
{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 1 == 1.0 }} {{ 'a' < 'b' }} {{ [1,2] < [1,3] }} {{ true == 1 }} {{ 'a' == 1 }} {{ none == none }} {{ 1 != 2 }} {{ not 1 == 2 }} {{ 2 in l }} {{ 'W' in s }} {{ 'a' in d }} {{ 9 not in l }} {{ not 2 in l }}
{{ 'x' if n > 5 else 'y' }} {{ 'x' if n > 9 }} {{ 1 if false else 2 if false else 3 }} {{ (1 if e) is defined }} {{ n and 'and' }} {{ e or 'or' }} {{ not e }} {{ n > 3 and n < 5 or b }}
{% for x in l %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }}/{{ loop.previtem }}/{{ loop.nextitem }};{% endfor %}
{% for x in [] %}a{% else %}none{% endfor %}{% for x in l if x > 1 %}{{ x }}{{ loop.length }}{% else %}no{% endfor %}{% for x in l if x > 9 %}{{ x }}{% else %}no{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for k, v in d|dictsort %}{{ k }}{% endfor %}{% for k, v in d|items %}{{ k }}{% endfor %}{% for c in 'añ😀' %}{{ c }}.{% endfor %}
{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for x in range(5) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}{{ range(2, 10, 3)|list }}{{ range(3, 0, -1)|list }}
{% for x in l %}{% for y in w %}{{ loop.index }}{{ loop.depth }}{% if loop.last %}!{% endif %}{% endfor %}{{ loop.index }}{{ loop.cycle('a', 'b') }}{% endfor %}{% for x in [1,1,2] %}{{ loop.changed(x) }}{% endfor %}
{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}{% set ns = namespace(t=0, l=[]) %}{% for i in l %}{% set ns.t = ns.t + i %}{% endfor %}{{ ns.t }}{{ ns.q is defined }}
{% set a, b2 = 1, 2 %}{{ a }}{{ b2 }}{% set t = 1, 2 %}{{ t }}{% set block %}in {{ n }}{% endset %}{{ block }}{% set block | upper | replace('I', 'J') %}in {{ n }}{% endset %}{{ block }}
{% macro m(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}]{% endmacro %}{{ m(1) }}{{ m(1, 3, c=4) }}{{ m(b=5) }}{{ m(1, 2, 3, 4, 5, k=6) }}
{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m() }}{% macro r(n) %}{{ n }}{% if n > 0 %}{{ r(n - 1) }}{% endif %}{% endmacro %}{{ r(3) }}{{ m(1, 2, 3) }}
{% macro w(x) %}<{{ caller(x) }}{{ caller(2) }}>{% endmacro %}{% call(y) w(1) %}y{{ y }}{% endcall %}{% macro v() %}({{ caller() }}){% endmacro %}{% call v() %}body {{ n }}{% endcall %}{% macro noc() %}{{ caller is defined }}{% endmacro %}{{ noc() }}
{% macro scope() %}{{ outer is defined }}{{ late }}{% endmacro %}{% for i in [1] %}{% set outer = 1 %}{{ scope() }}{% endfor %}{% set late = 'L' %}{{ scope() }}
{{ nope }}[{{ nope is defined }}{{ nope is undefined }}{{ nope|default('d') }}{{ e|default('d') }}{{ e|default('d', true) }}{{ z|default('d') }}{{ z|d('d', boolean=true) }}{{ d.nope }}{{ d['nope'] }}{{ d.a.x[9] }}{{ nope|length }}{{ nope|list }}{{ nope|upper }}{{ nope|join }}{{ nope == nope2 }}{{ nope ~ 'x' }}{{ 'x' in nope }}]
{{ nope.x }}
{{ nope + 1 }}
{{ nope() }}
{{ z.x is defined }}{{ z.x }}{{ n.x }}{{ s.x }}{{ s.nope is defined }}{{ s.upper is defined }}{{ d.items is defined }}
{{ n is number }}{{ n is integer }}{{ f is float }}{{ b is boolean }}{{ b is number }}{{ b is integer }}{{ s is string }}{{ d is mapping }}{{ l is sequence }}{{ s is sequence }}{{ d is sequence }}{{ n is sequence }}{{ l is iterable }}{{ n is iterable }}{{ s is iterable }}{{ z is none }}{{ z is not none }}{{ nope is none }}{{ b is true }}{{ b is false }}{{ n is true }}{{ s.upper is callable }}{{ l is mapping }}
{{ n is odd }}{{ n is even }}{{ n is divisibleby 7 }}{{ n is divisibleby(2) }}{{ n is eq 7 }}{{ n is equalto(7) }}{{ n is ne 7 }}{{ n is gt 5 }}{{ n is lt(5) }}{{ n is ge 7 }}{{ n is le 6 }}{{ n is in [7] }}{{ n is not in [7] }}{{ 'abc' is lower }}{{ 'ABC' is upper }}{{ z is sameas none }}{{ n is sameas 7 }}
{{ people|selectattr('age', 'equalto', 3)|map(attribute='name')|list }}{{ people|rejectattr('age', 'gt', 2)|map(attribute='name')|join }}{{ people|selectattr('tags', 'defined')|list|length }}{{ people|selectattr('tags')|map(attribute='name')|list }}{{ l|select('gt', 1)|list }}{{ l|reject('odd')|list }}{{ w|map('upper')|list }}{{ w|map('replace', 'a', 'z')|join }}{{ people|map(attribute='tags', default=['none'])|list }}
{{ l|sort }}{{ l|sort(reverse=true) }}{{ w|sort }}{{ w|sort(case_sensitive=true) }}{{ people|sort(attribute='name')|map(attribute='name')|list }}{{ people|sort(attribute='age,name')|map(attribute='name')|list }}{{ d|dictsort(reverse=true)|map('first')|list }}{{ w|unique|list }}{{ [1,2,1,'a','A']|unique|list }}{{ l|reverse|list }}{{ s|reverse }}{{ l|first }}{{ l|last }}{{ s|first }}{{ s|last }}{{ []|first }}
{{ l|sum }}{{ people|sum(attribute='age') }}{{ l|max }}{{ l|min }}{{ w|max }}{{ people|max(attribute='age') }}{{ n|abs }}{{ neg|abs }}{{ -2.5|abs }}{{ 2.5|round }}{{ 3.5|round }}{{ 2.567|round(2) }}{{ 2.51|round(1, 'floor') }}{{ 2.41|round(1, 'ceil') }}{{ 7|round }}{{ '42'|int }}{{ '4x'|int }}{{ '4x'|int(9) }}{{ '4.9'|int }}{{ 4.9|int }}{{ 'ff'|int(0, 16) }}{{ '1.5'|float }}{{ 'x'|float }}{{ n|float }}{{ n|string }}{{ d|string }}{{ true|int }}
{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb\n\nc'|indent(2, true) }}|{{ 'a\nb\n\nc'|indent(2, blank=true) }}|{{ 'a\nb'|indent('>') }}|{{ 'a b c'|wordcount }}|{{ 'foo bar baz qux'|truncate(9) }}|{{ 'foo bar baz qux'|truncate(9, True) }}|{{ 'foo bar baz qux'|truncate(11) }}|{{ 'foo bar baz qux'|truncate(11, False, '...', 0) }}|{{ 'x'|center(7) }}|
{{ l|batch(2)|list }}{{ l|batch(2, 'x')|list }}{{ l|slice(2)|list }}{{ people|groupby('age')|list }}{{ '%s-%d'|format('a', 3) }}{{ '%05.1f|%-4s|%4s|%x|%%' % (2.25, 'a', 'b', 255) }}{{ '{} {1}'.format(1, 2) }}
{{ '{}-{}'.format('a', 3) }}{{ '{0}{1}{0}'.format('a', 'b') }}{{ '{x:>5}|{y:.2f}|{z:05d}|{w!r}'.format(x='a', y=2.0, z=42, w='q') }}{{ '{{}}'.format() }}{{ '{a[b]}'.format(a={'b': 1}) }}{{ '{:,}'.format(1234567) }}
{{ d.get('b') }}{{ d.get('q') }}{{ d.get('q', 5) }}{{ d.keys()|list }}{{ d.values()|list }}{{ d['a']['x'][1] }}{{ d.a.x.0 }}{{ dict(a=1, b=2) }}{{ dict(d, c=3)|length }}{{ 'b' in d.keys() }}{{ d.items()|list|length }}{{ d|length }}{{ s|length }}{{ 'é😀'|length }}
  {% if true %}
    a
  {% endif %}
b  {%- if true %}  c  {%- endif -%}   d
	{{ n }}  {#- comment -#}  e {# x #}
{#+ keep #}
 {%+ if true %} f {% endif %}
{% raw %}{{ not }} {% if %}{% endraw %} {%- raw -%}  x  {%- endraw -%} y
{{- n -}}   {{ n }}
{{ '\n' }}|{{ "\t\\\"'" }}|{{ '\u00e9\x41\101\q' }}|{{ "a\
b" }}
{% if n == 1 %}1{% elif n == 7 %}7{% else %}x{% endif %}{% if nope %}a{% elif e %}b{% else %}c{% endif %}{% if d.a and not z %}yes{% endif %}
{% with a=1, c=n %}{{ a }}{{ c }}{% endwith %}{{ a }}{% filter upper %}abc {{ n }}{% endfilter %}{% generation %}gen{% set inner = 1 %}{% endgeneration %}{{ inner is defined }}
{{ raise_exception('no: ' ~ n) }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %d %b %Y %A %B %j %p %I') }}{{ strftime_now('%d %B') }}
{{ 1 / 0 }}
{{ 'a' + 1 }}
{{ [] + 'a' }}
{{ 1 < 'a' }}
{{ 'abc'.nomethod() }}
{{ n|nofilter }}
{{ n is notest }}
{% unknowntag %}
{% if %}{% endif %}
{{ n
{% for x in n %}{% endfor %}
{% for a, b in [(1,2,3)] %}{% endfor %}
{{ 'a'.__class__ }}
{{ ''.join(l) }}
{{ d|tojson|length }}{{ nope|tojson }}
{{ {1: 'a', 'b': 2, none: 3, true: 4} }}{{ {1: 'a'}[1] }}{{ {(1,2): 3} }}{{ {1: 2, none: 3, true: 4}|tojson }}
{{ (l|select('gt', 1)) and 'truthy' }}{{ l|select('gt', 9) and 'truthy' }}{{ (people|map(attribute='name')|first) }}{{ (l|map('string')|list)[0] }}{% set g = l|select %}{% for x in g %}{{ x }}{% endfor %}{% for x in g %}again{% endfor %}
{{ l|select|length }}
{{ 'ß'|upper }}{{ 'ǆ'|title }}{{ 'İ'|lower }}{{ "they're bill's"|title }}{{ "they're bill's".title() }}{{ 'ﬁ'.upper() }}{{ 'a-b c(d'|title }}{{ 'straße'.isalpha() }}{{ '1２'.isdigit() }}{{ ' '.isspace() }}{{ 'Ab'.isupper() }}{{ 'a1'.isalnum() }}
{{ 'a,b'.partition(',') }}{{ 'a'.rpartition(',') }}{{ 'x'.center(5, '*') }}{{ 'x'.ljust(3) }}|{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}{{ 'prefix-a'.removeprefix('prefix-') }}{{ 'a.b'.removesuffix('.b') }}{{ 'abcabc'.rfind('b') }}{{ 'abc'.index('c') }}
{{ 0x1F }}{{ 1_000 }}{{ 0b11 }}{{ 0o17 }}{{ 1e3 }}{{ 1.5e-3 }}{{ 12.0 }}{{ 1_0.5 }}
{{ not true or true }}{{ (not e) and n }}{{ 1 if not e else 2 }}{{ n if n is defined and n is number else 'x' }}{{ [1 if b else 2, 3] }}{{ 'a' if z is none else 'b' }}{{ (z is none)|string }}{{ -n|abs }}{{ n|string|length + 1 }}{{ not n is defined }}
{{ messages[0].role }}{{ messages[0]['content'] }}{{ messages|length }}{{ messages[-1].role == 'user' }}{{ tools is none }}{{ tools is defined }}{{ documents is none }}{{ messages[1:]|length }}{{ (messages|last).role }}{{ bos_token }}{{ eos_token is defined }}{{ cls_token is defined }}
{%- set ns = namespace(found=false) -%}
{%- for m in messages if m.role == 'user' -%}
  {%- set ns.found = loop.index0 -%}
{%- endfor -%}
{{ ns.found }}
{% set l2 = [1] %}{% set _ = l2.append(2) %}{{ l2 }}{% set _ = l2.extend([3, 4]) %}{{ l2.pop() }}{{ l2.pop(0) }}{{ l2 }}{% set d2 = {'a': 1} %}{% set _ = d2.update({'b': 2}) %}{{ d2 }}{{ d2.pop('a') }}{{ d2 }}{{ d2.pop('q', 9) }}
{{ '<b>'|safe + '<i>' }}{{ '<i>' + '<b>'|safe }}{{ '<b>'|safe ~ '<i>' ~ 1 }}{{ ('<b> '|safe).strip() + '&' }}{{ ('<b>'|safe)[1:] + '&' }}{{ '<b>'|safe|upper + '&' }}{{ ['<', '>'|safe]|join('&') }}{{ ('<b>'|safe).replace('b', '&') }}{{ '<b>'|safe|replace('b', '&') }}{{ '<'|e|e }}{{ '<'|e|forceescape }}
{{ none|select|list }}{{ none|map('upper')|list }}{{ 0|selectattr('x')|list }}{{ none|rejectattr('a')|list }}
{{ none|list }}
{{ s is filter }}{{ 'upper' is filter }}{{ 'odd' is test }}{{ d is sameas d }}{{ [] is sameas [] }}{{ l|list == l }}{{ (1,2) == [1,2] }}{{ {'a':1} == {'a':1.0} }}
{{ namespace(a=1) is mapping }}{{ range(3)|length }}{{ range(3)[1] }}{{ 2 in range(3) }}{{ loop is defined }}{{ caller is defined }}{{ varargs is defined }}
"""


def snippets():
    # Multi-line ones are those whose lines do not stand alone.
    lines, out = SNIPPETS.strip("\n").split("\n"), []
    joined = {"  {% if true %}": 7, "{{ '\\n' }}|{{ \"\\t\\\\\\\"'\" }}|{{ '\\u00e9\\x41\\101\\q' }}|{{ \"a\\": 2,
              "{%- set ns = namespace(found=false) -%}": 5}
    at = 0
    while at < len(lines):
        count = joined.get(lines[at], 1)
        out.append("\n".join(lines[at:at + count]) + ("\n" if count > 2 else ""))
        at += count
    return out


def main():
    out = sys.argv[1]
    chat.datetime = FixedTime
    names = sorted(name[:-len(".jinja")] for name in os.listdir(out) if name.endswith(".jinja"))
    chats, texts, rendered = conversations(), [], {}
    for name in names:
        with open(os.path.join(out, name + ".jinja"), encoding="utf-8") as file:
            template = file.read()
        results = [render(template, conversation) for conversation in chats]
        numbers = []
        for text in results:
            if text is not None and text not in texts:
                texts.append(text)
            numbers.append(None if text is None else texts.index(text))
        rendered[name] = numbers
        print(f"{name}: {sum(n is not None for n in numbers)} of {len(numbers)}")
    rows = []
    for key, value in (("tokens", TOKENS), ("time", TIME)):
        rows.append(f'"{key}":{json.dumps(value)}')
    for key, value in (("conversations", chats), ("texts", texts)):
        rows.append(f'"{key}":[\n' + ",\n".join(json.dumps(item, separators=(",", ":")) for item in value) + "\n]")
    rows.append('"rendered":{\n' + ",\n".join(f'{json.dumps(k)}:{json.dumps(v, separators=(",", ":"))}' for k, v in rendered.items()) + "\n}")
    with open(os.path.join(out, "expected.json"), "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(rows) + "\n}\n")

    base = {"messages": chats[1]["messages"], "add_generation_prompt": True, "variables": SNIPPET_DATA}
    done = []
    for template in snippets():
        text, parts = render(template, base), re.findall(r"\{\{.*?\}\}(?!\})", template)
        # Where one of several expressions fails, each stands alone, so that the others are seen.
        alone = text is None and len(parts) > 1 and "{%" not in template
        done += [{"template": t, "rendered": render(t, base)} for t in (parts if alone else [template])]
    print(f"snippets: {sum(d['rendered'] is not None for d in done)} of {len(done)}")
    with open(os.path.join(out, "snippets.json"), "w", encoding="utf-8") as file:
        file.write('{"messages":' + json.dumps(base["messages"]) + ',\n"variables":' + json.dumps(SNIPPET_DATA) + ',\n"snippets":[\n')
        file.write(",\n".join(json.dumps(d) for d in done) + "\n]}\n")


if __name__ == "__main__":
    main()
