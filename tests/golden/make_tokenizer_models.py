#!/usr/bin/env python3
"""Writes tokenizer.model and tekken.json files and what tests/text/tokenizer_models_test.cc compares with.

    python3 tests/golden/make_tokenizer_models.py tests/golden/tokenizer

Needs sentencepiece (with protobuf), tokenizers and mistral_common. Reads what make_tiny_tokenizers.py wrote. Writes
  OUT/tiny/NAME.model       the vocabularies of OUT/tiny/NAME.sp.json as SentencePiece's own protobuf; that of sp-bpe once
                            more with remove_extra_whitespaces
  OUT/tiny/tekken.json      the bytes and ranks of OUT/tiny/llama3.json behind 24 special tokens, under Mistral's pattern
  OUT/tiny/models.json      {"ids": {NAME: [number of ids, hash] of each text of expected.json}}, by SentencePiece and by
                            Mistral's Tekkenizer
"""

import base64
import json
import struct
import sys

import sentencepiece
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from sentencepiece import sentencepiece_model_pb2 as model_pb2
from tokenizers import pre_tokenizers


PATTERN = ("[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
           "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
           "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")


def fnv(ids):
    value = 0xcbf29ce484222325
    for byte in struct.pack(f"<{len(ids)}i", *ids):
        value = (value ^ byte) * 0x100000001b3 % 2**64
    return f"{value:016x}"


def sentencepiece_model(vocabulary, collapse):
    model = model_pb2.ModelProto()
    for piece, score, kind in zip(vocabulary["pieces"], vocabulary["scores"], vocabulary["types"]):
        model.pieces.add(piece=piece, score=score, type=kind)
    bpe = vocabulary["type"] == "llama"
    model.trainer_spec.model_type = model_pb2.TrainerSpec.BPE if bpe else model_pb2.TrainerSpec.UNIGRAM
    model.trainer_spec.byte_fallback = 6 in vocabulary["types"]
    model.trainer_spec.vocab_size = len(vocabulary["pieces"])
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = vocabulary["dummy_prefix"]
    model.normalizer_spec.remove_extra_whitespaces = collapse
    return model.SerializeToString()


def byte_of_character():
    """The bytes behind the characters that byte-level vocabularies are written in."""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    others = [b for b in range(256) if b not in printable]
    out = {chr(b): b for b in printable}
    out.update({chr(256 + i): b for i, b in enumerate(others)})
    assert set(out) == set(pre_tokenizers.ByteLevel.alphabet())
    return out


def tekken(source):
    byte_of = byte_of_character()
    vocab = json.load(source)["model"]["vocab"]
    tokens = [bytes(byte_of[c] for c in token) for token, _ in sorted(vocab.items(), key=lambda item: item[1])]
    tokens = [bytes([b]) for b in range(256)] + [t for t in tokens if len(t) > 1]
    entries = [{"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
               for rank, token in enumerate(tokens)]
    specials = 24
    return {"config": {"pattern": PATTERN, "num_vocab_tokens": len(tokens), "default_num_special_tokens": specials,
                       "default_vocab_size": len(tokens) + specials - 40, "version": "v3"}, "vocab": entries}


def main():
    tiny = f"{sys.argv[1]}/tiny"
    with open(f"{tiny}/expected.json", encoding="utf-8") as file:
        expected = json.load(file)
    texts, ids = expected["texts"], {}
    for name in ("sp-bpe", "sp-bpe-plain", "sp-unigram", "sp-unigram-bytes", "sp-bpe-collapse"):
        collapse = name.endswith("-collapse")
        with open(f"{tiny}/{name.removesuffix('-collapse')}.sp.json", encoding="utf-8") as file:
            blob = sentencepiece_model(json.load(file), collapse)
        with open(f"{tiny}/{name}.model", "wb") as file:
            file.write(blob)
        processor = sentencepiece.SentencePieceProcessor(model_proto=blob)
        ids[name] = [[len(i), fnv(i)] for i in map(processor.encode, texts)]
        assert collapse or ids[name] == expected["ids"][name], name
    with open(f"{tiny}/llama3.json", encoding="utf-8") as source, open(f"{tiny}/tekken.json", "w", encoding="utf-8") as file:
        json.dump(tekken(source), file, separators=(",", ":"))
    tokenizer = Tekkenizer.from_file(f"{tiny}/tekken.json")
    ids["tekken"] = [[len(i), fnv(i)] for i in (tokenizer.encode(text, bos=False, eos=False) for text in texts)]
    with open(f"{tiny}/models.json", "w", encoding="utf-8") as file:
        json.dump({"ids": ids}, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
