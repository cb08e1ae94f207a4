"""What goes wrong with a GPU, on one GPU and without MPS (which would let one client's error end all of them).

BALEEN_DEVICE=cuda, BALEEN_BIN as for the others; sticky_error.so (built with the cuda preset) lies in BALEEN_BIN.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest

from cluster import DEVICE, MODEL, SLOWDOWN, Cluster, wait_until
from kill_test import PROMPT, Load
from start_test import free_port

BIN = pathlib.Path(os.environ["BALEEN_BIN"]).resolve()


class Start(unittest.TestCase):
    """A process that cannot have its GPU, or enough of it, ends with status 1 and one line that says why."""

    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="baleen-fault-"))
        self.addCleanup(shutil.rmtree, self.dir)

    def worker(self, **fields):
        fields = {"model": str(MODEL), "group": "g", "index": 0, "size": 1, "grpc_port": 1, "device": "cuda", **fields}
        return "worker { " + " ".join(f"{k}: {json.dumps(v)}" for k, v in fields.items()) + " }"

    def ends(self, config, timeout=60, **environment):
        """The lines of the log of a decode rank that must end by itself, without those of level info."""
        (self.dir / "config.textproto").write_text(config)
        done = subprocess.run([BIN / "baleen_decode", self.dir / "config.textproto"], capture_output=True, text=True,
                              timeout=timeout, env={**os.environ, **environment})
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(done.stdout, "")
        return [line for line in done.stderr.splitlines() if not re.search(r"^[-0-9]+ [:.0-9]+ I ", line)]

    def test_no_gpu_is_visible(self):
        for visible in ("", "-1", "99"):
            with self.subTest(visible=visible):
                lines = self.ends(self.worker(), CUDA_VISIBLE_DEVICES=visible)
                self.assertEqual(len(lines), 1, lines)
                self.assertIn(f'CUDA_VISIBLE_DEVICES="{visible}": no GPU is visible', lines[0])

    def test_the_same_gpu_twice(self):
        """Drivers differ in what they make of it, one GPU or none: the process serves, or says why not."""
        ready, log = self.dir / "ready", self.dir / "log"
        config = self.worker(ready_file=str(ready), grpc_port=free_port(), pages=300, memory_fraction=0.2)
        (self.dir / "config.textproto").write_text(config)
        with log.open("w") as out:
            process = subprocess.Popen([BIN / "baleen_decode", self.dir / "config.textproto"], stdout=out, stderr=out,
                                       env={**os.environ, "CUDA_VISIBLE_DEVICES": "0,0"})
        try:
            deadline = time.monotonic() + 60
            while process.poll() is None and not ready.exists():
                self.assertLess(time.monotonic(), deadline, log.read_text())
                time.sleep(0.05)  # between two looks at the process
            if not ready.exists():
                self.assertEqual(process.returncode, 1, log.read_text())
                self.assertIn('CUDA_VISIBLE_DEVICES="0,0": ', log.read_text())
        finally:
            process.kill()
            process.wait()

    def test_pages_that_do_not_fit(self):
        lines = self.ends(self.worker(pages=50_000_000))
        self.assertEqual(len(lines), 1, lines)
        self.assertRegex(lines[0], r"page pool: 50000000 pages, as configured, need \d+ bytes, \d+ are available; "
                                   r"memory of cuda: \d+ bytes, \d+ free; ")


class StickyError(unittest.TestCase):
    """An illegal access in one process of a cluster under load, at a moment of the test's choice."""

    def setUp(self):
        """Binaries of which the workers take the library along."""
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="baleen-fault-"))
        self.addCleanup(shutil.rmtree, self.dir)
        (self.dir / "baleen_router").symlink_to(BIN / "baleen_router")
        for binary in ("baleen_prefill", "baleen_decode"):
            (self.dir / binary).write_text(f'#!/bin/sh\nexec env LD_PRELOAD="{BIN}/sticky_error.so" '
                                           f'STICKY_ERROR_WHEN="$1.break" "{BIN}/{binary}" "$1"\n')
            (self.dir / binary).chmod(0o755)

    def check(self, victim, group, **shape):
        with Cluster(stages=1, drafts=1, binaries=self.dir, **shape) as cluster:
            with Load(cluster, clients=4) as load:
                load.wait_for_answers(4)
                broken = time.monotonic() - load.start
                when = cluster.dir / f"{victim}.textproto.break"
                when.touch()
                wait_until(10 * SLOWDOWN, lambda: not cluster.alive(victim), f"{victim} lives on")
                log = (cluster.dir / f"{victim}.log").read_text()
                self.assertEqual(len(re.findall(r"CUDA error 700 .*illegal memory access", log)), 1, log[-2000:])
                load.wait_for_answers(8)  # the other group carries on
                when.unlink()
                cluster.restart(group)
                load.wait_for_answers(4)
            right = {}
            for begun, took, kind, text, error in load.outcomes:
                if text is not None:
                    self.assertEqual(right.setdefault(kind, text), text, "a wrong answer with status 200")
                else:
                    self.assertLess(begun + took - max(begun, broken), 15 * SLOWDOWN, f"error came late: {error}")
            self.assertTrue(cluster.complete(prompt=PROMPT, max_tokens=5))
            cluster.wait_quiet()

    def test_a_decode_rank(self):
        self.check("decode-0-1", "decode-0", ranks=2, decode_groups=2)

    def test_a_prefill_stage(self):
        self.check("prefill-0-0", "prefill-0", ranks=1, prefill_groups=2)


if __name__ == "__main__":
    assert DEVICE == "cuda", "BALEEN_DEVICE=cuda is wanted"
    unittest.main(verbosity=2)
