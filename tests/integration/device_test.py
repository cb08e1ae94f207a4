"""The tiny checkpoint on a GPU beside the CPU, one process each: goldens, recall, agreement of greedy tokens.

    device_test.py [--device cuda]      needs only Python; BALEEN_BIN names the folder of the binaries

Prints, and fails on: an answer of a golden prompt without its fact, a lost recall number, a mean error of log-probabilities
of 0.02 and more on the prompts whose next token is sharp, less than 99 % of greedy tokens equal before the first difference.
"""
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/tiny-dsv32"
GOLDEN = json.loads((MODEL / "golden/golden.json").read_text())["prompts"]
RECALL = json.loads((MODEL / "golden/recall.json").read_text())
FREE = ("story", "prose")  # free text: several next words are as likely as each other
DEVICE = sys.argv[sys.argv.index("--device") + 1] if "--device" in sys.argv else "cuda"
failures = []


def generate(*args, device=DEVICE, mode="fp8", drafts=0):
    command = [os.environ.get("BALEEN_RUN", ""), os.path.join(os.environ.get("BALEEN_BIN", ""), "baleen_generate"),
               "--model", str(MODEL), "--device", device, "--mode", mode, "--drafts", str(drafts), "--json", *args]
    done = subprocess.run([part for part in command if part], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def ids(values):
    return ",".join(map(str, values))


def check(ok, what):
    if not ok:
        failures.append(what)


def parallel(function, items, workers):
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


def goldens():
    for name, golden in GOLDEN.items():
        args = ("--prompt-ids", ids(golden["prompt_ids"]), "--max-tokens", "96", "--top-logprobs", "0")
        got, exact = generate(*args), generate(*args, device="cpu", mode="exact")
        pairs = []
        for a, b in zip(got["logprobs"], exact["logprobs"]):
            if a["id"] != b["id"]:
                break
            pairs.append(abs(a["logprob"] - b["logprob"]))
        error = sum(pairs) / max(1, len(pairs))
        same = got["ids"] == exact["ids"]
        print(f"golden {name}: {len(pairs)} of {len(exact['ids'])} tokens equal to exact, mean log-probability error {error:.4f}")
        if name not in FREE:
            check(same, f"{name}: {got.get('text')!r} instead of {exact.get('text')!r}")
            check(error < 0.02, f"{name}: error {error}")


def recall(drafts):
    def answer(case):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"messages": case["messages"]}, file)
            file.flush()
            return str(case["number"]) in generate("--chat", file.name, "--max-tokens", "40", drafts=drafts)["text"]
    right = sum(parallel(answer, RECALL, 4))
    print(f"recall, drafts {drafts}: {right} of {len(RECALL)}")
    check(right == len(RECALL), f"recall with drafts {drafts}: {right} of {len(RECALL)}")


def agreement():
    """50 prompts of the goldens' and recall's texts, cut at different places."""
    text = max((m["content"] for case in RECALL for m in case["messages"]), key=len).split()
    prompts = [" ".join(text[37 * i:37 * i + 20 + 11 * i]) for i in range(50)]
    assert all(prompts)

    def both(prompt):
        args = ("--prompt", prompt, "--max-tokens", "32", "--ignore-eos")
        gpu, cpu = generate(*args), generate(*args, device="cpu")
        equal = next((i for i, (a, b) in enumerate(zip(gpu["ids"], cpu["ids"])) if a != b), len(cpu["ids"]))
        return equal, equal < len(cpu["ids"])
    results = parallel(both, prompts, 4)
    equal, differ = sum(r[0] for r in results), sum(r[1] for r in results)
    share = equal / (equal + differ)
    print(f"fp8 on {DEVICE} and on the CPU: {equal} greedy tokens equal, {differ} first differences: {100 * share:.2f} %")
    check(share >= 0.99, f"agreement {share}")


goldens()
for k in (0, 3):
    recall(k)
agreement()
for failure in failures:
    print("FAILED", failure)
sys.exit(bool(failures))
