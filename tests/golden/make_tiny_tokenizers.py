#!/usr/bin/env python3
"""Trains tiny tokenizers of the families' kinds and writes what tests/text/tokenizer_json_test.cc compares with.

    python3 tests/golden/make_tiny_tokenizers.py tests/golden/tokenizer

Needs tokenizers and sentencepiece (with protobuf). Reads OUT/corpus.json. Writes
  OUT/tiny/NAME.json   tokenizer.json files of Hugging Face's library
  OUT/tiny/NAME.sp.json   vocabularies that SentencePiece trained: {"type", "pieces", "scores", "types", "dummy_prefix"}
  OUT/tiny/expected.json  {"texts", "ids": {NAME: [number of ids, hash]}, "decoded": {NAME: {index: text, where it differs}}}
"""

import io
import json
import os
import random
import struct
import sys

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb2
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from make_corpus_reference import fnv
import make_tokenizer_reference as byte_level_texts
from make_tokenizer_reference import LLAMA3, QWEN2

MARK = "\u2581"
CONTROL = ["<|begin|>", "<|im_start|>", "<|im_end|>"]


def trained_bpe(corpus, pre, normalizer=None, vocab=700):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre
    if normalizer:
        core.normalizer = normalizer
    byte_level = "ByteLevel" in str(pre)
    core.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=vocab, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_level else []))
    return json.loads(core.to_str())["model"]


def byte_level(corpus, pre, normalizer=None, ignore_merges=False, bos=False):
    model = trained_bpe(corpus, pre, normalizer)
    core = Tokenizer(models.BPE(model["vocab"], [tuple(m) for m in model["merges"]], ignore_merges=ignore_merges))
    core.pre_tokenizer, core.decoder = pre, decoders.ByteLevel()
    if normalizer:
        core.normalizer = normalizer
    core.add_special_tokens(CONTROL)
    core.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("WORD", single_word=True), AddedToken("<l>", lstrip=True),
                     AddedToken("<r>", rstrip=True, normalized=False)])
    if bos:
        core.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
            single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B", special_tokens=[("<|begin|>", core.token_to_id("<|begin|>"))])])
    return core


def characters(corpus, pre, normalizer, decoder, train_pre):
    """BPE of characters with a fallback to bytes: the byte tokens come before what training found."""
    model = trained_bpe(corpus, train_pre, vocab=900)
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokens += [t for t, _ in sorted(model["vocab"].items(), key=lambda item: item[1]) if t not in tokens]
    core = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m) for m in model["merges"]], unk_token="<unk>",
                                fuse_unk=True, byte_fallback=True))
    if pre:
        core.pre_tokenizer = pre
    if normalizer:
        core.normalizer = normalizer
    core.decoder = decoder
    core.add_special_tokens(["<unk>", "<s>", "</s>"])
    core.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("a b", normalized=True)])
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A $B", special_tokens=[("<s>", 1), ("</s>", 2)])
    return core


def unigram(corpus, byte_fallback):
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.train_from_iterator(corpus, trainers.UnigramTrainer(vocab_size=800, show_progress=False, unk_token="<unk>",
                                                             special_tokens=["<unk>", "<s>", "</s>"]))
    if not byte_fallback:
        return core
    model = json.loads(core.to_str())["model"]
    vocab = [tuple(entry) for entry in model["vocab"]] + [(f"<0x{b:02X}>", 0.0) for b in range(256)]
    again = Tokenizer(models.Unigram(vocab, unk_id=model["unk_id"], byte_fallback=True))
    again.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    again.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    again.add_special_tokens(["<unk>", "<s>", "</s>"])
    return again


def trained_sentencepiece(corpus, kind, **options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in corpus for line in text.split("\n") if line.strip()]), model_writer=out,
        model_type=kind, vocab_size=900, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        character_coverage=0.98, num_threads=1, **options)
    return out.getvalue()


def main():
    out = sys.argv[1]
    os.makedirs(f"{out}/tiny", exist_ok=True)
    with open(f"{out}/corpus.json", encoding="utf-8") as file:
        corpus = json.load(file)
    everything, corpus = corpus, [text for text in corpus if text.isascii()] + byte_level_texts.LANGUAGES[:6]
    seeded = random.Random(99)
    bits = ["<|im_end|>"[:5], "<tool>", "WORD", "<l>", "<r>", " ", "  ", "\n\n", "a b", "xWORD", "WORDx", "\u2581", "é", "e\u0301", "ﬁ", "①", "'s", "12345", "the", "\t",
            "\u200b", "漢字", "😀", "\u3000", "\u00a0", "Ａ", "\u0001", "ſ", "İ", "\U0002a6d6", "中文"]  # no byte tokens as text: libraries differ
    texts = [text[:seeded.randrange(20, 260)] for text in seeded.sample(everything, 260)]
    texts += ["".join(seeded.choice(bits) for _ in range(seeded.randrange(1, 14))) for _ in range(240)] + ["", " ", "  a", "a  ", "\n"]
    split = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
    bytes_after = lambda *steps: pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    llama_decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    gemma_decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()])
    train_pre = pre_tokenizers.Metaspace()
    all_kinds = {
        "llama3": byte_level(corpus, bytes_after(split(LLAMA3)), ignore_merges=True, bos=True),
        "qwen2": byte_level(corpus, bytes_after(split(QWEN2)), normalizers.NFC()),
        "gpt2": byte_level(corpus, pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "digits": byte_level(corpus, pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])),
        "llama2": characters(corpus, None, normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)]), llama_decoder, train_pre),
        "llama2-metaspace": characters(corpus, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), None, llama_decoder, train_pre),
        "gemma": characters(corpus, pre_tokenizers.Split(" ", "merged_with_previous"), normalizers.Replace(" ", MARK), gemma_decoder, train_pre),
        "unigram": unigram(corpus, False), "unigram-bytes": unigram(corpus, True),
    }
    expected = {"texts": texts, "ids": {}, "decoded": {}}
    for name, core in all_kinds.items():
        core.save(f"{out}/tiny/{name}.json", pretty=False)
        ids = [core.encode(text, add_special_tokens=False).ids for text in texts]
        expected["ids"][name] = [[len(i), fnv(i)] for i in ids]
        decoded = [core.decode(i, skip_special_tokens=False) for i in ids]
        expected["decoded"][name] = {str(k): d for k, (d, t) in enumerate(zip(decoded, texts)) if d != t}
    for name, kind, options in (("sp-bpe", "bpe", {"byte_fallback": True}),
                                ("sp-bpe-plain", "bpe", {"byte_fallback": True, "add_dummy_prefix": False, "user_defined_symbols": ["<tool>", "\n\n", "\u2581\u2581"]}),
                                ("sp-unigram", "unigram", {}), ("sp-unigram-bytes", "unigram", {"byte_fallback": True})):
        blob = trained_sentencepiece(corpus, kind, **options)
        model = model_pb2.ModelProto.FromString(blob)
        processor = sentencepiece.SentencePieceProcessor(model_proto=blob)
        with open(f"{out}/tiny/{name}.sp.json", "w", encoding="utf-8") as file:
            json.dump({"type": "llama" if kind == "bpe" else "t5", "dummy_prefix": model.normalizer_spec.add_dummy_prefix,
                       "pieces": [p.piece for p in model.pieces], "scores": [p.score for p in model.pieces],
                       "types": [p.type for p in model.pieces]}, file, ensure_ascii=False, separators=(",", ":"))
        expected["ids"][name] = [[len(i), fnv(i)] for i in map(processor.encode, texts)]
    with open(f"{out}/tiny/expected.json", "w", encoding="utf-8") as file:
        json.dump(expected, file, ensure_ascii=True, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
