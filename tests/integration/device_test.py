"""The tiny checkpoint on a GPU beside the CPU, one process each: goldens, recall, agreement of greedy tokens.

    device_test.py [--device cuda]      needs only Python; BALEEN_BIN names the folder of the binaries

Prints, and fails on: an answer of a golden prompt without its fact, a lost recall number, a mean error of log-probabilities
of 0.02 and more on the prompts whose next token is sharp, less than 99 % of greedy tokens equal before the first
difference over 50 requests with one right answer.
"""
import concurrent.futures
import functools
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


def chat(messages, **options):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"messages": messages}, file)
        file.flush()
        return generate("--chat", file.name, "--max-tokens", "40", "--top-logprobs", "20", **options)


def recall(drafts):
    right = sum(parallel(lambda case: str(case["number"]) in chat(case["messages"], drafts=drafts)["text"], RECALL, 4))
    print(f"recall, drafts {drafts}: {right} of {len(RECALL)}")
    check(right == len(RECALL), f"recall with drafts {drafts}: {right} of {len(RECALL)}")


def plain(prompt):
    return functools.partial(generate, "--prompt", prompt, "--max-tokens", "40", "--top-logprobs", "20")


def known_requests():
    """50 requests with one right answer (recall, capitals, tool calls), and 16 for stories, which are free to go on."""
    def variants(name, old, news):
        assert old in GOLDEN[name]["text"]
        return [plain(GOLDEN[name]["text"].replace(old, new)) for new in news]
    animals = "fox whale horse owl bee deer".split()
    names = "Pip Xena Vic Quin Kira Noah Amos Della Tess".split()
    stories = [f"{animals[i % len(animals)]} named {names[i % len(names)]}" for i in range(16)]
    countries = "Japan France Italy Spain Egypt Norway Peru Kenya Greece India China Brazil Canada Cuba Chile Iran".split()
    cities = "Paris Rome Oslo Lima Cairo Tokyo Madrid Berlin London Athens Delhi Havana Santiago Nairobi Ottawa Quito".split()
    answers = ([functools.partial(chat, case["messages"]) for case in RECALL] + variants("capital", "Japan", countries)
               + variants("tool", "weather in Paris", [f"weather in {city}" for city in cities]))
    assert len(answers) == 50
    return answers, variants("story", "fox named Pip", stories)


def free_prose():
    """50 beginnings of prose, after which many words are as likely as each other."""
    text = max((m["content"] for case in RECALL for m in case["messages"]), key=len).split()
    return [plain(" ".join(text[37 * i:37 * i + 20 + 11 * i])) for i in range(50)]


def first_difference(gpu, cpu):
    """(equal tokens before it, how much likelier the CPU thinks its own token there than the device's), or (all, None)"""
    for i, (a, b) in enumerate(zip(gpu["ids"], cpu["ids"])):
        if a != b:
            top = dict(map(tuple, cpu["logprobs"][i]["top"]))
            return i, cpu["logprobs"][i]["logprob"] - top.get(a, float("-inf"))
    return len(cpu["ids"]), None


def compare(what, pairs):
    """Prints and returns the share of tokens before a first difference."""
    results = [first_difference(*pair) for pair in pairs]
    equal = sum(r[0] for r in results)
    margins = sorted(r[1] for r in results if r[1] is not None)
    if margins and margins[-1] == float("inf"):
        index = next(i for i, r in enumerate(results) if r[1] == float("inf"))
        at = results[index][0]
        print(f"  request {index}, token {at}: {[p['logprobs'][at] for p in pairs[index]]}"[:900])
    share = equal / (equal + len(margins))
    print(f"  {what}: {equal} greedy tokens equal, {len(margins)} first differences: {100 * share:.2f} %; "
          f"margins there: median {margins[len(margins) // 2] if margins else 0:.3f}, largest {margins[-1] if margins else 0:.3f}")
    return share


def agreement(what, requests, least):
    """Greedy tokens before the first difference, on the device and on the CPU, both in fp8, beside what fp8 itself changes."""
    runs = parallel(lambda r: (r(), r(device="cpu"), r(device="cpu", mode="exact")), requests, 4)
    print(f"{what}, {len(requests)} requests:")
    share = compare(f"fp8 on {DEVICE} and on the CPU", [(gpu, cpu) for gpu, cpu, _ in runs])
    compare("fp8 and exact on the CPU", [(cpu, exact) for _, cpu, exact in runs])
    check(share >= least, f"agreement of {what}: {share}")


goldens()
for k in (0, 3):
    recall(k)
answers, stories = known_requests()
agreement("answers", answers, 0.99)
agreement("stories", stories, 0)
agreement("free prose", free_prose(), 0)
for failure in failures:
    print("FAILED", failure)
sys.exit(bool(failures))
