#!/usr/bin/env python3
"""Writes the corpus and what tests/text/corpus_test.cc compares with: token ids as others cut them.

    python3 tests/golden/make_corpus_reference.py SMOLLM2.gguf GEMMA3.gguf DATA tests/golden/tokenizer

Run by hand when the corpus changes; needs gguf, tokenizers, transformers, sentencepiece, llama_cpp. DATA holds
wikitext2_test.txt (CC BY-SA 3.0), gsm8k_test.jsonl (MIT), mt_bench_questions.jsonl (Apache-2.0).

Oracles: for SmolLM2 the `tokenizers` pipeline of make_tokenizer_reference.py; for Gemma 3 SentencePiece itself, over a
model built from the file's tokens, scores and types. llama.cpp and transformers read the same files; how often they
differ from the oracle is printed.

Writes OUT/corpus.json, a list of texts, and OUT/corpus_ids.json: by model the number of ids of each text and their
hash (FNV-1a of 64 bits over little-endian 32-bit ids), and the first ids in full.
"""

import argparse
import json
import os
import random
import struct
import sys

import gguf
import llama_cpp
import sentencepiece
import transformers
from sentencepiece import sentencepiece_model_pb2 as model_pb2

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_tokenizer_reference as byte_level

CHINESE = """中国的首都是北京，北京是一座有三千多年历史的城市。 人工智能正在改变我们的生活方式。 请把下面的句子翻译成英文：“学而时习之，不亦说乎？”
这个函数的时间复杂度是O(n log n)，空间复杂度是O(1)。 今天是２０２４年１月３１日，气温-5℃～3℃。 他说：「我不知道。」然后就走了…… 春眠不觉晓，处处闻啼鸟。
大語言模型可以用於文本生成、摘要與翻譯。 臺灣的夜市非常有名。 龘靐齉爩 𠮷野家 㐂 〇 々 ㊙ 電腦軟體 後台 乾燥 只有 麵包 醫療""".split(" ")
EMOJI = "😀 😂 🥰 👍 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 👨🏿‍🚀 🇫🇷 🇯🇵 ❤️ ☺ 1️⃣ 🫠 🧑‍💻 🎉 🚀 🐍 ✅ ⚠️ 🤷‍♀️ 🧿 🪐 🫶🏾".split(" ")
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\t", "\t\t", "\r\n", " \n", "\n ", "\u00a0", "\u3000", "\u2009", "\u200b", "\ufeff", "\u0085",
          "\u2028", "\x0b", "\x0c", " " * 16, " " * 40, "\n" * 7, "\n" * 40, "\t" * 35, "\u2581", "\u2581\u2581", "\u180e", "\u202f"]
WORDS = "the of and hello World I'm you're it's x1 3.14 1000000 foo_bar camelCase naïve café straße Москва 東京 서울 ไทย 한국어 ١٢٣ Ⅷ ½ é e\u0301".split(" ")


def generated(seed):
    seeded = random.Random(seed)
    texts = []
    for _ in range(120):
        texts.append("".join(seeded.choice(CHINESE) + seeded.choice(["", "", "\n", " ", "，"]) for _ in range(12)))
    for _ in range(60):
        texts.append("".join(seeded.choice(EMOJI) + seeded.choice(["", "", " ", " ok ", "！"]) for _ in range(24)))
    for _ in range(250):
        texts.append("".join(seeded.choice([seeded.choice(SPACES), seeded.choice(WORDS)]) for _ in range(40)))
    for _ in range(150):
        pools = [(0x20, 0x7f), (0xa0, 0x250), (0x370, 0x530), (0x600, 0x700), (0x900, 0xe80), (0x2000, 0x2c00),
                 (0x3040, 0x3100), (0x4e00, 0xa000), (0xac00, 0xd7a0), (0x1f300, 0x1fb00), (0x20000, 0x20100)]
        texts.append("".join(chr(seeded.randrange(*seeded.choice(pools))) for _ in range(60)))
    return texts


def corpus(data, root):
    texts = []
    with open(f"{data}/wikitext2_test.txt", encoding="utf-8") as file:
        wiki = file.read(70000)
    texts += [wiki[i:i + 1000] for i in range(0, len(wiki) - 1000, 1000)]
    with open(f"{data}/gsm8k_test.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(45), file)]
    texts += [row["question"] + "\n" + row["answer"] for row in rows]
    with open(f"{data}/mt_bench_questions.jsonl", encoding="utf-8") as file:
        texts += ["\n".join(json.loads(line)["turns"]) for line in file]
    for path in ("text/bpe.cc", "checkpoint/gguf_values.cc", "tests/lint/lint.py", "CMakeLists.txt", "tests/run.sh",
                 "kernels/CMakeLists.txt", "CMakePresets.json"):
        with open(f"{root}/{path}", encoding="utf-8") as file:
            code = file.read()
        texts += [code[i:i + 1500] for i in range(0, len(code), 1500)]
    return texts + byte_level.LANGUAGES + byte_level.ODD + byte_level.CODE + generated(20261)


def fnv(ids):
    value = 0xcbf29ce484222325
    for byte in struct.pack(f"<{len(ids)}i", *ids):
        value = (value ^ byte) * 0x100000001b3 % 2**64
    return f"{value:016x}"


def metadata(path):
    return {name[len("tokenizer."):]: field.contents() for name, field in gguf.GGUFReader(path).fields.items()
            if name.startswith("tokenizer.")}


def sentencepiece_of(meta):
    """SentencePiece over the file's own vocabulary. GGUF writes user-defined tokens with spaces, SentencePiece with marks."""
    model = model_pb2.ModelProto()
    for token, score, kind in zip(meta["ggml.tokens"], meta["ggml.scores"], meta["ggml.token_type"]):
        piece = model.pieces.add()
        piece.piece = token.replace(" ", "\u2581") if kind == gguf.TokenType.USER_DEFINED else token
        piece.score = score
        piece.type = kind  # the numbers are SentencePiece's
    model.pieces[meta["ggml.unknown_token_id"]].type = model_pb2.ModelProto.SentencePiece.UNKNOWN
    model.trainer_spec.model_type = model_pb2.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.unk_id, model.trainer_spec.bos_id = meta["ggml.unknown_token_id"], meta["ggml.bos_token_id"]
    model.trainer_spec.eos_id, model.trainer_spec.pad_id = meta["ggml.eos_token_id"], meta["ggml.padding_token_id"]
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = meta["ggml.add_space_prefix"]
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model.SerializeToString())
    return processor


def compare(name, path, texts, wanted):
    print(f"{name}: {sum(map(len, wanted))} ids of {len(texts)} texts")
    llama = llama_cpp.Llama(model_path=path, vocab_only=True, verbose=False)
    differing = [t for t, ids in zip(texts, wanted) if llama.tokenize(t.encode(), add_bos=False, special=False) != ids]
    print(f"  llama.cpp differs on {len(differing)}", [t[:40] for t in differing[:5]])
    fast = transformers.AutoTokenizer.from_pretrained(os.path.dirname(os.path.abspath(path)),
                                                      gguf_file=os.path.basename(path))
    differing = [t for t, ids in zip(texts, wanted) if fast(t, add_special_tokens=False)["input_ids"] != ids]
    print(f"  transformers differs on {len(differing)}", [t[:40] for t in differing[:5]])


def main():
    parser = argparse.ArgumentParser()
    for name in ("smollm2", "gemma3", "data", "out"):
        parser.add_argument(name)
    args = parser.parse_args()
    texts = corpus(args.data, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
    print(len(texts), "texts,", sum(len(t.encode()) for t in texts), "bytes")
    smollm2 = byte_level.build(metadata(args.smollm2), "smollm", False)
    gemma3 = sentencepiece_of(metadata(args.gemma3))
    ids = {"smollm2": [smollm2.encode(t).ids for t in texts], "gemma3": [gemma3.encode(t) for t in texts]}
    compare("SmolLM2", args.smollm2, texts, ids["smollm2"])
    compare("Gemma 3", args.gemma3, texts, ids["gemma3"])
    with open(os.path.join(args.out, "corpus.json"), "w", encoding="utf-8") as file:
        json.dump(texts, file, ensure_ascii=False, indent=0)
        file.write("\n")
    with open(os.path.join(args.out, "corpus_ids.json"), "w", encoding="utf-8") as file:
        json.dump({name: {"counts": [len(i) for i in lists], "hashes": [fnv(i) for i in lists], "first": lists[0]}
                   for name, lists in ids.items()}, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
