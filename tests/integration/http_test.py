"""The wire rules of the HTTP API, byte by byte, and bad input: each a clear error, nothing else disturbed, pages back."""
import json
import socket
import struct
import threading
import time
import unittest

from cluster import GOLDEN, SLOWDOWN, Cluster
from raw_http import RawHttp

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
STORY = [{"role": "user", "content": "Tell me a story about a fox named Pip."}]
POOL_PAGES = 96  # 6,144 tokens: less than the context


def setUpModule():
    global cluster
    cluster = Cluster(stages=2, ranks=1, drafts=1, pages=POOL_PAGES).__enter__()


def tearDownModule():
    try:
        cluster.wait_quiet()
    finally:
        cluster.__exit__(None)


def ask(method, path, body=None, headers=()):
    with RawHttp(cluster.host) as http:
        http.request(method, path, body, headers)
        return http.reply(head=method == "HEAD")


def events(body):
    """The data of each event of a stream, which must be exactly `data: …` and an empty line."""
    assert body.endswith(b"\n\n") and b"\r" not in body, body[-80:]
    datas = []
    for event in body[:-2].split(b"\n\n"):
        assert event.startswith(b"data: ") and b"\n" not in event, event
        datas.append(event[6:])
    assert datas[-1] == b"[DONE]", datas[-1]
    return [json.loads(data) for data in datas[:-1]]


def stream(path, **body):
    status, headers, data = ask("POST", path, {**body, "stream": True})
    assert status == 200, data
    return headers, events(data)


class Healthy(unittest.TestCase):
    """Every test leaves a cluster that answers, with all pages free."""

    def tearDown(self):
        text = cluster.complete(prompt=GOLDEN["capital"]["prompt_ids"], max_tokens=4, temperature=0)
        want = cluster.post("/detokenize", {"tokens": GOLDEN["capital"]["greedy_ids"][:4]})["text"]
        self.assertEqual(text, want)
        cluster.wait_quiet()


class Streams(Healthy):
    def test_events_are_plain_and_in_order(self):
        headers, chunks = stream(CHAT, messages=STORY, temperature=0)
        self.assertTrue(headers["content-type"].startswith("text/event-stream"))
        self.assertNotIn("content-encoding", headers)
        self.assertTrue(all(len(c["choices"]) == 1 for c in chunks), "a usage-only chunk that nobody asked for")
        self.assertTrue(all("usage" not in c or c["usage"] is None for c in chunks))
        self.assertEqual(len({c["id"] for c in chunks}), 1)
        self.assertEqual({c["object"] for c in chunks}, {"chat.completion.chunk"})
        finish = [c["choices"][0]["finish_reason"] for c in chunks]
        self.assertEqual(finish, [None] * (len(chunks) - 1) + ["stop"])
        text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
        self.assertEqual(text, GOLDEN["story"]["greedy_text"].removesuffix("<｜end▁of▁sentence｜>"))

    def test_the_role_comes_with_the_first_token_and_only_there(self):
        _, chunks = stream(CHAT, messages=STORY, temperature=0, max_tokens=8)
        first, *others = [c["choices"][0]["delta"] for c in chunks]
        self.assertEqual(first["role"], "assistant")
        self.assertTrue(first["content"])
        self.assertFalse(any("role" in d and d["role"] for d in others))

    def test_one_event_a_step(self):
        prompt = GOLDEN["story"]["prompt_ids"]
        _, states = stream("/generate", input_ids=prompt, sampling_params={"temperature": 0, "max_new_tokens": 60})
        steps = states[-1]["meta_info"]["spec_verify_ct"]
        self.assertLess(steps, 55, "drafts are never right here: nothing is tested")
        _, chunks = stream(COMPLETIONS, prompt=prompt, max_tokens=60, temperature=0,
                           stream_options={"include_usage": True})
        self.assertEqual(chunks[-1]["usage"]["completion_tokens"], 60)
        texts = [c["choices"][0]["text"] for c in chunks if c["choices"]]
        # One for the first token, one for each step, and one with the finish. The text of a step may have to wait.
        self.assertLessEqual(len(texts), steps + 2)
        self.assertGreaterEqual(len(texts), steps)
        self.assertTrue(all(texts[:-1]))

    def test_usage_comes_last_when_asked_for(self):
        for path, body in ((CHAT, {"messages": STORY}), (COMPLETIONS, {"prompt": "It was"})):
            _, chunks = stream(path, **body, max_tokens=5, temperature=0, stream_options={"include_usage": True})
            self.assertTrue(all(c["usage"] is None and c["choices"] for c in chunks[:-1]), path)
            self.assertEqual(chunks[-1]["choices"], [])
            self.assertEqual(chunks[-1]["usage"]["completion_tokens"], 5)
            _, chunks = stream(path, **body, max_tokens=5, temperature=0,
                               stream_options={"include_usage": True, "continuous_usage_stats": True})
            counts = [c["usage"]["completion_tokens"] for c in chunks]
            self.assertEqual(counts, sorted(counts), path)
            self.assertEqual(counts[-1], 5)

    def test_sglang_generate_text_is_cumulative(self):
        _, chunks = stream("/generate", text="It was a cold morning, and",
                           sampling_params={"temperature": 0, "max_new_tokens": 12, "ignore_eos": True})
        texts = [c["text"] for c in chunks]
        self.assertTrue(all(b.startswith(a) for a, b in zip(texts, texts[1:])))
        self.assertEqual(chunks[-1]["meta_info"]["completion_tokens"], 12)
        whole = json.loads(ask("POST", "/generate", {
            "text": "It was a cold morning, and",
            "sampling_params": {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}})[2])
        self.assertEqual(whole["text"], texts[-1])

    def test_stop_strings_end_before_themselves_and_free_the_pages(self):
        whole = GOLDEN["story"]["greedy_text"]
        for stop in (whole[40:47], [whole[60:66], "never there"]):
            first = whole.index(stop if isinstance(stop, str) else stop[0])
            for streamed in (False, True):
                body = dict(messages=STORY, temperature=0, stop=stop)
                if streamed:
                    _, chunks = stream(CHAT, **body)
                    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
                    reason = chunks[-1]["choices"][0]["finish_reason"]
                else:
                    choice = json.loads(ask("POST", CHAT, body)[2])["choices"][0]
                    text, reason = choice["message"]["content"], choice["finish_reason"]
                self.assertEqual((text, reason), (whole[:first], "stop"))

    def test_an_answer_that_ends_with_its_first_token(self):  # T-E6
        first = GOLDEN["story"]["greedy_ids"][0]
        for limits in ({"max_tokens": 1}, {"stop_token_ids": [first]},
                       {"stop": cluster.post("/detokenize", {"tokens": [first]})["text"][0]}):
            reply = json.loads(ask("POST", COMPLETIONS, {"prompt": GOLDEN["story"]["prompt_ids"], "temperature": 0,
                                                         **limits})[2])
            self.assertEqual(reply["choices"][0]["finish_reason"], "length" if "max_tokens" in limits else "stop")
            self.assertLessEqual(reply["usage"]["completion_tokens"], 1)

    def test_an_echo_has_an_entry_for_every_token(self):
        for prompt in ([5], [0, 5, 6]):
            for limit in (0, 1):
                for bias in ({}, {"1": 100}):  # the second: the answer is the end of sentence
                    choice = json.loads(ask("POST", COMPLETIONS, {
                        "prompt": prompt, "max_tokens": limit, "temperature": 0, "logprobs": 1, "echo": True,
                        "logit_bias": bias})[2])["choices"][0]
                    logprobs = choice["logprobs"]
                    for entries in logprobs.values():
                        self.assertEqual(len(entries), len(prompt) + limit)
                    self.assertIsNone(logprobs["token_logprobs"][0])
                    self.assertTrue(all(p <= 0 for p in logprobs["token_logprobs"][1:]))
                    self.assertEqual(choice["finish_reason"], "stop" if bias and limit else "length")

    def test_every_field_of_the_clients_is_taken(self):
        status, _, data = ask("POST", COMPLETIONS, {
            "model": None, "prompt": "It was", "max_tokens": 3, "temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0,
            "repetition_penalty": 1.0, "presence_penalty": 0, "frequency_penalty": 0, "seed": 1234, "stop": None,
            "stop_token_ids": [], "ignore_eos": True, "min_tokens": 1, "best_of": 1, "n": 1, "logprobs": None,
            "echo": False, "logit_bias": {}, "user": "me", "stream": False, "suffix": None})
        self.assertEqual(status, 200, data)
        status, _, data = ask("POST", CHAT, {
            "messages": STORY, "max_completion_tokens": 3, "max_tokens": None, "temperature": 0, "seed": 7, "stop": [],
            "logprobs": True, "top_logprobs": 2, "n": 1, "tools": None, "tool_choice": None, "ignore_eos": True,
            "response_format": {"type": "text"}, "stream_options": None, "parallel_tool_calls": True})
        self.assertEqual(status, 200, data)
        reply = json.loads(data)
        self.assertEqual(reply["usage"]["completion_tokens"], 3)
        content = reply["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(content), 3)
        self.assertTrue(all(len(c["top_logprobs"]) == 2 and c["logprob"] <= 0 for c in content))

    def test_unknown_fields_are_counted(self):
        def count():
            with RawHttp(cluster.host) as http:
                http.request("GET", "/metrics")
                text = http.reply()[2].decode()
            return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                       if line.startswith("baleen_router_unknown_fields_total{"))
        before = count()
        self.assertEqual(ask("POST", COMPLETIONS, {"prompt": "a", "max_tokens": 1, "colour": "red"})[0], 200)
        self.assertGreater(count(), before)


class Routes(Healthy):
    def test_information(self):
        for path in ("/health", "/liveness", "/readiness", "/version", "/v1/models", "/workers", "/server_info",
                     "/get_server_info", "/model_info", "/get_model_info", "/v1/loads", "/tokenizer_info",
                     "/v1/models/tiny-dsv32", "/v1/models/tiny%2Ddsv32"):
            status, headers, body = ask("GET", path)
            self.assertEqual(status, 200, path)
            self.assertTrue(headers["content-type"].startswith("application/json"), path)
            json.loads(body)
            status, headers, body = ask("HEAD", path)
            self.assertEqual((status, body), (200, b""), path)
        self.assertEqual(json.loads(ask("GET", "/v1/models")[2])["data"][0]["id"], "tiny-dsv32")
        self.assertIn(b"baleen_router_", ask("GET", "/metrics")[2])
        self.assertIn("avg_spec_accept_length", json.loads(ask("GET", "/server_info")[2])["internal_states"][0])

    def test_wrong_method_and_path(self):
        for method, path, want in (("GET", CHAT, 405), ("POST", "/workers/x", 404), ("PUT", "/health", 405),
                                   ("GET", "/nothing", 404), ("POST", "/", 405), ("GET", "/v1/models/other", 404),
                                   ("POST", "/workers/no-such-group/drain", 404), ("OPTIONS", CHAT, 204)):
            status, headers, body = ask(method, path, {} if method in ("POST", "PUT") else None)
            self.assertEqual(status, want, f"{method} {path}")
            if want >= 400:
                self.assertTrue(json.loads(body)["error"]["message"])
            if want == 405:
                self.assertIn("allow", headers)

    def test_a_query_string_does_not_matter(self):
        self.assertEqual(ask("GET", "/health?verbose=1")[0], 200)

    def test_request_ids_are_echoed_or_made(self):
        self.assertEqual(ask("GET", "/health", headers=["x-request-id: abc-1"])[1]["x-request-id"], "abc-1")
        first, second = (ask("GET", "/health")[1]["x-request-id"] for _ in range(2))
        self.assertNotEqual(first, second)
        echoed = ask("GET", "/health", headers=["x-request-id: " + "a" * 5000])[1]["x-request-id"]
        self.assertLess(len(echoed), 200)

    def test_one_connection_carries_many_requests_good_and_bad(self):
        with RawHttp(cluster.host) as http:
            for _ in range(20):
                http.request("POST", COMPLETIONS, b"{")
                self.assertEqual(http.reply()[0], 400)
                http.request("POST", COMPLETIONS, {"prompt": "a", "max_tokens": 1, "stream": True})
                self.assertEqual(http.reply()[0], 200)
                http.request("GET", "/health")
                self.assertEqual(http.reply()[0], 200)

    def test_pipelined_requests_are_answered_in_order(self):
        with RawHttp(cluster.host) as http:
            for limit in (3, 1, 2):
                http.request("POST", COMPLETIONS, {"prompt": "It was", "max_tokens": limit, "ignore_eos": True})
            http.request("GET", "/health")
            counts = [json.loads(http.reply()[2])["usage"]["completion_tokens"] for _ in range(3)]
            self.assertEqual(counts, [3, 1, 2])
            self.assertEqual(http.reply()[0], 200)

    def test_chunked_bodies_old_clients_and_expect(self):
        body = json.dumps({"prompt": "It was", "max_tokens": 2}).encode()
        with RawHttp(cluster.host) as http:
            http.send(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            for byte in body:
                http.send(b"1\r\n" + bytes([byte]) + b"\r\n")
            http.send(b"0\r\n\r\n")
            self.assertEqual(http.reply()[0], 200)
        with RawHttp(cluster.host) as http:
            http.send(b"GET /health HTTP/1.0\r\n\r\n")
            self.assertEqual(http.reply()[0], 200)
            self.assertTrue(http.at_end())
        with RawHttp(cluster.host) as http:
            http.send(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                      + f"Content-Length: {len(body)}\r\n\r\n".encode())
            self.assertEqual(http.header()[0], 100)
            http.send(body)
            self.assertEqual(http.reply()[0], 200)


def nested(depth):
    return "[" * depth + "]" * depth


def complete_with(**fields):
    return COMPLETIONS, {"prompt": "It was", "max_tokens": 2, **fields}


def chat_with(*messages, **fields):
    return CHAT, {"messages": list(messages), "max_tokens": 2, **fields}


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
# (path, body, status, the parameter named[, what the message must say])
BAD = [
    # not JSON, not an object
    (CHAT, b"", 400, None, "JSON"), (CHAT, b"{", 400, None, "JSON"),
    (CHAT, b"[]", 400, None, "object"), (CHAT, b'"x"', 400, None, "object"),
    (COMPLETIONS, b'{"prompt": "a"} x', 400, None, "JSON"), (COMPLETIONS, b'{"prompt": "\xff\xfe"}', 400, None, "JSON"),
    (COMPLETIONS, b'{"prompt": "\\ud800"}', 400, None, "JSON"),
    (COMPLETIONS, nested(200_000).encode(), 400, None, "JSON"),
    (COMPLETIONS, b'{"prompt": ' + nested(200_000).encode() + b"}", 400, None, "JSON"),
    (COMPLETIONS, b'{"prompt": "a", "temperature": NaN}', 400, None, "JSON"),
    (COMPLETIONS, b'{"prompt": "a", "temperature": 1e999}', 400, None, "JSON"),
    (COMPLETIONS, b'{"prompt": "a", "temperature": Infinity}', 400, None, "JSON"),
    # fields of the wrong type or out of range
    (*complete_with(max_tokens=0), 400, "max_tokens"), (*complete_with(max_tokens=-1), 400, "max_tokens"),
    (*complete_with(max_tokens=1.5), 400, "max_tokens"), (*complete_with(max_tokens="5"), 400, "max_tokens"),
    (*complete_with(max_tokens=True), 400, "max_tokens"), (*complete_with(max_tokens=10**30), 400, "max_tokens"),
    (*complete_with(max_tokens=2**31), 400, "max_tokens"), (*complete_with(max_tokens=2**63), 400, "max_tokens"),
    (*complete_with(max_tokens=2**64 - 1), 400, "max_tokens"),
    (*complete_with(n=2), 400, "n"), (*complete_with(n=0), 400, "n"), (*complete_with(best_of=3), 400, "best_of"),
    (*complete_with(temperature=-0.1), 400, "temperature"), (*complete_with(temperature="hot"), 400, "temperature"),
    (*complete_with(top_p=0), 400, "top_p"), (*complete_with(top_p=1.1), 400, "top_p"),
    (*complete_with(top_k=-5), 400, "top_k"), (*complete_with(min_p=2), 400, "min_p"),
    (*complete_with(presence_penalty=9), 400, "presence_penalty"),
    (*complete_with(frequency_penalty="x"), 400, "frequency_penalty"),
    (*complete_with(repetition_penalty=0), 400, "repetition_penalty"),
    (*complete_with(logprobs=100), 400, "logprobs"), (*complete_with(logprobs=-1), 400, "logprobs"),
    (*complete_with(stop=5), 400, "stop"), (*complete_with(stop=["a", 5]), 400, "stop"),
    (*complete_with(stop=["a"] * 10_000), 400, "stop"),
    (*complete_with(stop=["x" * 1000] * 17), 400, "stop"),
    (*complete_with(stop_token_ids=[4096]), 400, "stop_token_ids"),
    (*complete_with(stop_token_ids=[-1]), 400, "stop_token_ids"),
    (*complete_with(stop_token_ids=[5] * 100_000), 400, "stop_token_ids"),
    (*complete_with(logit_bias={"x": 1}), 400, "logit_bias"), (*complete_with(logit_bias={"4096": 1}), 400, "logit_bias"),
    (*complete_with(logit_bias={"5": 1e9}), 400, "logit_bias"), (*complete_with(logit_bias=[1]), 400, "logit_bias"),
    (*complete_with(seed="lucky"), 400, "seed"), (*complete_with(stream="yes"), 400, "stream"),
    (*complete_with(min_tokens=-1), 400, "min_tokens"), (*complete_with(model="gpt-4"), 404, None, "gpt-4"),
    (*complete_with(model=7), 400, "model"), (*complete_with(stream=True, n=2), 400, "n"),
    # prompts
    (COMPLETIONS, {"max_tokens": 1}, 400, "prompt"), (*complete_with(prompt=5), 400, "prompt"),
    (*complete_with(prompt=[]), 400, "prompt"), (*complete_with(prompt=[[]]), 400, "prompt"),
    (*complete_with(prompt={"a": 1}), 400, "prompt"), (*complete_with(prompt=["a", 5]), 400, "prompt"),
    (*complete_with(prompt=[4096]), 400, "prompt"), (*complete_with(prompt=[-1]), 400, "prompt"),
    (*complete_with(prompt=[1.5]), 400, "prompt"), (*complete_with(prompt=[2**32]), 400, "prompt"),
    (*complete_with(prompt=[2**64]), 400, "prompt"), (*complete_with(prompt=[[0], [4096]]), 400, "prompt"),
    (*complete_with(prompt=["a"] * 100_000), 400, "prompt"),
    (*complete_with(prompt=[5] * 16_384), 400, "prompt", "tokens"),
    (*complete_with(prompt=[5] * 200_000), 400, "prompt", "tokens"),
    (*complete_with(prompt=[5] * 64 * POOL_PAGES), 400, "prompt", "pool"),
    (CHAT, {"messages": [{"role": "user", "content": "word " * 30_000}]}, 400, "messages", "tokens"),
    ("/generate", {"input_ids": [5] * 16_384}, 400, "input_ids", "tokens"),
    ("/generate", {"text": "word " * 30_000}, 400, "text", "tokens"),
    # messages
    (*chat_with(), 400, "messages"), (CHAT, {"max_tokens": 1}, 400, "messages"),
    (CHAT, {"messages": "hi"}, 400, "messages"), (*chat_with(5), 400, "messages[0]"),
    (*chat_with({"content": "x"}), 400, "messages[0].role"),
    (*chat_with({"role": "pirate", "content": "x"}), 400, "messages[0].role"),
    (*chat_with({"role": "user", "content": 5}), 400, "messages[0].content"),
    (*chat_with({"role": "user"}), 400, "messages[0].content"),
    (*chat_with({"role": "tool", "content": "x", "tool_call_id": "c1"}), 400, "messages[0]"),
    (*chat_with(STORY[0], {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "other", "content": "x"}), 400, "messages[2].tool_call_id"),
    (*chat_with(STORY[0], {"role": "assistant", "tool_calls": [{**CALL, "function": 5}]}), 400,
     "messages[1].tool_calls[0].function"),
    (*chat_with(STORY[0], tools="get_weather"), 400, "tools"), (*chat_with(STORY[0], tools=[5]), 400, "tools[0]"),
    (*chat_with(STORY[0], n=3), 400, "n"), (*chat_with(STORY[0], logprobs=5), 400, "logprobs"),
    (*chat_with(STORY[0], logprobs=True, top_logprobs=21), 400, "top_logprobs"),
    (*chat_with(STORY[0], top_logprobs=2), 400, "top_logprobs"),
    (CHAT, ('{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": {"name": "f", '
            '"parameters": {"a": ' + nested(100_000) + "}}}]}").encode(), 400, None, "JSON"),
    # other routes
    ("/tokenize", {}, 400, "prompt"), ("/tokenize", {"prompt": 5}, 400, "prompt"),
    ("/detokenize", {}, 400, "tokens"), ("/detokenize", {"tokens": [4096]}, 400, "tokens"),
    ("/detokenize", {"tokens": "x"}, 400, "tokens"), ("/generate", {}, 400, "text"),
    ("/generate", {"text": "a", "sampling_params": 5}, 400, "sampling_params"),
    ("/generate", {"input_ids": [99999]}, 400, "input_ids"), ("/abort_request", {}, 400, "rid"),
]


class BadInput(Healthy):
    def check_error(self, status, headers, body, want_status, param, says=""):
        self.assertEqual(status, want_status, body[:300])
        self.assertTrue(headers["content-type"].startswith("application/json"))
        error = json.loads(body)["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertTrue(error["message"])
        self.assertEqual(error["param"], param)
        self.assertIn(says, error["message"])
        # The client's text is not repeated at length.
        self.assertLess(len(body), 2000)

    def test_each_bad_request_gets_a_clear_error_and_disturbs_nobody(self):
        texts, over = [], threading.Event()

        def others():
            while not over.is_set():
                texts.append(cluster.complete(prompt=GOLDEN["capital"]["prompt_ids"], max_tokens=20, temperature=0))
        other = threading.Thread(target=others)
        other.start()
        try:
            for path, body, *want in BAD:
                with self.subTest(path=path, body=str(body)[:100]):
                    self.check_error(*ask("POST", path, body), *want)
        finally:
            over.set()
            other.join()
        self.assertGreater(len(texts), 0)
        self.assertEqual(len(set(texts)), 1)
        self.assertEqual(ask("GET", "/readiness")[0], 200)  # T-E1: bad requests are no fault of the workers

    def test_what_looks_odd_and_is_allowed(self):
        for path, body in (complete_with(prompt=""), complete_with(prompt="a\0b"), complete_with(prompt="\U0001f98a" * 50),
                           complete_with(stop=["x" * 1000]), complete_with(prompt=[[0, 5], [0, 6]]),
                           complete_with(prompt="<｜User｜><｜Assistant｜></think>"), complete_with(max_tokens=10**6),
                           complete_with(max_tokens=0, echo=True, logprobs=1),
                           ("/generate", {"text": "It was", "sampling_params": {"max_new_tokens": 0}}),
                           complete_with(temperature=1e-30), complete_with(seed=2**63 - 1), complete_with(seed=-1),
                           complete_with(logit_bias={"5": -100}), chat_with(STORY[0], max_tokens=2.0),
                           chat_with({"role": "user", "content": [{"type": "text", "text": "hi"}]})):
            with self.subTest(body=str(body)[:100]):
                status, _, data = ask("POST", path, {"stop_token_ids": list(range(2, 60)), **body})
                self.assertEqual(status, 200, data[:300])

    def test_a_body_of_50_mb_is_refused_while_others_are_served(self):
        with RawHttp(cluster.host) as http:
            http.send(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n")
            sent = threading.Thread(target=self.send_megabytes, args=(http, 50))
            sent.start()
            self.assertEqual(ask("GET", "/health")[0], 200)
            self.check_error(*http.reply(), 413, None, "body")
            sent.join(30)
            self.assertFalse(sent.is_alive())
        with RawHttp(cluster.host) as http:  # without saying so beforehand
            http.send(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            sent = threading.Thread(target=self.send_megabytes, args=(http, 50, True))
            sent.start()
            self.check_error(*http.reply(), 413, None, "body")
            sent.join(30)
            self.assertFalse(sent.is_alive())

    def send_megabytes(self, http, count, chunked=False):
        piece = b" " * 1_000_000
        try:
            for _ in range(count):
                http.send(b"f4240\r\n" + piece + b"\r\n" if chunked else piece)
        except OSError:
            pass  # the server may have closed after its reply

    def test_a_long_prompt_within_the_limit_on_bodies_is_answered_quickly(self):
        begun = time.monotonic()
        status, headers, body = ask("POST", COMPLETIONS, {"prompt": "word " * 6_000_000, "max_tokens": 1})
        self.check_error(status, headers, body, 400, "prompt", "tokens")
        self.assertLess(time.monotonic() - begun, 30)

    def test_what_is_not_http(self):
        for data, want in ((b"hello\r\n\r\n", 400), (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, 400),
                           (b"GET / HTTP/9.9\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431),
                           (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
                           (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
                           (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400)):
            with self.subTest(data=data[:40]), RawHttp(cluster.host, timeout=10) as http:
                http.send(data)
                self.assertEqual(http.reply()[0], want)
                self.assertTrue(http.at_end())


class RudeClients(Healthy):
    def generate(self, http, **more):
        http.request("POST", COMPLETIONS, {"prompt": GOLDEN["prose"]["prompt_ids"], "max_tokens": 3000,
                                           "ignore_eos": True, "stream": True, **more})

    def busy(self):
        return sum(member["running"] + member["waiting"] for _, member in cluster.members())

    def wait_idle(self, seconds):
        deadline = time.monotonic() + seconds * SLOWDOWN
        while self.busy():
            self.assertLess(time.monotonic(), deadline, "the request goes on without its client")
            time.sleep(0.02)  # between two questions to the cluster

    def gone(self):
        with RawHttp(cluster.host) as http:
            http.request("GET", "/metrics")
            lines = http.reply()[2].decode().splitlines()
        return float(next(line for line in lines if line.startswith("baleen_router_client_gone_total ")).split()[1])

    def test_a_client_that_vanishes_in_mid_stream(self):  # T-C1, T-C9
        for reset in (False, True):
            before = self.gone()
            http = RawHttp(cluster.host)
            self.generate(http)
            http.header()
            http.chunk()
            if reset:
                http.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            http.socket.close()
            deadline = time.monotonic() + 5 * SLOWDOWN
            while self.gone() == before:
                self.assertLess(time.monotonic(), deadline, "nobody noticed that the client left")
                time.sleep(0.02)  # between two questions to the router
            self.wait_idle(5)
            self.assertEqual(self.gone(), before + 1)

    def test_a_client_that_vanishes_before_the_first_byte(self):
        for stream in (False, True):
            http = RawHttp(cluster.host)
            self.generate(http, prompt=[5] * 1500, stream=stream)
            deadline = time.monotonic() + 10
            while not self.busy():
                self.assertLess(time.monotonic(), deadline)
            http.socket.close()
            self.wait_idle(10)

    def test_a_half_closed_client_is_a_client_that_left(self):
        with RawHttp(cluster.host, timeout=15) as http:
            self.generate(http)
            http.header()
            http.chunk()
            http.socket.shutdown(socket.SHUT_WR)
            with self.assertRaises((EOFError, ConnectionError)):
                while http.chunk():
                    pass
        self.wait_idle(5)

    def test_a_request_that_never_ends_holds_nobody_up(self):
        slow = [RawHttp(cluster.host) for _ in range(50)]
        for i, http in enumerate(slow):
            http.send([b"G", b"POST /v1/completions HTTP/1.1\r\nContent-Le",
                       b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"][i % 3])
        begun = time.monotonic()
        self.assertEqual(ask("POST", COMPLETIONS, {"prompt": "It was", "max_tokens": 2})[0], 200)
        self.assertLess(time.monotonic() - begun, 5)
        for http in slow:
            http.socket.close()

    def test_clients_that_do_not_read_hold_nobody_up(self):  # T-E13
        lazy = [RawHttp(cluster.host, receive_buffer=4096) for _ in range(4)]
        try:
            for http in lazy:
                # Logprobs make long events.
                self.generate(http, max_tokens=700, logprobs=5)
            begun = time.monotonic()
            self.assertEqual(ask("POST", COMPLETIONS, {"prompt": "It was", "max_tokens": 10})[0], 200)
            self.assertLess(time.monotonic() - begun, 10)
            # The engine does not wait for the readers either.
            self.wait_idle(90)
        finally:
            for http in lazy:
                http.socket.close()

    def test_the_same_request_id_twice_at_once(self):  # T-D4
        replies = []

        def one():
            replies.append(ask("POST", COMPLETIONS, {"prompt": "It was a", "max_tokens": 20, "temperature": 0},
                               ["x-request-id: twin"]))
        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([r[0] for r in replies], [200] * 4)
        self.assertEqual(len({json.loads(r[2])["choices"][0]["text"] for r in replies}), 1)

    def test_abort_by_request_id(self):
        with RawHttp(cluster.host) as http:
            http.request("POST", COMPLETIONS, {"prompt": "It was", "max_tokens": 3000, "ignore_eos": True, "stream": True},
                         ["x-request-id: to-abort"])
            http.header()
            http.chunk()
            status, _, body = ask("POST", "/abort_request", {"rid": "to-abort"})
            self.assertEqual((status, json.loads(body)["aborted"]), (200, 1))
            rest = b"".join(iter(http.chunk, b""))
            last = rest.strip().split(b"\n\n")[-1]
            self.assertIn("error", json.loads(last.removeprefix(b"data: ")))  # T-E8: no [DONE]
        self.assertEqual(json.loads(ask("POST", "/abort_request", {"rid": "nobody"})[2])["aborted"], 0)
        self.wait_idle(5)


if __name__ == "__main__":
    unittest.main(verbosity=2)
