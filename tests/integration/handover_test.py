"""What decode continues with is what prefill computed: "must show" 5, T-G4, T-A4.

Every hand-over moves each page in one piece a stage (counted on both ends), over shared memory and over TCP, and the
answer equals that of one process without a cluster. That the bytes of the pages are equal is the business of
tests/kv_transfer and tests/prefill_worker, which hold both pools.

    handover_test.py           stages 1, 2, 4; the lengths below; shm and tcp
    handover_test.py --sweep   every length around the first three page edges, by chunk sizes
"""
import json
import os
import random
import subprocess
import sys
import unittest

from cluster import DEVICE, MODEL, Cluster, total

PAGE = 64
LENGTHS = (1, 63, 64, 65, 127, 128, 129, 978, 4000)
NEW_TOKENS = 12
reference_ids = {}  # length -> ids, from one process
first_texts = {}  # (chunk, length) -> text, on a GPU


def prompt_of(length):
    rnd = random.Random(length)
    return [0] + [rnd.randrange(20, 3000) for _ in range(length - 1)]


def reference(length):
    if length not in reference_ids:
        out = subprocess.run(
            [f"{os.environ['BALEEN_BIN']}/baleen_generate", "--model", str(MODEL), "--prompt-ids",
             ",".join(map(str, prompt_of(length))), "--max-tokens", str(NEW_TOKENS), "--ignore-eos", "--drafts", "0",
             "--json"], check=True, capture_output=True, text=True, timeout=300).stdout
        reference_ids[length] = json.loads(out)["ids"]
    return reference_ids[length]


def expected(cluster, length, text, chunk=8192):
    """What one process alone says. A GPU's last bits depend on the largest step of a process: there it is what the first
    cluster with this chunk said, which was `text` if this is the first."""
    if DEVICE != "cpu":
        return first_texts.setdefault((chunk, length), text)
    return cluster.post("/detokenize", {"tokens": reference(length), "skip_special_tokens": True})["text"]


class HandOverChecks:
    page_bytes = {}

    def moved(self, cluster):
        """(pieces by stage, bytes by stage, bytes that arrived), since the start."""
        pieces, sent, received = [], [], 0
        for group, member in cluster.members():
            metrics = cluster.metrics(member)
            if group["role"] == "prefill":
                pieces.append(total(metrics, "baleen_transfer_sent_pieces_total"))
                sent.append(total(metrics, "baleen_transfer_sent_bytes_total"))
            else:
                received += total(metrics, "baleen_transfer_received_bytes_total")
        return pieces, sent, received

    def check(self, stages, transport, lengths=LENGTHS, **options):
        with Cluster(stages=stages, ranks=2, transport=transport, **options) as cluster:
            names = {name for _, member in cluster.members() for name in member["transports"].split(",") if name}
            if transport:
                # Shared memory has several names (sysv, posix, with cma).
                self.assertEqual({"tcp" if "tcp" in name else "shm" for name in names}, {transport})
            for length in lengths:
                with self.subTest(stages=stages, transport=transport, length=length, **options):
                    self.check_one(cluster, length, **options)
            cluster.wait_quiet()

    def check_one(self, cluster, length, **options):
        cluster.post("/flush_cache", {})
        pieces, sent, received = self.moved(cluster)
        text = cluster.complete(prompt=prompt_of(length), max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
        self.assertEqual(text, expected(cluster, length, text, **options))
        after_pieces, after_sent, after_received = self.moved(cluster)
        pages = -(-length // PAGE)
        self.assertEqual([b - a for a, b in zip(pieces, after_pieces)], [pages] * len(pieces))
        by_stage = [b - a for a, b in zip(sent, after_sent)]
        self.assertTrue(all(n > 0 and n % pages == 0 for n in by_stage), by_stage)
        self.assertEqual(sum(by_stage), after_received - received)
        # The same bytes a page, however many stages share it.
        self.assertEqual(self.page_bytes.setdefault("all", sum(by_stage) / pages), sum(by_stage) / pages)


class HandOver(HandOverChecks, unittest.TestCase):
    def test_one_stage(self):
        self.check(1, "tcp")

    def test_two_stages(self):
        self.check(2, "shm")

    def test_four_stages(self):
        self.check(4, "tcp")
        self.check(4, "shm", lengths=(65, 978))

    def test_chunks_that_end_within_a_page(self):  # T-G4
        self.check(2, "", lengths=(1, 64, 65, 129), chunk=100)

    def test_a_prompt_found_in_the_prefix_cache_moves_and_answers_the_same(self):  # T-A4
        with Cluster(stages=2, ranks=1) as cluster:
            for shared in (63, 64, 65, 200):
                for length in (65, 129, 300):
                    prompt = prompt_of(length)
                    ask = dict(prompt=prompt, max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
                    want = cluster.complete(**ask)
                    self.assertEqual(want, expected(cluster, length, want))
                    cluster.post("/flush_cache", {})
                    if shared < length:  # fills the cache with the first `shared` tokens
                        cluster.complete(prompt=prompt[:shared], max_tokens=1)
                    with self.subTest(shared=shared, length=length):
                        self.assertEqual(cluster.complete(**ask), want)
                    cluster.post("/flush_cache", {})
            cluster.wait_quiet()


class Sweep(HandOverChecks, unittest.TestCase):
    def test_sweep(self):
        for chunk in (64, 65, 100, 127):
            self.check(2, "", lengths=range(1, 3 * PAGE + 2), chunk=chunk)


if __name__ == "__main__":
    if sys.argv[1:] == ["--sweep"]:
        result = unittest.TextTestRunner(verbosity=2).run(Sweep("test_sweep"))
        sys.exit(not result.wasSuccessful())
    unittest.main(argv=[sys.argv[0], "HandOver"], verbosity=2)
