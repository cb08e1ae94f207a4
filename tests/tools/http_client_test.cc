#include "tools/http_client.h"

#include <gtest/gtest.h>

#include "testing/status_matchers.h"
#include "tools/fake_router.h"

namespace baleen::tools {
namespace {

using baleen::testing::FakeRouter;
using baleen::testing::StatusIs;
using ::testing::HasSubstr;

HttpClient ClientOf(const FakeRouter& router) { return HttpClient(*ParseHttpUrl(router.url())); }

TEST(ParseHttpUrl, TakesHostAndPortAndRefusesTheRest) {
  const auto url = ParseHttpUrl("http://node-1:8000/");
  BALEEN_ASSERT_OK(url);
  EXPECT_EQ(url->host, "node-1");
  EXPECT_EQ(url->port, "8000");
  for (const char* bad : {"", "node-1:8000", "https://node-1", "http://", "http://a/b"})
    EXPECT_THAT(ParseHttpUrl(bad), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("")))
        << bad;
}

TEST(HttpClient, GetsAndPosts) {
  FakeRouter router({FakeRouter::Reply(200, "one"), FakeRouter::Reply(404, "two")});
  const HttpClient client = ClientOf(router);
  const auto got = client.Get("/workers");
  BALEEN_ASSERT_OK(got);
  EXPECT_EQ(got->body, "one");
  const auto posted = client.Post("/flush_cache", "{}");
  BALEEN_ASSERT_OK(posted);
  EXPECT_EQ(posted->status, 404);
  EXPECT_THAT(router.requests()[0], HasSubstr("GET /workers"));
  EXPECT_THAT(router.requests()[1], HasSubstr("POST /flush_cache {}"));
}

TEST(HttpClient, StreamsPieceByPieceAndStopsWhenTheReaderDoes) {
  FakeRouter router({FakeRouter::Stream({"data: a\n\n", "data: b\n\n"})});
  std::string seen;
  const auto done =
      ClientOf(router).PostStreaming("/v1/completions", "{}", [&](absl::string_view piece) {
        seen.append(piece.data(), piece.size());
        return absl::OkStatus();
      });
  BALEEN_ASSERT_OK(done);
  EXPECT_EQ(seen, "data: a\n\ndata: b\n\n");

  FakeRouter again({FakeRouter::Stream({"data: a\n\n", "data: b\n\n"})});
  EXPECT_THAT(ClientOf(again).PostStreaming(
                  "/", "{}", [](absl::string_view) { return absl::DataLossError("enough"); }),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("enough")));
}

TEST(HttpClient, NobodyListeningNamesTheAddress) {
  EXPECT_THAT(HttpClient({"127.0.0.1", "1"}).Get("/"),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("127.0.0.1")));
}

TEST(ToStatus, TakesTheRoutersMessage) {
  BALEEN_EXPECT_OK(ToStatus({200, ""}));
  EXPECT_THAT(std::string(ToStatus({400, R"({"error":{"message":"n: 2"}})"}).message()),
              HasSubstr("n: 2"));
  EXPECT_THAT(std::string(ToStatus({502, "gone"}).message()), HasSubstr("gone"));
}

}  // namespace
}  // namespace baleen::tools
