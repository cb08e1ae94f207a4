"""A real cluster for one test: real processes, real sockets, ports of the system's choice.

    with Cluster(stages=2, ranks=2, drafts=1) as cluster:
        cluster.complete(prompt=[0, 5], max_tokens=8, temperature=0)

BALEEN_BIN names the folder of the binaries (ctest sets it). BALEEN_DEVICE=cuda runs every cluster on the GPU,
BALEEN_PEER_MEMORY=ucx or host with pages that go otherwise than by CUDA IPC, BALEEN_GPUS=2 with its workers on two of them
and BALEEN_EXPERT_EXCHANGE=nccl with experts' rows by NCCL.
"""
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/tiny-dsv32"
GOLDEN = json.loads((MODEL / "golden/golden.json").read_text())["prompts"]
RECALL = json.loads((MODEL / "golden/recall.json").read_text())
EOS = 1
DEVICE = os.environ.get("BALEEN_DEVICE", "cpu")
PEER_MEMORY = os.environ.get("BALEEN_PEER_MEMORY", "")
GPUS = int(os.environ.get("BALEEN_GPUS", "1"))
EXPERT_EXCHANGE = os.environ.get("BALEEN_EXPERT_EXCHANGE", "")
SLOWDOWN = float(os.environ.get("BALEEN_SLOWDOWN", "1"))  # how many times longer than usual work may take


def greedy_alone(golden):
    """The golden's continuation by one process on the same device: in fp8 free text differs from the exact golden."""
    done = subprocess.run(
        [os.environ["BALEEN_BIN"] + "/baleen_generate", "--model", str(MODEL), "--device", DEVICE, "--drafts", "0",
         "--prompt-ids", ",".join(map(str, golden["prompt_ids"])), "--max-tokens", str(len(golden["greedy_ids"])), "--json"],
        check=True, capture_output=True, text=True)
    answer = json.loads(done.stdout)
    return {**golden, "greedy_ids": answer["ids"], "greedy_text": answer["text"]}


if DEVICE != "cpu":
    GOLDEN = {name: greedy_alone(golden) for name, golden in GOLDEN.items()}


def wait_until(seconds, condition, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            raise AssertionError(what)
        time.sleep(0.05)  # between two questions to the cluster


class Cluster:
    def __init__(self, stages=2, ranks=2, drafts=1, chunk=8192, prefill_groups=1, decode_groups=1, transport="",
                 model=MODEL, pages=None, step_timeout_ms=None, overlap=None, binaries=None):
        self.binaries = binaries or os.environ["BALEEN_BIN"]
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="baleen-"))
        self.options = {
            "--model": model, "--prefill-stages": stages, "--decode-ranks": ranks, "--mtp": drafts, "--chunk": chunk,
            "--prefill-groups": prefill_groups, "--decode-groups": decode_groups, "--transport": transport,
            "--http-port": 0, "--device": DEVICE, "--peer-memory": PEER_MEMORY, "--gpus": GPUS,
            "--expert-exchange": EXPERT_EXCHANGE}
        if pages:
            self.options["--pages"] = pages
        if SLOWDOWN > 1:
            self.options["--step-timeout"] = int(60000 * SLOWDOWN)
        if step_timeout_ms:
            self.options["--step-timeout"] = step_timeout_ms
        if overlap is not None:
            self.options["--overlap"] = str(overlap).lower()

    def _script(self, command, **options):
        args = [str(ROOT / "deploy/local_cluster.sh"), command, "--dir", str(self.dir)]
        if command != "stop":
            args += ["--bin", str(self.binaries)]
        for name, value in options.items():
            args += [name, str(value)]
        return subprocess.run(args, check=True, capture_output=True, text=True, timeout=180).stdout

    def __enter__(self):
        try:
            out = self._script("start", **self.options)
        except subprocess.CalledProcessError as e:
            raise AssertionError(f"the cluster did not start:\n{e.stderr}\n{self.logs()}") from e
        self.url = re.search(r"^http=(.*)$", out, re.M).group(1)
        self.grpc = re.search(r"^grpc=(.*)$", out, re.M).group(1)
        self.host = self.url.removeprefix("http://")
        return self

    def __exit__(self, kind, *_):
        self._script("stop")
        if kind:
            print(self.logs())
        shutil.rmtree(self.dir)

    def logs(self, lines=12):
        tails = []
        for log in sorted(self.dir.glob("*.log")):
            tails.append(f"== {log.name}\n" + "\n".join(log.read_text().splitlines()[-lines:]))
        return "\n".join(tails)

    # ---- processes ----

    def processes(self):
        return sorted(p.stem for p in self.dir.glob("*.pid"))

    def pid(self, name):
        return int((self.dir / f"{name}.pid").read_text())

    def alive(self, name):
        try:
            return pathlib.Path(f"/proc/{self.pid(name)}/stat").read_text().split()[2] != "Z"
        except FileNotFoundError:
            return False

    def signal(self, name, number=signal.SIGKILL):
        os.kill(self.pid(name), number)

    def restart(self, name):
        self._script("restart", **{"--name": name})

    def rss_kib(self, name):
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{self.pid(name)}/status").read_text()).group(1))

    def descriptors(self, name):
        return len(os.listdir(f"/proc/{self.pid(name)}/fd"))

    # ---- requests ----

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return json.load(response)

    def post(self, path, body, timeout=300):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)

    def complete(self, **body):
        return self.post("/v1/completions", {"model": "tiny-dsv32", **body})["choices"][0]["text"]

    def stream(self, body, path="/v1/completions", stop_after=None, timeout=120):
        """The texts of a stream's events; leaves after `stop_after` of them. Raises StreamError for an error event or
        a stream that ends without [DONE]."""
        connection = http.client.HTTPConnection(self.host, timeout=timeout)
        try:
            connection.request("POST", path, json.dumps({"model": "tiny-dsv32", **body, "stream": True}),
                               {"content-type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise StreamError(f"status {response.status}: {response.read()[:300]!r}")
            texts = []
            for line in response:
                if line.strip() == b"data: [DONE]":
                    return texts
                if not line.startswith(b"data: "):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise StreamError(str(event))
                if event["choices"]:
                    texts.append(event["choices"][0].get("text", ""))
                if stop_after is not None and len(texts) >= stop_after:
                    return None
            raise StreamError("the stream ended without [DONE]")
        finally:
            connection.close()

    # ---- state ----

    def members(self):
        """(group, member) of every process that the router knows."""
        return [(group, member) for group in self.get("/workers")["workers"] for member in group["members"]]

    def metrics(self, member):
        with urllib.request.urlopen(f"http://{member['metrics_address']}/metrics", timeout=10) as response:
            return parse_metrics(response.read().decode())

    def wait_quiet(self, timeout=30):
        """Every queue empty, every page free again. Flushes the prefix cache first."""
        self.post("/flush_cache", {})
        deadline = time.monotonic() + timeout
        while True:
            busy = [(group["group"], member) for group, member in self.members()
                    if member["running"] or member["waiting"] or member["quarantined_pages"]
                    or member["free_pages"] != member["total_pages"]]
            if not busy:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"not quiet after {timeout} s: {busy}")
            time.sleep(0.05)  # between two questions to the cluster


class StreamError(Exception):
    pass


def parse_metrics(text):
    """{name{labels}: value}"""
    values = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    return values


def total(metrics, name):
    """The sum of a metric over its labels."""
    return sum(v for k, v in metrics.items() if k == name or k.startswith(name + "{"))


def status_of(call):
    """(status, error object) of a request that must fail."""
    try:
        call()
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)["error"]
    raise AssertionError("the request succeeded")
