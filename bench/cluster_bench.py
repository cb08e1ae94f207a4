#!/usr/bin/env python3
"""What the cluster adds to the engine: time to first token and between tokens, one request at a time on an idle
cluster, beside the engine alone in one process (engine_bench), request by request in turns, and the parts that the
processes measure.

    bench/cluster_bench.py [--bin build/release/bin] [--requests 100] [--tokens 32] [--drafts 1]
                           [--stages 2] [--ranks 2] [--transport shm|tcp]

The first token counts as there when its event's bytes are read. Prompts are the story of the goldens with another first
word each, so no prefix is cached. A request that came in very few events is left out.
"""
import argparse
import http.client
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/integration"))
from cluster import GOLDEN, MODEL, Cluster, parse_metrics  # noqa: E402

PARTS = ["router_in_seconds", "router_queue_seconds", "prefill_queue_seconds", "prefill_compute_seconds",
         "prefill_batch_seconds", "transfer_grant_wait_seconds", "transfer_posting_seconds", "transfer_chunk_seconds",
         "decode_grant_wait_seconds", "decode_grant_to_handoff_seconds", "decode_handoff_to_first_step_seconds",
         "decode_step_seconds", "decode_agree_seconds", "router_first_token_seconds", "router_out_seconds"]

WARM_UP = 3  # requests to each side before any is counted


def request_once(connection, prompt, tokens):
    """(milliseconds to the first text event, mean milliseconds between tokens after it)"""
    body = json.dumps({"model": "tiny-dsv32", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True,
                       "ignore_eos": True})
    begin = time.perf_counter()
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"status {response.status}: {response.read()[:300]!r}")
    first = last = None
    events = 0
    for line in response:
        if line.startswith(b"data: {"):
            last = time.perf_counter()
            first = first or last
            events += 1
    if events < tokens // 8:
        return None
    return (first - begin) * 1e3, (last - first) * 1e3 / max(1, tokens - 1)


def parts_of(cluster):
    """{part: (sum in seconds, count)} over all processes"""
    with_router = [cluster.metrics(member) for _, member in cluster.members()]
    connection = http.client.HTTPConnection(cluster.host)
    connection.request("GET", "/metrics")
    with_router.append(parse_metrics(connection.getresponse().read().decode()))
    sums = {}
    for metrics in with_router:
        for name, value in metrics.items():
            found = re.fullmatch(r"baleen_(\w+)_(sum|count)(\{.*\})?", name)
            if found and found.group(1) in PARTS:
                both = sums.setdefault(found.group(1), [0, 0])
                both[found.group(2) == "count"] += value
    return sums


class EngineAlone:
    """engine_bench, which answers a prompt's line with the same two figures as request_once"""

    def __init__(self, tokens, drafts):
        self.process = subprocess.Popen([os.environ["BALEEN_BIN"] + "/engine_bench", MODEL, str(tokens), str(drafts)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def request_once(self, prompt):
        self.process.stdin.write(" ".join(map(str, prompt)) + "\n")
        return tuple(float(value) for value in self.process.stdout.readline().split())

    def close(self):
        self.process.stdin.close()
        if self.process.wait():
            raise SystemExit("engine_bench failed")


def show(what, values):
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    print(f"{what:<34} least {ordered[0]:7.2f}   median {statistics.median(ordered):7.2f}   p99 {p99:7.2f} ms")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", default=str(ROOT / "build/release/bin"))
    parser.add_argument("--transport", default="")
    for name, value in {"requests": 100, "tokens": 32, "drafts": 1, "stages": 2, "ranks": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    os.environ["BALEEN_BIN"] = args.bin
    rng = random.Random(7)
    ids = GOLDEN["story"]["prompt_ids"]
    times, own = [], []
    engine = EngineAlone(args.tokens, args.drafts)
    with Cluster(stages=args.stages, ranks=args.ranks, drafts=args.drafts, transport=args.transport) as cluster:
        connection = http.client.HTTPConnection(cluster.host, timeout=60)
        prompts = [[ids[0], word, *ids[2:]] for word in rng.sample(range(300, 3300), args.requests + WARM_UP)]
        for prompt in prompts[:WARM_UP]:
            request_once(connection, prompt, args.tokens)
            engine.request_once(prompt)
        before = parts_of(cluster)
        for prompt in prompts[WARM_UP:]:
            times.append(request_once(connection, prompt, args.tokens))
            own.append(engine.request_once(prompt))
        after = parts_of(cluster)
    engine.close()
    times = [t for t in times if t]
    show("first token, cluster", [t[0] for t in times])
    show("first token, engine alone", [t[0] for t in own])
    print(f"{'first token, difference of medians':<34} "
          f"{statistics.median(t[0] for t in times) - statistics.median(t[0] for t in own):.2f} ms, "
          f"of leasts {min(t[0] for t in times) - min(t[0] for t in own):.2f} ms")
    show("between tokens, cluster", [t[1] for t in times])
    show("between tokens, engine alone", [t[1] for t in own])
    print("parts, mean of each (they overlap):")
    for name in PARTS:
        seconds, count = (a - b for a, b in zip(after.get(name, (0, 0)), before.get(name, (0, 0))))
        if count:
            print(f"    {name:<42} {seconds / count * 1e3:8.3f} ms   x {count / args.requests:6.1f} a request")


if __name__ == "__main__":
    main()
