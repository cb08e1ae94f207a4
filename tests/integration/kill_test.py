"""kill -9 under load: "must show" 7, T-B1, T-B2. Clients of lost work get an error within seconds or a right answer; a
restarted group serves again; nothing hangs."""
import ctypes
import os
import pathlib
import signal
import threading
import time
import unittest

from cluster import SLOWDOWN, Cluster, StreamError, wait_until

PROMPT = "It was a cold morning, and the old house stood "


class Load:
    """Clients that ask in a loop. outcomes: (seconds since start, seconds it took, text or None, error)."""

    def __init__(self, cluster, clients=8):
        self.cluster, self.outcomes, self.over = cluster, [], False
        self.begun = [0.0] * clients  # when each client's present request began
        self.start = time.monotonic()
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(clients)]
        for thread in self.threads:
            thread.start()

    def run(self, i):
        while not self.over:
            begun = self.begun[i] = time.monotonic()
            body = dict(prompt=PROMPT * (1 + 20 * (i % 3)), max_tokens=10 + 40 * (i % 2), temperature=0, ignore_eos=True)
            try:
                text, error = "".join(self.cluster.stream(body, timeout=30)), None
            except (StreamError, OSError) as e:
                text, error = None, str(e)
            self.outcomes.append((begun - self.start, time.monotonic() - begun, (i % 3, i % 2), text, error))
            if error:
                time.sleep(0.05)  # a client's pause before it asks again

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over = True
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"

    def wait_for_answers(self, count):
        target = sum(o[3] is not None for o in self.outcomes) + count
        deadline = time.monotonic() + 60
        while sum(o[3] is not None for o in self.outcomes) < target:
            assert time.monotonic() < deadline, f"no answers: {self.outcomes[-3:]}"
            time.sleep(0.02)


class Kill(unittest.TestCase):
    def check(self, victim, restart, groups):
        with Cluster(stages=2, ranks=2, drafts=1, prefill_groups=groups, decode_groups=groups) as cluster:
            with Load(cluster) as load:
                load.wait_for_answers(8)
                killed = time.monotonic() - load.start
                cluster.signal(victim)
                if groups > 1:
                    load.wait_for_answers(8)  # the other groups carry on
                cluster.restart(restart)
                load.wait_for_answers(8)
            right = {}
            for begun, took, kind, text, error in load.outcomes:
                if text is not None:
                    self.assertEqual(right.setdefault(kind, text), text, "a wrong answer with status 200")
                elif begun < killed:
                    self.assertLess(begun + took - killed, 5, f"error came late: {error}")
                else:
                    self.assertLess(took, 5, f"error came late: {error}")
            self.assertEqual(len(right), 6)
            cluster.wait_quiet()
            return load.outcomes

    def test_a_prefill_stage(self):
        self.check("prefill-0-1", "prefill-0", groups=2)

    def test_a_decode_rank(self):
        self.check("decode-0-1", "decode-0", groups=2)

    def test_the_only_decode_group(self):
        self.check("decode-0-0", "decode-0", groups=1)

    def test_the_router(self):
        self.check("router", "router", groups=1)


class Stop(unittest.TestCase):
    """SIGSTOP: a process that is there and does nothing."""

    def test_a_pause_shorter_than_the_lease_fails_nobody(self):  # T-H8
        with Cluster(stages=2, ranks=2, drafts=1) as cluster:
            with Load(cluster, clients=4) as load:
                for victim in ("decode-0-1", "prefill-0-1", "prefill-0-0"):
                    load.wait_for_answers(4)
                    cluster.signal(victim, signal.SIGSTOP)
                    time.sleep(2)  # the length of the pause is the point
                    cluster.signal(victim, signal.SIGCONT)
                load.wait_for_answers(8)
            self.assertEqual([o[4] for o in load.outcomes if o[4]], [])
            cluster.wait_quiet()

    def test_a_pause_longer_than_the_lease_loses_the_group(self):  # T-A16, T-B15
        with Cluster(stages=2, ranks=2, drafts=1, prefill_groups=2, decode_groups=2) as cluster:
            with Load(cluster) as load:
                for victim, group in (("prefill-0-1", "prefill-0"), ("decode-1-0", "decode-1"),
                                      ("decode-0-1", "decode-0")):
                    load.wait_for_answers(8)
                    stopped = time.monotonic()
                    cluster.signal(victim, signal.SIGSTOP)
                    wait_until(20, lambda: self.state(cluster, group) not in ("ready", "suspect"), f"{group} is trusted")
                    load.wait_for_answers(8)
                    # What ran there ends, though the stopped process closes nothing.
                    wait_until(15, lambda: min(load.begun) > stopped, f"a request hangs on {victim}")
                    cluster.signal(victim, signal.SIGCONT)
                    cluster.restart(group)
                    wait_until(20, lambda: self.state(cluster, group) == "ready", f"{group} is not back")
                load.wait_for_answers(8)
            right = {}
            for begun, took, kind, text, error in load.outcomes:
                self.assertLess(took, 15 * SLOWDOWN, f"{error}")
                if text is not None:
                    self.assertEqual(right.setdefault(kind, text), text, "a wrong answer with status 200")
            cluster.wait_quiet()

    def state(self, cluster, group):
        return next((g["state"] for g in cluster.get("/workers")["workers"] if g["group"] == group), None)


class Hang(unittest.TestCase):
    """A step that never returns, in a process that lives: only its step thread is stopped, by ptrace."""
    SEIZE, INTERRUPT = 0x4206, 0x4207
    TIMEOUT_MS = int(1500 * SLOWDOWN)

    def hang_step(self, cluster, name):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        libc.ptrace.restype = ctypes.c_long
        tasks = pathlib.Path(f"/proc/{cluster.pid(name)}/task")
        thread = next(int(t.name) for t in tasks.iterdir() if (t / "comm").read_text() == "step\n")
        for request in (self.SEIZE, self.INTERRUPT):
            self.assertEqual(libc.ptrace(request, thread, None, None), 0, os.strerror(ctypes.get_errno()))
        os.waitpid(thread, 0x40000000)  # __WALL: it has stopped
        # The kernel keeps a traced thread that has ended until it is waited for.
        threading.Thread(target=os.waitpid, args=(thread, 0x40000000), daemon=True).start()

    def check(self, group, victim, leader, cause, idle=False, **shape):
        with Cluster(**shape, step_timeout_ms=self.TIMEOUT_MS) as cluster:
            if idle:
                self.hang_step(cluster, victim)
            with Load(cluster, clients=2) as load:
                if not idle:
                    load.wait_for_answers(2)
                hung = time.monotonic()
                if not idle:
                    self.hang_step(cluster, victim)
                wait_until(15 * SLOWDOWN, lambda: not cluster.alive(leader), f"{leader} lives on")
                wait_until(15, lambda: min(load.begun) > hung, "a request hangs")
                log = "".join((cluster.dir / f"{name}.log").read_text() for name in (leader, victim))
                self.assertRegex(log, cause)
                cluster.restart(group)
                load.wait_for_answers(2)
            cluster.wait_quiet()

    def test_a_prefill_stage(self):
        self.check("prefill-0", "prefill-0-1", "prefill-0-0", "a batch has not come back within worker.step_timeout_ms",
                   stages=2, ranks=1)

    def test_a_decode_rank(self):
        # The leader waits for it, between steps or in the middle of one; or its own watchdog comes first.
        self.check("decode-0", "decode-0-1", "decode-0-0",
                   "decode rank 1 did not answer within|a step takes longer than worker.step_timeout_ms",
                   stages=1, ranks=2)

    def test_an_idle_prefill_stage(self):
        self.check("prefill-0", "prefill-0-0", "prefill-0-0", "a batch has not come back within worker.step_timeout_ms",
                   idle=True, stages=1, ranks=1)

    def test_an_idle_decode_rank(self):
        self.check("decode-0", "decode-0-0", "decode-0-0", "a step takes longer than worker.step_timeout_ms",
                   idle=True, stages=1, ranks=1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
