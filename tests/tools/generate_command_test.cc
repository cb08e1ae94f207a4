#include "tools/generate_command.h"

#include <iostream>
#include <sstream>

#include "gmock/gmock.h"
#include "testing/status_matchers.h"
#include "tools/fake_router.h"

namespace baleen::tools {
namespace {

using ::baleen::testing::FakeRouter;
using ::baleen::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Runs the command with stdout and stderr caught.
struct Outcome {
  explicit Outcome(std::vector<std::string> args) {
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    status = RunGenerate(args);
    out = ::testing::internal::GetCapturedStdout();
    err = ::testing::internal::GetCapturedStderr();
  }
  int status;
  std::string out, err;
};

TEST(Generate, PrintsAChatAnswerPieceByPiece) {
  FakeRouter router({FakeRouter::Stream(
      {"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"Once \"}}]}\n\nda",
       "ta: {\"choices\":[{\"delta\":{\"content\":\"upon\\n\"}}]}\n\n",
       "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"})});
  const Outcome run({"--url", router.url(), "--chat", "Hi \"you\"", "--max-tokens", "20",
                     "--temperature", "0.5", "--seed", "7", "--thinking"});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(run.out, "Once upon\n\n");
  EXPECT_THAT(router.requests(),
              ElementsAre("POST /v1/chat/completions "
                          R"({"stream":true,"messages":[{"role":"user","content":"Hi \"you\""}],)"
                          R"("chat_template_kwargs":{"thinking":true},"max_tokens":20,)"
                          R"("temperature":0.5,"seed":7})"));
}

TEST(Generate, PrintsAPlainCompletion) {
  FakeRouter router({FakeRouter::Stream(
      {"data: {\"choices\":[{\"text\":\"stood\"}]}\n\ndata: {\"choices\":[],\"usage\":{}}\n\n",
       "data: [DONE]\n\n"})});
  const Outcome run({"--prompt", "the old house", "--url", router.url()});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(run.out, "stood\n");
  EXPECT_THAT(router.requests(),
              ElementsAre(R"(POST /v1/completions {"stream":true,"prompt":"the old house"})"));
}

TEST(Generate, AnErrorReplyGoesToStderr) {
  FakeRouter router({FakeRouter::Reply(400, R"({"error":{"message":"max_tokens: no"}})")});
  const Outcome run({"--url", router.url(), "--chat", "x"});
  EXPECT_EQ(run.status, 1);
  EXPECT_EQ(run.out, "");
  EXPECT_EQ(run.err, "baleenctl generate: HTTP 400: max_tokens: no\n");
}

TEST(Generate, AnErrorInMidStreamIsAFailure) {
  FakeRouter router({FakeRouter::Stream({"data: {\"choices\":[{\"text\":\"a\"}]}\n\n",
                                         "data: {\"error\":{\"message\":\"worker lost\"}}\n\n"})});
  const Outcome run({"--url", router.url(), "--prompt", "x"});
  EXPECT_EQ(run.status, 1);
  EXPECT_EQ(run.out, "a");
  EXPECT_THAT(run.err, HasSubstr("worker lost"));
}

TEST(Generate, AStreamWithoutItsEndIsAFailure) {
  const std::string event = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n";
  for (const bool whole : {true, false}) {
    FakeRouter router({FakeRouter::Stream({event}, whole)});
    const Outcome run({"--url", router.url(), "--prompt", "x"});
    EXPECT_EQ(run.status, 1) << whole;
    EXPECT_NE(run.err, "") << whole;
  }
}

TEST(Generate, NobodyListensIsAFailure) {
  // The server is gone after its one request, and its port with it.
  std::string url;
  {
    FakeRouter router({FakeRouter::Reply(200, "")});
    url = router.url();
    Outcome({"--url", url, "--prompt", "x"});
  }
  const Outcome run({"--url", url, "--prompt", "x"});
  EXPECT_EQ(run.status, 1);
  EXPECT_THAT(run.err, HasSubstr("Connection refused"));
}

TEST(Generate, WrongArgumentsAreRefused) {
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"--chat"},
      {"--chat", "a", "--prompt", "b"},
      {"--prompt", "b", "--thinking"},
      {"--chat", "a", "word"},
      {"--chat", "a", "--chat", "b"},
      {"--chat", "a", "--max-tokens", "many"},
      {"--chat", "a", "--colour", "red"},
      {"--chat", "a", "--url", "https://127.0.0.1"},
      {"--chat", "a", "--url", "127.0.0.1:8000"},
  };
  for (const auto& args : wrong) {
    const Outcome run(args);
    EXPECT_EQ(run.status, 2) << ::testing::PrintToString(args);
    EXPECT_THAT(run.err, HasSubstr("usage: "));
  }
}

TEST(StreamPrinter, ReasoningStandsBeforeTheAnswer) {
  std::ostringstream out;
  StreamPrinter printer(out);
  BALEEN_EXPECT_OK(
      printer.Feed("data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"2+2\"}}]}\n"
                   "\ndata: {\"choices\":[{\"delta\":{\"reasoning_content\":\"=4\","
                   "\"content\":null}}]}\n\n"));
  EXPECT_EQ(out.str(), "<think>2+2=4");
  BALEEN_EXPECT_OK(
      printer.Feed("data: {\"choices\":[{\"delta\":{\"content\":\"4\"}}]}\n\ndata: [DONE]\n\n"));
  BALEEN_EXPECT_OK(printer.Finish());
  EXPECT_EQ(out.str(), "<think>2+2=4</think>\n4\n");
}

TEST(StreamPrinter, BytesOneByOneGiveTheSame) {
  std::ostringstream out;
  StreamPrinter printer(out);
  const std::string stream =
      ": a comment\n\ndata: {\"choices\":[{\"text\":\"caf\u00e9\"}]}\r\n\r\ndata: [DONE]\n\n";
  for (const char c : stream) BALEEN_EXPECT_OK(printer.Feed(absl::string_view(&c, 1)));
  BALEEN_EXPECT_OK(printer.Finish());
  EXPECT_EQ(out.str(), "caf\u00e9\n");
}

TEST(StreamPrinter, WhatIsNotJsonIsAnError) {
  std::ostringstream out;
  StreamPrinter printer(out);
  EXPECT_THAT(printer.Feed("data: {oops\n\n"), StatusIs(absl::StatusCode::kDataLoss, ::testing::_));
}

}  // namespace
}  // namespace baleen::tools
