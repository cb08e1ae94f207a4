"""Leaving in good order (T-H1, T-H2): SIGTERM and `baleenctl drain` let running work finish; nothing fails."""
import os
import re
import signal
import subprocess
import threading
import time
import unittest

from cluster import GOLDEN, Cluster
from raw_http import RawHttp

LONG = dict(prompt=GOLDEN["prose"]["prompt_ids"], max_tokens=400, temperature=0, ignore_eos=True)


def baleenctl(cluster, *args):
    return subprocess.run([f"{os.environ['BALEEN_BIN']}/baleenctl", *args, "--url", cluster.url], capture_output=True,
                          text=True, timeout=60)


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)  # between two looks at another process


class Users:
    """Clients that ask all the time; every one of their requests must be answered, and the same way."""

    def __init__(self, cluster, count=4):
        self.cluster, self.texts, self.errors, self.over = cluster, [], [], False
        self.threads = [threading.Thread(target=self.run) for _ in range(count)]

    def run(self):
        while not self.over:
            try:
                self.texts.append("".join(self.cluster.stream({**LONG, "max_tokens": 60}, timeout=60)))
            except Exception as e:  # whatever it is, the test shows it
                self.errors.append(repr(e))
                return

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.wait(4)
        return self

    def wait(self, count):
        target = len(self.texts) + count
        wait_for(lambda: len(self.texts) >= target or self.errors, 60, "no answers")

    def __exit__(self, *_):
        self.over = True
        for thread in self.threads:
            thread.join(60)


class Drain(unittest.TestCase):
    def states(self, cluster):
        return {group["group"]: group["state"] for group in cluster.get("/workers")["workers"]}

    def check_users(self, users):
        self.assertEqual(users.errors, [])
        self.assertEqual(len(set(users.texts)), 1)

    def test_baleenctl_drains_and_undrains_a_group_under_load(self):
        with Cluster(stages=2, ranks=2, prefill_groups=2, decode_groups=2) as cluster:
            with Users(cluster) as users:
                for group in ("prefill-0", "decode-1"):
                    self.assertEqual(baleenctl(cluster, "drain", group).returncode, 0)
                    wait_for(lambda: self.states(cluster)[group] == "draining", 10, "not draining")
                    members = lambda: [m for g in cluster.get("/workers")["workers"] if g["group"] == group
                                       for m in g["members"]]
                    wait_for(lambda: not any(m["running"] or m["waiting"] for m in members()), 60, "work does not end")
                    users.wait(4)
                    self.assertFalse(any(m["running"] or m["waiting"] for m in members()), "new work while draining")
                    self.assertEqual(baleenctl(cluster, "undrain", group).returncode, 0)
                    wait_for(lambda: self.states(cluster)[group] == "ready", 10, "not ready again")
                users.wait(8)
            self.check_users(users)
            out = baleenctl(cluster, "workers").stdout
            self.assertEqual(len(out.splitlines()), 1 + 8)
            self.assertEqual(len(re.findall(r" ready ", out)), 8)
            self.assertNotEqual(baleenctl(cluster, "drain", "nobody").returncode, 0)
            cluster.wait_quiet()

    def test_scaling_down_fails_no_request(self):
        with Cluster(stages=2, ranks=2, prefill_groups=2, decode_groups=2) as cluster:
            with Users(cluster) as users:
                # One leader, one other member: either takes its whole group along.
                for victim, group in (("decode-1-1", "decode-1"), ("prefill-0-0", "prefill-0")):
                    cluster.signal(victim, signal.SIGTERM)
                    wait_for(lambda: not cluster.alive(f"{group}-0") and not cluster.alive(f"{group}-1"), 70,
                             f"{group} does not end")
                    self.assertNotIn(group, self.states(cluster))
                    users.wait(6)
            self.check_users(users)
            cluster.wait_quiet()
            for name in ("decode-1", "prefill-0"):
                cluster.restart(name)
            wait_for(lambda: list(self.states(cluster).values()) == ["ready"] * 4, 30, "not back")

    def test_the_last_pair_drained_gives_503_with_retry_after(self):
        with Cluster(stages=1, ranks=1) as cluster:
            self.assertEqual(baleenctl(cluster, "drain", "decode-0").returncode, 0)
            wait_for(lambda: self.states(cluster)["decode-0"] == "draining", 10, "not draining")
            with RawHttp(cluster.host, timeout=60) as http:
                http.request("GET", "/readiness")
                self.assertEqual(http.reply()[0], 503)
                http.request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1})
                waiting = threading.Timer(1, lambda: baleenctl(cluster, "undrain", "decode-0"))
                waiting.start()
                status, headers, _ = http.reply()
                # Queued until a pair is there, or told to come back.
                self.assertIn(status, (200, 503))
                if status == 503:
                    self.assertIn("retry-after", headers)
                waiting.join()
            wait_for(lambda: self.states(cluster)["decode-0"] == "ready", 10, "not ready again")
            cluster.wait_quiet()

    def test_a_router_told_to_end_finishes_its_streams(self):
        with Cluster(stages=1, ranks=2) as cluster:
            want = "".join(cluster.stream(LONG))
            with RawHttp(cluster.host) as http, RawHttp(cluster.host) as idle:
                idle.request("GET", "/health")
                idle.reply()
                http.request("POST", "/v1/completions", {**LONG, "stream": True})
                http.header()
                body = http.chunk()
                cluster.signal("router", signal.SIGTERM)
                body += b"".join(iter(http.chunk, b""))
                self.assertTrue(body.endswith(b"data: [DONE]\n\n"))
                self.assertEqual(body.count(b"error"), 0)
                wait_for(lambda: not cluster.alive("router"), 15, "the router does not end")
                self.assertTrue(idle.at_end())
            cluster.restart("router")
            self.assertEqual("".join(cluster.stream(LONG)), want)
            cluster.wait_quiet()


if __name__ == "__main__":
    unittest.main(verbosity=2)
