"""Unmodified clients against a cluster: the openai package ("must show" 8), gRPC by reflection."""
import json
import unittest

import grpc
import openai

from cluster import GOLDEN, Cluster, status_of
from grpc_client import GrpcClient

TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Get the current weather for a city", "parameters": {
        "type": "object", "properties": {"location": {"type": "string", "description": "The city name"},
                                         "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        "required": ["location"]}}}]


def setUpModule():
    global cluster, client
    cluster = Cluster(stages=2, ranks=2, drafts=1).__enter__()
    client = openai.OpenAI(base_url=cluster.url + "/v1", api_key="none", max_retries=0)


def tearDownModule():
    cluster.wait_quiet()
    cluster.__exit__(None)


def chat(messages, **options):
    return client.chat.completions.create(model="tiny-dsv32", messages=messages, temperature=0, **options)


def user(text):
    return [{"role": "user", "content": text}]


class OpenAi(unittest.TestCase):
    def test_models(self):
        self.assertEqual([m.id for m in client.models.list().data], ["tiny-dsv32"])

    def test_a_streamed_answer_equals_the_whole_one_and_reports_usage_when_asked(self):
        whole = chat(user("Tell me a story about a fox named Pip."))
        self.assertEqual(whole.choices[0].finish_reason, "stop")
        self.assertIn("fox named Pip", whole.choices[0].message.content)
        text, usage = "", None
        for chunk in chat(user("Tell me a story about a fox named Pip."), stream=True,
                          stream_options={"include_usage": True}):
            if chunk.choices:
                self.assertIsNone(chunk.usage)
                text += chunk.choices[0].delta.content or ""
            else:
                usage = chunk.usage
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(usage.completion_tokens, whole.usage.completion_tokens)
        self.assertEqual(usage.prompt_tokens, 14)

    def test_thinking(self):
        answer = chat(user("What is the capital of Japan?"),
                      extra_body={"chat_template_kwargs": {"thinking": True}}).choices[0].message
        self.assertIn("Tokyo", answer.reasoning_content)
        self.assertIn("Tokyo", answer.content)
        self.assertNotIn("think>", answer.content)

    def test_a_tool_call_and_its_result(self):
        messages = user("What is the weather in Paris?")
        first = chat(messages, tools=TOOLS).choices[0]
        self.assertEqual(first.finish_reason, "tool_calls")
        call = first.message.tool_calls[0]
        self.assertEqual(call.function.name, "get_weather")
        self.assertEqual(json.loads(call.function.arguments)["location"], "Paris")
        messages += [first.message, {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 18}'}]
        second = chat(messages, tools=TOOLS)
        self.assertEqual(second.choices[0].finish_reason, "stop")
        self.assertTrue(second.choices[0].message.content)
        plain = [messages[0], first.message.model_dump(exclude_none=True), messages[2]]
        ids = cluster.post("/tokenize", {"messages": plain, "tools": TOOLS})["tokens"]
        self.assertEqual(second.usage.prompt_tokens, len(ids))

    def test_a_streamed_tool_call_is_put_together_by_the_package(self):
        with client.chat.completions.stream(model="tiny-dsv32", messages=user("What is the weather in Paris?"),
                                            tools=TOOLS, temperature=0) as stream:
            call = stream.get_final_completion().choices[0].message.tool_calls[0]
        self.assertEqual(json.loads(call.function.arguments)["location"], "Paris")

    def test_completions_of_strings_and_ids(self):
        prompts = [GOLDEN["story"]["prompt_ids"], GOLDEN["prose"]["prompt_ids"]]
        both = client.completions.create(model="tiny-dsv32", prompt=prompts, max_tokens=12, temperature=0)
        self.assertEqual([c.index for c in both.choices], [0, 1])
        for prompt, choice in zip(prompts, both.choices):
            one = client.completions.create(model="tiny-dsv32", prompt=prompt, max_tokens=12, temperature=0)
            self.assertEqual(choice.text, one.choices[0].text)
        text = client.completions.create(model="tiny-dsv32", prompt=GOLDEN["story"]["text"], max_tokens=12, temperature=0)
        self.assertEqual(text.choices[0].text, both.choices[0].text)

    def test_logprobs_of_prompt_and_answer(self):
        answer = client.completions.create(model="tiny-dsv32", prompt="It was a cold morning", max_tokens=1,
                                           temperature=0, logprobs=1, echo=True).choices[0]
        self.assertTrue(answer.text.startswith("It was a cold morning"))
        logprobs = answer.logprobs
        self.assertIsNone(logprobs.token_logprobs[0])
        self.assertTrue(all(p <= 0 for p in logprobs.token_logprobs[1:]))
        self.assertEqual("".join(logprobs.tokens[-len(logprobs.tokens):])[-len(answer.text):], answer.text)

    def test_max_tokens_is_exact(self):  # T-E6
        for limit in (1, 2, 5):
            answer = client.completions.create(model="tiny-dsv32", prompt="It was a cold", max_tokens=limit, temperature=0)
            self.assertEqual(answer.usage.completion_tokens, limit)
            self.assertEqual(answer.choices[0].finish_reason, "length")

    def test_errors_have_their_class_and_name_the_field(self):
        cases = [(dict(model="other"), openai.NotFoundError, "model"), (dict(n=2), openai.BadRequestError, "n"),
                 (dict(max_tokens=0), openai.BadRequestError, "max_tokens"),
                 (dict(max_tokens=-3), openai.BadRequestError, "max_tokens"),
                 (dict(temperature=-1), openai.BadRequestError, "temperature"),
                 (dict(messages=[]), openai.BadRequestError, "messages"),
                 (dict(messages=[{"role": "tool", "content": "x", "tool_call_id": "a"}]), openai.BadRequestError,
                  "messages"),
                 (dict(messages=user("x " * 40000)), openai.BadRequestError, "context")]
        for change, kind, field in cases:
            with self.subTest(field=field, change=str(change)[:60]):
                with self.assertRaises(kind) as caught:
                    client.chat.completions.create(**{"model": "tiny-dsv32", "messages": user("hi"), **change})
                self.assertIn(field, str(caught.exception.body))


class Grpc(unittest.TestCase):
    def setUp(self):
        self.client = GrpcClient(cluster.grpc)

    def test_reflection_and_health(self):
        self.assertIn("baleen.v1.Inference", self.client.services())
        self.assertIn("grpc.health.v1.Health", self.client.services())

    def test_generate_and_chat_equal_http(self):
        ids = self.client.generate_ids(GOLDEN["story"]["prompt_ids"], max_new_tokens=96, temperature=0)
        self.assertEqual(ids, GOLDEN["story"]["greedy_ids"][:-1])
        body = {"messages": user("What is the capital of Japan?"), "temperature": 0}
        text = ""
        for response in self.client.call("Chat", body_json=json.dumps(body)):
            part = response.delta if response.WhichOneof("event") == "delta" else response.finish.last
            text += part.content
        self.assertEqual(text, chat(user("What is the capital of Japan?")).choices[0].message.content)

    def test_bad_requests_have_a_code_and_a_message(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.call("Generate", token_ids={"ids": [99999]})
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.call("Generate", model="other", text="x")
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)


class Tokenize(unittest.TestCase):
    def test_prompts_and_chats_give_the_golden_ids(self):
        story = cluster.post("/tokenize", {"prompt": GOLDEN["story"]["text"]})
        self.assertEqual(story["tokens"], GOLDEN["story"]["prompt_ids"])
        talk = cluster.post("/tokenize", {"messages": user("Tell me a story about a fox named Pip.")})
        self.assertEqual(talk["tokens"], GOLDEN["story"]["prompt_ids"])
        thinking = cluster.post("/tokenize", {"messages": user("What is the capital of Japan?"),
                                              "chat_template_kwargs": {"thinking": True}})
        self.assertEqual(thinking["tokens"], GOLDEN["capital"]["prompt_ids"])

    def test_bad_input_names_the_field(self):
        status, error = status_of(lambda: cluster.post("/tokenize", {"messages": [{"role": "pirate", "content": "x"}]}))
        self.assertEqual(status, 400)
        self.assertIn("role", error["message"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
