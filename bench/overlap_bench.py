#!/usr/bin/env python3
"""What it is worth to launch a decode step before the results of the one before are looked at: tokens a second of whole
clusters with and without it, in turns.

    bench/overlap_bench.py [--bin build/cuda/bin] [--ranks 2] [--drafts 1] [--tokens 400] [--rounds 2]

BALEEN_DEVICE=cuda for a GPU (then MPS should run). Answers are not streamed, so that the client costs nothing.
"""
import argparse
import concurrent.futures
import os
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/integration"))
STREAMS = [1, 8, 32]


def tokens_per_second(cluster, prompt, streams, tokens):
    def request(_):
        return cluster.post("/v1/completions", {"model": "tiny-dsv32", "prompt": prompt, "max_tokens": tokens,
                                                "temperature": 0, "ignore_eos": True})["usage"]["completion_tokens"]

    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
        begin = time.perf_counter()
        made = sum(pool.map(request, range(streams)))
        return made / (time.perf_counter() - begin)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", default=str(ROOT / "build/cuda/bin"))
    for name, value in {"ranks": 2, "drafts": 1, "tokens": 400, "rounds": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    os.environ["BALEEN_BIN"] = args.bin
    from cluster import GOLDEN, Cluster  # which asks for BALEEN_BIN

    prompt = GOLDEN["story"]["prompt_ids"]
    rates = {}
    for overlap in [False, True] * args.rounds:
        with Cluster(stages=1, ranks=args.ranks, drafts=args.drafts, overlap=overlap) as cluster:
            tokens_per_second(cluster, prompt, 4, 50)  # warm-up
            for streams in STREAMS:
                for _ in range(3):
                    rates.setdefault((streams, overlap), []).append(
                        tokens_per_second(cluster, prompt, streams, args.tokens))
    print("| streams | one by one, tokens/s | ahead, tokens/s | ratio |\n| --- | --- | --- | --- |")
    for streams in STREAMS:
        off, on = (statistics.median(rates[streams, overlap]) for overlap in (False, True))
        print(f"| {streams} | {off:.0f} | {on:.0f} | {on / off:.2f} |")


if __name__ == "__main__":
    main()
