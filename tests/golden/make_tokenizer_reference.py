#!/usr/bin/env python3
"""Writes what tests/text/golden_test.cc compares with: token ids and pieces as Hugging Face's libraries cut them.

    python3 tests/golden/make_tokenizer_reference.py MODEL.gguf WIKITEXT tests/golden/tokenizer

Run by hand when the corpus below or the chats change; needs gguf, jinja2, tokenizers, transformers, and torch for the
cross-check. WIKITEXT is any plain English text; its first lines go into the reference. "-" in its place renews the
variants alone.

The reference tokenizer is built from the file's own vocabulary and merges as an explicit `tokenizers` pipeline, whose
pretokenizer is that of SmolLM2: Digits(individual_digits=True), ByteLevel(add_prefix_space=False). What transformers
makes of the same file is compared with it on the whole corpus, and the script says where the two differ: the conversion
of transformers 5.23 ignores tokenizer.ggml.pre and leaves out the digit split, so digits that are neighbours differ.

Reads OUT/chats.json. Writes OUT/reference.json:
  "model"       SHA-256 of MODEL.gguf
  "texts"       [{"text", "ids": special tokens found, "plain": ids with no special token, if they differ}]
  "variants"    by name of pretokenizer: [ids of the first "variant_texts" texts] with that one in smollm's place
  "characters"  by class: [first, last, first, last, ...] code points that the pretokenizers take for a member
  "chats"       [{"rendered", "ids"}] of chats.json, generation prompt included
"""

import argparse
import hashlib
import json
import os
import random
import sys

import gguf
import tokenizers
import transformers
from tokenizers import Regex, pre_tokenizers

CONTRACTIONS = """I'm you're we've they'll he'd it's don't I'M YOU'RE WE'VE THEY'LL HE'D IT'S DON'T 'tis 'twas rock 'n' roll
y'all'd've o'clock ''quoted'' ’s ’t it’s 's 't 're 've 'm 'll 'd ' s '' 'S 'ſ xſ K'K"""

CODE = [
    """#include <vector>
template <typename T, int N = 16>
class Ring {
 public:
	explicit Ring(const T& zero) : items_(N, zero) {}
	T& operator[](size_t i) { return items_[i % N]; }  // wraps
 private:
	std::vector<T> items_;
};
int main() { Ring<double> r{0.5}; r[17] += 1e-9; return r[1] > 0x7fffffff ? -1 : 0; }
""",
    """def fibonacci(n: int) -> list[int]:
    \"\"\"The first n numbers.\"\"\"
    a, b = 0, 1
    out = []
    while len(out) < n:
        out.append(a)
        a, b = b, a + b
    return out


if __name__ == "__main__":
    print(f"{fibonacci(10)!r:>40}", end='\\n\\n')
""",
    "SELECT u.id, COUNT(*) AS n FROM users u\nLEFT JOIN orders o ON o.user_id = u.id\nWHERE o.total >= 99.95 AND u.name LIKE '%son'\nGROUP BY 1 HAVING n > 3 ORDER BY n DESC;\n",
    "for f in *.log; do\n  [[ -s \"$f\" ]] && gzip -9 \"$f\" || echo >&2 \"${f%.log}: empty\"\ndone | tee /dev/null\n",
    "const f = async (x) => ({...x, y: await g(`a${x?.b ?? 'c'}d`)});\nexport default f; // 100_000n !== 1e5\n",
    "<!DOCTYPE html>\n<html lang=\"en\"><body class='a b'>&nbsp;<p>1 &lt; 2</p><!-- x --></body></html>\n",
    "fn main() -> Result<(), Box<dyn Error>> {\n    let v: Vec<_> = (0..=9).map(|x| x * x).collect();\n    println!(\"{:?}\", &v[2..]);\n    Ok(())\n}\n",
    "{\"a\": [1, 2.50, -3e+10, null, true], \"b\\u00e9\": {\"c\": \"\\\\n\"}}\n",
    "all: $(OBJS)\n\t$(CC) -O2 -o $@ $^ # tabs\n\n\n.PHONY: clean\nclean:\n\trm -rf *.o\n",
]

LANGUAGES = [
    "中国的首都是北京。北京是一座有三千多年历史的城市，人口超过两千一百万。",
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。カタカナとひらがな、漢字。",
    "대한민국의 수도는 서울이다. 한글은 세종대왕이 만들었다.",
    "مرحبا بالعالم! كيف حالك اليوم؟ العدد ١٢٣ والنص العَرَبِيّ مع التشكيل.",
    "שלום עולם, מה שלומך? בְּרֵאשִׁית בָּרָא אֱלֹהִים",
    "Привет, мир! Сколько будет 2 + 2? Ответ: четыре.",
    "Γειά σου Κόσμε! Οὐχὶ ταὐτὰ παρίσταταί μοι γιγνώσκειν.",
    "हिन्दी में लिखा हुआ वाक्य। संख्या १२३४५६७८९०",
    "ภาษาไทยไม่มีการเว้นวรรคระหว่างคำ ราคา ๑๒๓ บาท",
    "Tiếng Việt có nhiều dấu: ắ ằ ẳ ẵ ặ. Đường Nguyễn Huệ.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Straße, STRASSE, ẞ.",
    "Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë. Où ça? «Là-bas»",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia. ¿Qué? ¡Nada! 1.234,56 €",
    "İstanbul'da Iğdır, ışık; ÇĞÖŞÜ",
    "ქართული ენა, Հայերեն, አማርኛ, தமிழ், తెలుగు, ខ្មែរ, မြန်မာ, བོད་སྐད།",
]

ODD = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n\n\n\n\n\n\n\n\n\n", "\t", "\t\t\tx", "\r\n", "\r\n\r\n  \r\n", "\r", "a\rb\r\nc\n\rd",
    " leading", "  two leading", "trailing ", "trailing two  ", "inner  double   triple    four     five", "a\tb\t\tc",
    "line one  \n  line two\n\n\n   line three\n \n", "x \n y", "x\n y", "x \ny", " \n \n \n", "\n \n  \n   \n", "a \t \t b",
    "NBSP\u00a0between\u00a0\u00a0words \u00a0 mixed", "ideographic\u3000space\u3000\u3000中文\u3000", "thin\u2009hair\u200athing\u202fnarrow\u205fmath",
    "NEL\u0085here\u0085\u0085 x", "line\u2028separator\u2029paragraph", "ogham\u1680space", "mongolian\u180evowel \u180e separator\u180e\u180e",
    "zero\u200bwidth\u200b\u200bspace, \ufeffBOM, word\u2060joiner, soft\u00adhyphen", "\x0bvertical\x0ctab\x0b\x0c", "\x1c\x1d\x1e\x1f sep",
    "nul\x00byte \x01\x02\x03\x04\x05\x06\x07\x08 bell \x1b[31mred\x1b[0m \x7f", "\x04", "a\x04b", "the\x06re \x13\x14\x16\x1d",
    "0 1 12 123 1234 12345 123456 1234567 1,234,567.89 3.14159 -42 +7 0x1F 1e10 007 1st 2nd v1.2.3 10:30 2024-01-31 50% $9.99 №5 #1",
    "½ ¼ ² ³ ₁ ① Ⅷ ㊿ 一二三 ٣٤٥ １２３ 𝟘𝟙𝟚 𐄇 ½cup 2½ x² H₂O",
    "a1b2c3 abc123def 1a 12ab  34 cd   567", "1 2  3   4\n5\n\n6", "e\u0301 o\u0308 n\u0303 a\u030a\u0301 Z\u0351\u036b\u0343 \u0301alone q\u0323\u0307",
    "\u1100\u1161\u11a8 \uac01", "👍 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 👨🏿‍🚀 🇫🇷🇯🇵 ❤️ ☺ ☺️ 1️⃣ #️⃣ 🫠", "😀😃😄😁😆😅🤣😂", "text😀text 😀 text😀 😀text",
    "!!! ??? ... ,,, --- === *** /// \\\\\\ ((( ))) [[[ ]]] {{{ }}} <<< >>> ||| &&& ~~~ ``` ^^^ %%% $$$ ### @@@ ___",
    "«quotes» “curly” ‘single’ „low“ ‹angle› — em – en … ellipsis • bullet · dot § ¶ © ® ™ ° ± × ÷ ≠ ≤ ∞ ∑ √ ∫ → ⇒ █ ░ ┌─┐",
    "http://user:pw@example.com:8080/a/b.c?x=1&y=%20#frag mailto:a.b+c@d-e.org C:\\Dir\\file.txt ~/x/../y",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case dot.case", "ALLCAPS lower MiXeD aAbBcC",
    "pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "abababababababababababababababab", "hahahahahahaha", "                                x", "----------------------------------------",
    "================\n================", "\n    \n        \n            deep", "\ud7ff\ue000\ufffd\ufffe\uffff", "\U00010000\U0001f4a9\U0002a6d6\U000e0041\U0010ffff",
    "\U00050000 unassigned \U0009ffff\u0378", "ａｂｃ ＡＢＣ ｱｲｳ ﷺ ﬁ ﬂ ĳ ǅ ª º ʰ ⓐ 𝓪𝔟𝕔", "מ\u200fימין\u200e left", "x\u0338 \u20e3 \u0489",
]

CONTROL = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "x<|im_end|>y", " <|im_end|> ", "<|im_end|><|im_end|>", "<|im_end|>\n\n<|im_start|>", "<|im_end", "<|im_end|", "|im_end|>",
    "<<|im_end|>>", "<|IM_END|>", "<| im_end |>", "<|im_<|im_end|>end|>", "<repo_name>a/b<file_sep>c.py\nprint(1)\n", "<reponame><repo_name>",
    "<filename> <gh_stars>100-1000 <issue_start><issue_comment>text<issue_closed>", "<jupyter_start><jupyter_text>t<jupyter_code>c<jupyter_output>o<jupyter_script>",
    "<empty_output>\n", "<file_sep", "<s></s><unk><pad>", "  <|im_start|>  \n  <|im_end|>  ", "it's<|im_end|>'s 1<|im_end|>2", "中<|im_end|>文<|endoftext|>",
]


def random_texts(count):
    """Short texts of characters from everywhere, many of them white space, digits and apostrophes."""
    seeded = random.Random(20240601)
    pools = [
        lambda: seeded.choice(" \n\t\r'  \u00a0\u3000\u0085\u2028"), lambda: seeded.choice("'stdmlrev SLDMREVT"),
        lambda: chr(seeded.randrange(0x20, 0x7f)), lambda: chr(seeded.randrange(0x0, 0x250)),
        lambda: chr(seeded.randrange(0x300, 0x2000)), lambda: chr(seeded.randrange(0x2000, 0x3300)),
        lambda: chr(seeded.randrange(0x4e00, 0x9fff)), lambda: chr(seeded.randrange(0x1f300, 0x1fa00)),
        lambda: seeded.choice(["<|im_end|>", "<|im_start|>", "<file_sep>", "the", " and", "ing", "\n\n", "\r\n", "\u0301", "\u200d"]),
        lambda: str(seeded.randrange(10)),
    ]
    return ["".join(seeded.choice(pools)() for _ in range(seeded.randrange(4, 28))) for _ in range(count)]


def wikitext_lines(path, characters):
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file.read(200000).split("\n") if line.strip()]
    out, size = [], 0
    for line in lines:
        if size > characters:
            break
        out.append(line)
        size += len(line)
    return out


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")

QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")

TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + ENDING +
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + ENDING +
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
VARIANTS = ("gpt-2", "llama-bpe", "qwen2", "default", "refact", "dbrx", "olmo", "tekken", "gpt-4o")


def pretokenizer(name):
    name = {"refact": "smollm", "olmo": "gpt-2"}.get(name, name)  # other names of the same rules
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name in ("smollm", "gpt-2"))
    isolate = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
    before = {
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "gpt-2": [],
        "llama-bpe": [isolate(LLAMA3)],
        "qwen2": [isolate(QWEN2)],
        "dbrx": [isolate(LLAMA3)],
        "tekken": [isolate(TEKKEN)],
        "gpt-4o": [isolate(GPT4O)],
        "default": [isolate(r"[\p{P}\$\+<=>\^~\|]+"), isolate(GPT2), isolate(r"\p{N}+"), isolate("[0-9][0-9][0-9]")],
    }[name]
    return pre_tokenizers.Sequence(before + [byte_level])


def build(meta, name, with_special):
    pieces = meta["ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in meta["ggml.merges"]]
    core = tokenizers.Tokenizer(tokenizers.models.BPE({piece: i for i, piece in enumerate(pieces)}, merges,
                                                      ignore_merges=name in ("llama-bpe", "tekken")))
    core.pre_tokenizer = pretokenizer(name)
    if name == "qwen2":
        core.normalizer = tokenizers.normalizers.NFC()
    core.decoder = tokenizers.decoders.ByteLevel()
    if with_special:
        kinds = zip(pieces, meta["ggml.token_type"])
        core.add_special_tokens([piece for piece, kind in kinds if kind == gguf.TokenType.CONTROL])
    return core


def members(is_member):
    """[first, last, ...] over all code points but surrogates."""
    out, first = [], None
    for code in range(0x110001):
        inside = code < 0x110000 and not 0xd800 <= code < 0xe000 and is_member(chr(code))
        if inside and first is None:
            first = code
        if not inside and first is not None:
            out += [first, code - 1]
            first = None
    return out


def character_classes():
    def alone(pattern):
        split = pre_tokenizers.Split(Regex(pattern), "removed")
        return members(lambda c: not split.pre_tokenize_str(c))

    digits = pre_tokenizers.Digits(individual_digits=True)
    return {
        "letter": alone(r"\p{L}"), "number": alone(r"\p{N}"), "space": alone(r"\s"), "punctuation": alone(r"\p{P}"),
        "digit": members(lambda c: len(digits.pre_tokenize_str(c + c)) == 2),
    }


def write(path, out):
    lines = []
    for key, value in out.items():
        rows = [dump(item) for item in value] if isinstance(value, list) else None
        lines.append(f'"{key}":' + (dump(value) if rows is None else "[\n" + ",\n".join(rows) + "\n]"))
    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


def renew_variants(meta, path):
    with open(path, encoding="utf-8") as file:
        out = json.load(file)
    short = [entry["text"] for entry in out["texts"][:out["variant_texts"]]]
    for name in VARIANTS:
        variant = build(meta, name, True)
        out["variants"][name] = [variant.encode(text).ids for text in short]
    write(path, out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("wikitext")
    parser.add_argument("out")
    args = parser.parse_args()
    reader = gguf.GGUFReader(args.model)
    meta = {name[len("tokenizer."):]: field.contents() for name, field in reader.fields.items()
            if name.startswith("tokenizer.")}
    assert meta["ggml.model"] == "gpt2" and meta["ggml.pre"] == "smollm", (meta["ggml.model"], meta["ggml.pre"])

    if args.wikitext == "-":
        return renew_variants(meta, os.path.join(args.out, "reference.json"))
    short = [CONTRACTIONS] + LANGUAGES + ODD + CONTROL + random_texts(120)
    texts = short + CODE + wikitext_lines(args.wikitext, 8000)
    special, plain = build(meta, "smollm", True), build(meta, "smollm", False)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=special)
    tokenizer.chat_template = meta["chat_template"]

    out = {"texts": [], "variants": {}, "variant_texts": len(short), "chats": []}
    for text in texts:
        entry = {"text": text, "ids": tokenizer(text)["input_ids"]}
        assert entry["ids"] == special.encode(text).ids
        without = plain.encode(text).ids
        if without != entry["ids"]:
            entry["plain"] = without
        out["texts"].append(entry)
    for name in VARIANTS:
        variant = build(meta, name, True)
        out["variants"][name] = [variant.encode(text).ids for text in short]
    out["characters"] = character_classes()
    with open(os.path.join(args.out, "chats.json"), encoding="utf-8") as file:
        chats = json.load(file)
    for chat in chats:
        rendered = tokenizer.apply_chat_template(chat["messages"], tokenize=False, add_generation_prompt=True)
        out["chats"].append({"rendered": rendered, "ids": tokenizer(rendered)["input_ids"]})
    with open(args.model, "rb") as file:
        out["model"] = hashlib.file_digest(file, "sha256").hexdigest()

    converted = transformers.AutoTokenizer.from_pretrained(os.path.dirname(os.path.abspath(args.model)),
                                                           gguf_file=os.path.basename(args.model))
    print("transformers' own conversion:", converted.backend_tokenizer.pre_tokenizer, file=sys.stderr)
    differing = [text for text, entry in zip(texts, out["texts"])
                 if converted(text, add_special_tokens=False)["input_ids"] != entry["ids"]]
    without_number = [text for text in differing if not any(c.isnumeric() for c in text)]
    print(f"differs on {len(differing)} of {len(texts)} texts, {len(without_number)} of them without a number",
          file=sys.stderr)
    for text in differing[:12]:
        print(repr(text[:70]), file=sys.stderr)
    write(os.path.join(args.out, "reference.json"), out)


def dump(value):
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


if __name__ == "__main__":
    main()
