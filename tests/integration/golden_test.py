"""The same text on every shape of cluster: "must show" 3.

    golden_test.py             a covering subset of shapes
    golden_test.py --matrix    stages {1,2,4} x ranks {1,2,4} x drafts {0,1,3} x chunk {64,8192}
    golden_test.py --recall    all recall prompts for stages {1,2,4} x drafts {0,3}
"""
import itertools
import sys
import unittest

from cluster import EOS, EXPERT_EXCHANGE, GOLDEN, GPUS, RECALL, Cluster
from grpc_client import GrpcClient

# Every pair of values of two dimensions occurs.
SUBSET = [(1, 1, 0, 8192), (1, 4, 1, 64), (2, 2, 3, 64), (2, 1, 1, 8192), (4, 4, 3, 8192), (4, 2, 0, 64)]
SEEDED = dict(temperature=1, seed=20261, top_p=0.95, max_tokens=48)
seeded_texts = {}  # prompt -> text, of the first shape that ran


class Golden(unittest.TestCase):
    def check_shape(self, stages, ranks, drafts, chunk, overlap=None):
        if EXPERT_EXCHANGE == "nccl" and ranks > GPUS:
            self.skipTest("NCCL wants a GPU for each rank")
        with Cluster(stages=stages, ranks=ranks, drafts=drafts, chunk=chunk, overlap=overlap) as cluster:
            grpc = GrpcClient(cluster.grpc)
            for name, golden in GOLDEN.items():
                want_ids = [t for t in golden["greedy_ids"] if t != EOS]
                want = cluster.post("/detokenize", {"tokens": want_ids})
                want_text = want.get("prompt", want.get("text"))
                got = cluster.complete(prompt=golden["prompt_ids"], max_tokens=96, temperature=0,
                                       skip_special_tokens=False)
                self.assertEqual(got, want_text, name)
                ids = grpc.generate_ids(golden["prompt_ids"], max_new_tokens=96, temperature=0)
                self.assertEqual(ids, want_ids, name)
                text = cluster.complete(prompt=golden["prompt_ids"], **SEEDED)
                self.assertEqual(text, seeded_texts.setdefault(name, text), f"{name}, seeded")
            cluster.wait_quiet()

    def test_subset(self):
        for shape in SUBSET:
            with self.subTest(shape=shape):
                self.check_shape(*shape)

    def test_steps_ahead_of_the_host(self):
        self.check_shape(1, 2, 1, 8192, overlap=True)

    def test_three_recall_prompts(self):
        with Cluster(stages=2, ranks=1, drafts=3) as cluster:
            for case in sorted(RECALL, key=lambda c: c["prompt_tokens"])[3:10:3]:
                self.check_recall(cluster, case)

    def check_recall(self, cluster, case):
        answer = cluster.post("/v1/chat/completions", {
            "model": "tiny-dsv32", "messages": case["messages"], "temperature": 0, "max_tokens": 40})
        self.assertIn(str(case["number"]), answer["choices"][0]["message"]["content"])


class Matrix(Golden):
    def test_subset(self):
        for shape in itertools.product((1, 2, 4), (1, 2, 4), (0, 1, 3), (64, 8192)):
            with self.subTest(shape=shape):
                self.check_shape(*shape)
                print("equal", shape, flush=True)


class Recall(Golden):
    def test_subset(self):
        for stages, drafts in itertools.product((1, 2, 4), (0, 3)):
            with Cluster(stages=stages, drafts=drafts) as cluster:
                for case in RECALL:
                    with self.subTest(stages=stages, drafts=drafts, tokens=case["prompt_tokens"]):
                        self.check_recall(cluster, case)
            print("recalled", stages, drafts, flush=True)


if __name__ == "__main__":
    suites = {"--matrix": (Matrix, "test_subset"), "--recall": (Recall, "test_subset")}
    if len(sys.argv) > 1:
        case, test = suites[sys.argv[1]]
        result = unittest.TextTestRunner(verbosity=2).run(case(test))
    else:
        result = unittest.TextTestRunner(verbosity=2).run(unittest.defaultTestLoader.loadTestsFromTestCase(Golden))
    sys.exit(not result.wasSuccessful())
