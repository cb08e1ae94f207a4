"""Starting wrongly: every process says what is wrong, by name, and ends; a cluster that runs is not disturbed."""
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

from cluster import DEVICE, MODEL, Cluster
from raw_http import RawHttp

BIN = os.environ["BALEEN_BIN"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Start(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="baleen-start-"))
        self.addCleanup(shutil.rmtree, self.dir)

    def start(self, binary, config):
        (self.dir / "config.textproto").write_text(config)
        self.log = self.dir / "log"
        with self.log.open("w") as log:
            return subprocess.Popen([f"{BIN}/{binary}", str(self.dir / "config.textproto")], stdout=log,
                                    stderr=subprocess.STDOUT)

    def fails(self, binary, config, *names, timeout=20):
        """The process must end by itself with a status other than 0 (and no signal), and its log must have `names`."""
        process = self.start(binary, config)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.fail(f"{binary} goes on: {self.log.read_text()}")
        log = self.log.read_text()
        self.assertGreater(process.returncode, 0, log)
        for name in names:
            self.assertIn(name, log)
        return log

    def worker(self, more="", model=MODEL, **fields):
        fields = {"group": "g", "index": 0, "size": 1, "grpc_port": free_port(), "device": DEVICE, **fields}
        text = " ".join(f"{k}: {json.dumps(v)}" for k, v in fields.items())
        return f'worker {{ model: "{model}" {text} {more} }}'

    def test_configurations(self):
        self.fails("baleen_router", "", "model")
        self.fails("baleen_router", 'colour: "red"', "colour")
        self.fails("baleen_router", f'model: "{MODEL}" http_port: 99999', "http_port")
        self.fails("baleen_router", f'model: "{MODEL}" http_port: 0 grpc_port: 0 decode_policy: "best"', "decode_policy")
        for binary in ("baleen_prefill", "baleen_decode"):
            with self.subTest(binary=binary):
                self.fails(binary, self.worker(group=""), "group")
                self.fails(binary, self.worker(size=0), "size")
                self.fails(binary, self.worker(index=1, size=2), "leader")
                self.fails(binary, self.worker(grpc_port=0), "grpc_port")
                self.fails(binary, self.worker(index=5, size=2, leader="127.0.0.1:1"), "index")
                self.fails(binary, self.worker(drafts=4), "drafts")
                self.fails(binary, self.worker(numerics="int4"), "numerics")
                self.fails(binary, self.worker(device="tpu"), "device")
                self.fails(binary, self.worker(transport="pigeon"), "pigeon")
        self.fails("baleen_prefill", self.worker(size=50, grpc_port=1), "50")
        self.fails("baleen_decode", self.worker() + ' expert_exchange: "mail"', "expert_exchange")

    def test_arguments(self):
        for binary in ("baleen_router", "baleen_prefill", "baleen_decode"):
            for args in ([], ["/no/such/file"], [str(self.dir)], ["a", "b"]):
                with self.subTest(binary=binary, args=args):
                    done = subprocess.run([f"{BIN}/{binary}", *args], capture_output=True, text=True, timeout=20)
                    self.assertGreater(done.returncode, 0)
                    self.assertTrue(done.stdout + done.stderr)

    def test_no_such_checkpoint(self):
        self.fails("baleen_router", 'model: "/no/such/model" http_port: 0 grpc_port: 0', "/no/such/model")
        for binary in ("baleen_prefill", "baleen_decode"):
            self.fails(binary, self.worker(model="/no/such/model"), "/no/such/model")

    def damaged(self, change):
        model = pathlib.Path(tempfile.mkdtemp(dir=self.dir)) / "model"
        shutil.copytree(MODEL, model, ignore=shutil.ignore_patterns("golden"))
        change(model)
        return model

    def test_damaged_checkpoints(self):
        shard = "model-00002-of-00002.safetensors"

        def cut(model):
            os.truncate(model / shard, (model / shard).stat().st_size - 1000)

        def config(**fields):
            def change(model):
                text = json.loads((model / "config.json").read_text())
                (model / "config.json").write_text(json.dumps({**text, **fields}))
            return change
        cases = [(lambda m: (m / shard).unlink(), shard), (cut, shard), (config(hidden_size="big"), "hidden_size"),
                 (config(architectures=["LlamaForCausalLM"]), "LlamaForCausalLM"), (config(kv_lora_rank=256), "kv_"),
                 (lambda m: (m / "config.json").write_text("{"), "config.json"),
                 (lambda m: (m / "model.safetensors.index.json").write_text("[]"), "index")]
        for change, name in cases:
            with self.subTest(name=name):
                self.fails("baleen_decode", self.worker(model=self.damaged(change)), name)
        self.fails("baleen_router", f'model: "{self.damaged(lambda m: (m / "tokenizer.json").unlink())}" http_port: 0 '
                                    "grpc_port: 0", "tokenizer.json")

    def test_a_taken_port(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            for name, other in (("http_port", "grpc_port"), ("grpc_port", "http_port")):
                self.fails("baleen_router", f'model: "{MODEL}" host: "127.0.0.1" {name}: {port} {other}: 0', name, str(port))
            self.fails("baleen_decode", self.worker(grpc_port=port), "grpc_port", str(port))
            self.fails("baleen_prefill", self.worker(metrics_port=port), "metrics_port", str(port))

    def test_a_router_alone(self):  # T-E5
        process = self.start("baleen_router", f'model: "{MODEL}" host: "127.0.0.1" http_port: 0 grpc_port: 0 '
                             f'queue_timeout_ms: 500 drain_grace_ms: 0 ready_file: "{self.dir}/ready"')
        try:
            deadline = time.monotonic() + 20
            while not (self.dir / "ready").exists():
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.02)  # between two looks at the file
            host = "127.0.0.1:" + re.search(r"http_port=(\d+)", (self.dir / "ready").read_text()).group(1)
            with RawHttp(host) as http:
                for path, want in (("/health", 200), ("/liveness", 200), ("/readiness", 503), ("/v1/models", 200)):
                    http.request("GET", path)
                    self.assertEqual(http.reply()[0], want, path)
                http.request("POST", "/tokenize", {"prompt": "hello"})
                self.assertEqual(http.reply()[0], 200)
                for stream in (False, True):
                    http.request("POST", "/v1/completions", {"prompt": "x", "stream": stream})
                    status, headers, body = http.reply()
                    self.assertEqual(status, 503)
                    self.assertIn("retry-after", headers)
                    self.assertTrue(json.loads(body)["error"]["message"])
        finally:
            process.terminate()
            process.wait(20)
        self.assertEqual(process.returncode, 0, self.log.read_text())

    def test_a_worker_that_does_not_fit_is_refused_by_name(self):  # T-E4, T-H5, T-G3
        with Cluster(stages=1, ranks=1, drafts=1) as cluster:
            def other_weights(model):
                index = json.loads((model / "model.safetensors.index.json").read_text())
                index["metadata"] = {**index.get("metadata", {}), "revision": "other"}
                (model / "model.safetensors.index.json").write_text(json.dumps(index))

            def other_tokenizer(model):
                text = (model / "tokenizer.json").read_text()
                (model / "tokenizer.json").write_text(text + " ")
            misfits = [("drafts", self.worker(drafts=3)), ("max_context", self.worker(max_context=1000)),
                       ("weights", self.worker(model=self.damaged(other_weights))),
                       ("tokenizer", self.worker(model=self.damaged(other_tokenizer)))]
            if DEVICE == "cpu":  # a GPU has no other
                misfits.append(("numerics", self.worker(numerics="fp8")))
            for name, config in misfits:
                for binary in ("baleen_prefill", "baleen_decode"):
                    with self.subTest(name=name, binary=binary):
                        router = f'routers: "{cluster.grpc}" pages: 64'
                        config = re.sub(r"grpc_port: \d+", f"grpc_port: {free_port()}", config)
                        process = self.start(binary, config.replace(" }", f" {router} }}"))
                        self.wait_for_refusal(process, name)
                        self.assertEqual(len(cluster.get("/workers")["workers"]), 2)
            # Two servers must not share a port, which gRPC would allow.
            for name, binary in (("prefill-0-0", "baleen_prefill"), ("decode-0-0", "baleen_decode")):
                self.fails(binary, (cluster.dir / f"{name}.textproto").read_text(), "grpc_port")
            self.assertTrue(cluster.complete(prompt="It was", max_tokens=5))
            cluster.wait_quiet()

    def wait_for_refusal(self, process, name):
        """A line of the log refuses the registration and names the field. The process may go on (another router may
        take it) or end."""
        deadline = time.monotonic() + 20
        try:
            while True:
                log = self.log.read_text()
                if any(re.search(r"refus|reject|differ", line, re.I) and name in line for line in log.splitlines()):
                    return
                self.assertLess(time.monotonic(), deadline, log)
                time.sleep(0.02)  # between two looks at the log
        finally:
            process.kill()
            process.wait()


class Scripts(unittest.TestCase):
    def local_cluster(self, *args):
        script = pathlib.Path(__file__).parents[2] / "deploy/local_cluster.sh"
        return subprocess.run([str(script), *args], capture_output=True, text=True, timeout=180)

    def test_another_clusters_router_is_not_taken_for_ours(self):
        with Cluster(stages=1, ranks=1) as cluster, tempfile.TemporaryDirectory(prefix="baleen-") as other:
            port = cluster.host.rpartition(":")[2]
            done = self.local_cluster("start", "--dir", other, "--bin", BIN, "--device", DEVICE, "--http-port", port)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("http_port", done.stderr)
            self.assertNotIn("http=", done.stdout)
            self.assertEqual(len(cluster.get("/workers")["workers"]), 2)

    def test_a_process_that_only_has_the_number_is_left_alone(self):
        stranger = subprocess.Popen(["sleep", "60"])
        try:
            with tempfile.TemporaryDirectory(prefix="baleen-") as old:
                pathlib.Path(old, "decode-0-0.pid").write_text(f"{stranger.pid}\n")
                self.assertIn("decode-0-0: ended", self.local_cluster("status", "--dir", old).stdout)
                self.assertEqual(self.local_cluster("stop", "--dir", old).returncode, 0)
            self.assertIsNone(stranger.poll())
        finally:
            stranger.kill()
            stranger.wait()


if __name__ == "__main__":
    unittest.main(verbosity=2)
