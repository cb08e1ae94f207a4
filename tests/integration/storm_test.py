"""64 streams at once, a third of them cancelled: "must show" 6. Every finished one equals its solo run, and afterwards
queues, pages, memory and descriptors are back.

    storm_test.py           prompts of 10 to 1,000 tokens
    storm_test.py --full    up to 6,000
"""
import random
import sys
import unittest
from concurrent.futures import ThreadPoolExecutor

from cluster import ROOT, Cluster

STREAMS = 64
ROUNDS = 3
LENGTHS = [3, 30, 150, 500, 1500] if "--full" in sys.argv else [3, 30, 100, 250]  # words
WORDS = (ROOT / "docs/model.md").read_text().split()


def request(i):
    rnd = random.Random(i)
    first = rnd.randrange(len(WORDS) - 3000)
    # About 3 tokens a word of this text: prompts of 10 to 6,000 tokens.
    prompt = " ".join(WORDS[first:first + rnd.choice(LENGTHS)])[:11000]
    return dict(prompt=prompt, max_tokens=rnd.randint(1, 40), temperature=1, seed=i, ignore_eos=True)


class Storm(unittest.TestCase):
    def test_three_rounds(self):
        with Cluster(stages=2, ranks=2, drafts=1, chunk=1024) as cluster:
            solo, memory, descriptors = {}, [], []
            for round in range(ROUNDS):
                rnd = random.Random(round)
                cancel = {i: rnd.randint(0, 12) for i in range(STREAMS) if i % 3 == round % 3}
                with ThreadPoolExecutor(STREAMS) as pool:
                    texts = list(pool.map(lambda i: cluster.stream(request(i), stop_after=cancel.get(i), timeout=400),
                                          range(STREAMS)))
                cluster.wait_quiet()
                for i in range(STREAMS):
                    if texts[i] is None:
                        continue
                    if i not in solo:
                        solo[i] = "".join(cluster.stream(request(i)))
                    self.assertEqual("".join(texts[i]), solo[i], f"stream {i} of round {round}")
                cluster.wait_quiet()
                memory.append({name: cluster.rss_kib(name) for name in cluster.processes()})
                descriptors.append({name: cluster.descriptors(name) for name in cluster.processes()})
            for name in cluster.processes():
                with self.subTest(process=name):
                    # The first round touches pages and buffers for the first time.
                    self.assertLess(memory[2][name], memory[1][name] * 1.10 + 8192, f"KiB by round: {memory}")
                    self.assertLessEqual(descriptors[2][name], descriptors[1][name] + 8, f"by round: {descriptors}")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
