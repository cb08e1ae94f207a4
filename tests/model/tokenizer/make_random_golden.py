#!/usr/bin/env python3
"""Writes random texts with the ids the reference library gives them, one JSON object a line.

    pip install tokenizers==0.23.3
    make_random_golden.py TOKENIZER_JSON CASES SEED > random_golden.jsonl

The texts mix scripts, digits, white space of all kinds, punctuation, controls, combining marks,
emoji, and added tokens whole, cut short and side by side. Characters assigned after Unicode 14 are
left out: which class they are in depends on the regex library's version.
"""
import json
import random
import sys
import unicodedata

from tokenizers import Tokenizer

RANGES = [
    (0x20, 0x7E), (0x20, 0x7E), (0x00, 0x1F), (0x7F, 0xFF), (0x100, 0x24F), (0x300, 0x36F),
    (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F),
    (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1680, 0x169C), (0x1800, 0x180E), (0x1E00, 0x1EFF),
    (0x2000, 0x206F), (0x2070, 0x209F), (0x20A0, 0x20C0), (0x2100, 0x218B), (0x2190, 0x22FF),
    (0x2460, 0x24FF), (0x2500, 0x25FF), (0x3000, 0x303F), (0x3040, 0x30FF), (0x3130, 0x318E),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xE010), (0xF900, 0xFAFF), (0xFE00, 0xFE0F),
    (0xFF00, 0xFFEF), (0xFFF0, 0xFFFF), (0x10000, 0x1007F), (0x10330, 0x1034F),
    (0x1D400, 0x1D7FF), (0x1F300, 0x1F64F), (0x20000, 0x2000F), (0xE0001, 0xE007F),
    (0x10FFF0, 0x10FFFF),
]
SPACES = [" ", " ", " ", "  ", "\t", "\n", "\r", "\r\n", "\n\n", "\u00a0", "\u2003", "\u3000",
          "\u2028", "\u0085", "\u000b", "\u180e", "\u200b", "\ufeff", "\u1680"]
WORDS = ["the", "The", "house", "don't", "WE'LL", "x1", "foo.bar(baz)", "a_b", "12345", "3.14",
         "C++", "</", ">", "={}", "https://e.org/?q=1&r=2", "naïve", "año", "Привет", "мир",
         "中文", "日本語", "カタカナ", "العربية", "हिन्दी", "한국어", "e\u0301", "👩‍👩‍👧", "🇫🇷", "½", "Ⅷ", "٣٤"]


def random_char(rng):
    while True:
        c = chr(rng.randint(*rng.choice(RANGES)))
        if unicodedata.category(c) not in ("Cs", "Cn"):
            return c


def random_part(rng, added):
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(WORDS)
    if kind < 0.50:
        return rng.choice(SPACES) * rng.choice([1, 1, 1, 2, 5])
    if kind < 0.58:
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 9)))
    if kind < 0.66:
        token = rng.choice(added)
        return token if rng.random() < 0.6 else token[: rng.randint(1, len(token))]
    if kind < 0.72:
        return rng.choice("aeiou lmn.!-\n中é") * rng.randint(1, 40)
    if kind < 0.86:
        low, high = rng.choice(RANGES)
        run = (chr(rng.randint(low, high)) for _ in range(rng.randint(1, 8)))
        return "".join(c for c in run if unicodedata.category(c) not in ("Cs", "Cn"))
    return "".join(random_char(rng) for _ in range(rng.randint(1, 6)))


def main():
    path, cases, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    tokenizer = Tokenizer.from_file(path)
    with open(path, encoding="utf-8") as f:
        added = [t["content"] for t in json.load(f)["added_tokens"]]
    rng = random.Random(seed)
    for _ in range(cases):
        text = "".join(random_part(rng, added) for _ in range(rng.randint(1, 12)))
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        print(json.dumps({"text": text, "ids": ids}, separators=(",", ":")))


if __name__ == "__main__":
    main()
