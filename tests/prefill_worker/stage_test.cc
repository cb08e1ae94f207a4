// Whole prefill groups over loopback: what arrives at decode equals one process's own pages, byte
// by byte.
#include "prefill_worker/stage.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "engine/memory_plan.h"
#include "kv_transfer/ucx/ucx_transport.h"
#include "prefill_worker/prefill_group.h"
#include "testing/loopback_transport.h"
#include "testing/status_matchers.h"

namespace baleen::prefill_worker {
namespace {

using namespace baleen::testing;

struct Shape {
  int stages, drafts, chunk;
  const char* wire = "loopback";  // or UCX transports: "shm", "tcp"
  friend std::ostream& operator<<(std::ostream& os, const Shape& s) {
    return os << s.stages << "stages" << s.drafts << "drafts" << s.chunk << "chunk_" << s.wire;
  }
};

class LogSink final : public PrefillSink {
 public:
  LogSink(EventLog& log, uint64_t id) : log_(log), id_(id) {}
  void Started(int cached) override { log_.Add(absl::StrCat("started ", id_, " ", cached)); }
  void HandedOff() override {}
  void Finished(absl::Status s) override {
    log_.Add(absl::StrCat("finished ", id_, " ", absl::StatusCodeToString(s.code())));
  }

 private:
  EventLog& log_;
  const uint64_t id_;
};

std::vector<int32_t> Prompt(int tokens, int salt = 0) {
  std::vector<int32_t> prompt(tokens);
  for (int i = 0; i < tokens; ++i) prompt[i] = 2 + (i * 31 + salt * 17) % 90;
  return prompt;
}

// What one process computes: its pages and hand-over.
struct Reference {
  Reference(const std::vector<int32_t>& prompt, int drafts)
      : host(FakeForward::Whole(drafts > 0), kPrefillPages),
        pages(engine::PrefillPages(int64_t(prompt.size()), drafts, kPrefillContext)) {
    engine::PrefillStep step(host.forward, {.shard = FakeForward::Whole(drafts > 0),
                                            .drafts = drafts,
                                            .max_rows = 8192,
                                            .max_head_rows = 4,
                                            .max_context = kPrefillContext,
                                            .vocabulary = FakeForward::Vocabulary()});
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = {int32_t(i)};
    const engine::PrefillChunk chunk{
        .tokens = prompt, .last = true, .pages = pages, .sampling = {.temperature = 0}};
    result = step.Run(std::span(&chunk, 1)).at(0);
  }
  const std::byte* page(int i) const {
    return host.memory.data() + size_t(i) * host.layout.PageBytes();
  }
  FakeHost host;
  std::vector<PageId> pages;
  engine::PrefillResult result;
};

class PrefillGroup : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    const auto [stages, drafts, chunk, wire_name] = GetParam();
    const Wire wire = [this, wire_name = std::string(wire_name)](const std::string& name) {
      if (wire_name == "loopback") return hub_.Create(name);
      auto ucx = kv_transfer::CreateUcxTransport({.name = name, .transports = wire_name});
      BALEEN_CHECK(ucx.ok());
      return *std::move(ucx);
    };
    decode_ = std::make_unique<ReceivingDecode>(wire, drafts);
    std::vector<worker::MemberInfo> members;
    for (int i = 0; i < stages; ++i)
      stages_.push_back(std::make_unique<PrefillStage>(wire, i, stages, drafts, chunk));
    for (const auto& stage : stages_) members.push_back(stage->member());
    for (const auto& stage : stages_) stage->Connect(members);
    start_ = leader().load().free_pages;
  }
  Leader& leader() { return stages_[0]->leader(); }

  void Submit(uint64_t id, const std::vector<int32_t>& prompt, bool prompt_logprobs = false) {
    v1::SamplingParams sampling;
    sampling.set_temperature(0);
    sampling.set_prompt_logprobs(prompt_logprobs);
    BALEEN_ASSERT_OK(leader().Submit({.attempt = {id},
                                      .prompt = prompt,
                                      .sampling = sampling.SerializeAsString(),
                                      .decode = ReceivingDecode::kIncarnation},
                                     std::make_shared<LogSink>(log_, id)));
  }
  std::vector<PageId> Grant(uint64_t id, int tokens) {
    std::vector<PageId> pages(size_t(PagesFor(tokens)));
    for (PageId& page : pages) page = {next_page_++};
    decode_->Grant({id}, stages_, pages);
    return pages;
  }
  void ExpectEqual(uint64_t id, const std::vector<int32_t>& prompt,
                   const std::vector<PageId>& pages) {
    const Reference want(prompt, GetParam().drafts);
    const size_t rows_of_last = (prompt.size() - 1) % kPageTokens + 1;
    const KvLayout layout = FakeForward::Layout(FakeForward::Whole(GetParam().drafts > 0));
    for (size_t i = 0; i < pages.size(); ++i) {
      const size_t rows = i + 1 == pages.size() ? rows_of_last : kPageTokens;
      for (int layer = 0; layer < layout.layers; ++layer) {
        const size_t at = size_t(layer) * layout.LayerBytes();
        const std::byte* got = decode_->page(pages[i].value) + at;
        ASSERT_EQ(std::memcmp(got, want.page(int(i)) + at, rows * layout.LatentRowBytes()), 0)
            << "page " << i << " layer " << layer;
        const size_t keys = layout.IndexKeysOffset();
        ASSERT_EQ(
            std::memcmp(got + keys, want.page(int(i)) + at + keys, rows * layout.IndexKeyBytes()),
            0)
            << "index keys of page " << i << " layer " << layer;
      }
    }
    const kv_transfer::HandoffRecord record = decode_->record(id);
    EXPECT_EQ(int32_t(record.first_token), want.result.first_token);
    EXPECT_EQ(record.position, prompt.size());
    EXPECT_EQ(record.prompt_hash, worker::PromptHash(prompt));
    EXPECT_EQ(std::vector<int32_t>(record.draft_tokens.begin(), record.draft_tokens.end()),
              want.result.drafts);
  }
  // Everything is back once the prefix cache is flushed.
  void ExpectQuiet() {
    leader().FlushCache();
    Submit(9999, Prompt(1));
    Grant(9999, 1);
    ASSERT_TRUE(decode_->log.WaitFor("ready 9999"));
    decode_->receiver().Release({9999});
    ASSERT_TRUE(log_.WaitFor("finished 9999 OK"));
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    leader().FlushCache();
    while (leader().load().free_pages != start_ && std::chrono::steady_clock::now() < deadline)
      std::this_thread::yield();
    EXPECT_EQ(leader().load().free_pages, start_);
    EXPECT_EQ(leader().load().running, 0);
  }

  kv_transfer::LoopbackHub hub_;
  EventLog log_;
  std::unique_ptr<ReceivingDecode> decode_;
  std::vector<std::unique_ptr<PrefillStage>> stages_;
  int next_page_ = 0;
  int start_ = 0;
};

TEST_P(PrefillGroup, PagesAndFirstTokenEqualThoseOfOneProcess) {
  uint64_t id = 1;
  for (int tokens : {1, 63, 64, 65, 127, 128, 129, 978, 4000}) {
    const auto prompt = Prompt(tokens, int(id));
    Submit(id, prompt);
    const auto pages = Grant(id, tokens);
    ASSERT_TRUE(decode_->log.WaitFor(absl::StrCat("ready ", id))) << tokens << " tokens";
    ExpectEqual(id, prompt, pages);
    decode_->receiver().Release({id});
    ASSERT_TRUE(log_.WaitFor(absl::StrCat("finished ", id, " OK"))) << tokens << " tokens";
    ++id;
  }
  double pieces = 0;
  for (const auto& stage : stages_) pieces += stage->pieces();
  EXPECT_EQ(pieces, double(next_page_) * GetParam().stages) << "one piece a page and stage";
  ExpectQuiet();
}

TEST_P(PrefillGroup, AGrantThatComesLateFindsThePagesWaiting) {
  const auto prompt = Prompt(500);
  Submit(1, prompt);
  Submit(2, Prompt(70, 5));
  Grant(2, 70);
  ASSERT_TRUE(decode_->log.WaitFor("ready 2"));
  const auto pages = Grant(1, 500);
  ASSERT_TRUE(decode_->log.WaitFor("ready 1"));
  ExpectEqual(1, prompt, pages);
  decode_->receiver().Release({1});
  decode_->receiver().Release({2});
  ASSERT_TRUE(log_.WaitFor("finished 1 OK"));
  ASSERT_TRUE(log_.WaitFor("finished 2 OK"));
  ExpectQuiet();
}

TEST_P(PrefillGroup, ACachedPrefixGivesTheSamePages) {
  auto first = Prompt(200);
  auto second = first;
  second.resize(150);
  second.push_back(7);
  Submit(1, first);
  Grant(1, 200);
  ASSERT_TRUE(decode_->log.WaitFor("ready 1"));
  decode_->receiver().Release({1});
  ASSERT_TRUE(log_.WaitFor("finished 1 OK"));
  Submit(2, second);
  const auto pages = Grant(2, 151);
  ASSERT_TRUE(decode_->log.WaitFor("ready 2"));
  EXPECT_TRUE(log_.WaitFor("started 2 128"));
  ExpectEqual(2, second, pages);
  decode_->receiver().Release({2});
  ASSERT_TRUE(log_.WaitFor("finished 2 OK"));
  ExpectQuiet();
}

// T-C8, T-D1: aborts at any moment, on a pipeline; the others finish right and every page returns.
TEST_P(PrefillGroup, RandomCancelsDisturbNobody) {
  std::mt19937 rng(20260);
  std::map<uint64_t, std::vector<int32_t>> prompts;
  std::map<uint64_t, std::vector<PageId>> pages;
  int alive = 0;
  for (uint64_t id = 1; id <= 24; ++id) {
    const int tokens = 1 + int(rng() % 200);
    prompts[id] = Prompt(tokens, int(id));
    const bool cancelled = id % 3 == 0;
    Submit(id, prompts[id]);
    if (!cancelled) {
      pages[id] = Grant(id, tokens);
      ++alive;
    }
    if (cancelled) leader().Cancel({id});
    if (id % 6 != 0) continue;
    for (const auto& [live, granted] : pages) {
      ASSERT_TRUE(decode_->log.WaitFor(absl::StrCat("ready ", live))) << "seed 20260";
      ExpectEqual(live, prompts[live], granted);
      decode_->receiver().Release({live});
    }
    pages.clear();
    next_page_ = 0;
  }
  for (uint64_t id = 1; id <= 24; ++id)
    ASSERT_TRUE(log_.WaitFor(absl::StrCat("finished ", id, id % 3 == 0 ? " CANCELLED" : " OK")))
        << id;
  EXPECT_EQ(alive, 16);
  ExpectQuiet();
}

// NaN logits of one prompt end that prompt with an error; its neighbours go on.
TEST_P(PrefillGroup, APromptWithNanLogitsFailsAlone) {
  stages_.back()->forward().poison_token = 95;
  auto bad = Prompt(100);
  bad.back() = 95;
  const auto good = Prompt(100, 3);
  Submit(1, bad);
  Submit(2, good);
  Grant(1, 100);
  const auto pages = Grant(2, 100);
  ASSERT_TRUE(decode_->log.WaitFor("ready 2"));
  ExpectEqual(2, good, pages);
  decode_->receiver().Release({2});
  EXPECT_TRUE(decode_->log.WaitFor("failed 1 INTERNAL"));
  EXPECT_TRUE(decode_->log.WaitFor("settled 1"));
  EXPECT_TRUE(log_.WaitFor("finished 1 INTERNAL"));
  ASSERT_TRUE(log_.WaitFor("finished 2 OK"));
  ExpectQuiet();
}

// A row in the middle is only looked at for its log-probabilities; by then a pipeline has the last
// chunk under way.
TEST_P(PrefillGroup, APromptWithoutALogprobIsNotHandedOff) {
  stages_.back()->forward().poison_token = 95;
  auto bad = Prompt(200);
  bad[9] = 95;
  Submit(1, bad, /*prompt_logprobs=*/true);
  Grant(1, 200);
  EXPECT_TRUE(decode_->log.WaitFor("failed 1 INTERNAL"));
  EXPECT_TRUE(decode_->log.WaitFor("settled 1"));
  EXPECT_TRUE(log_.WaitFor("finished 1 INTERNAL"));
  ExpectQuiet();
}

INSTANTIATE_TEST_SUITE_P(Shapes, PrefillGroup,
                         ::testing::Values(Shape{1, 0, 8192}, Shape{1, 3, 64}, Shape{2, 1, 64},
                                           Shape{3, 0, 128}, Shape{4, 3, 8192}, Shape{4, 1, 64},
                                           Shape{1, 1, 512, "shm"}, Shape{2, 3, 64, "shm"},
                                           Shape{4, 1, 8192, "shm"}, Shape{1, 1, 512, "tcp"},
                                           Shape{2, 3, 64, "tcp"}, Shape{4, 1, 8192, "tcp"}));

// A batch of 128 rows at most on the second of two stages, after which its loop must have ended.
void ExpectRefused(const BatchHeader& header, size_t activation_bytes, const std::string& why) {
  kv_transfer::LoopbackHub hub;
  const Wire wire = [&](const std::string& name) { return hub.Create(name); };
  PrefillStage stage(wire, /*index=*/1, /*size=*/2, /*drafts=*/0, /*chunk=*/128);
  const std::vector<std::byte> activations(activation_bytes);
  stage.Enqueue(header, activations);
  EXPECT_TRUE(stage.broken_log.WaitFor(why)) << why;
}

TEST(StageLoop, ABatchThatCannotBeBreaksTheGroupInsteadOfTheProcess) {
  constexpr size_t kRow = FakeForward::kDim * sizeof(float);
  const AttemptStart start{.attempt = {1}, .prompt = Prompt(100), .pages = {0, 1}};
  ExpectRefused({.number = 1, .entries = {{{2}, 0, 10}}}, 10 * kRow,
                "batch 1: rows 0 + 10 of attempt 2, which is not here");
  ExpectRefused({.number = 2, .starts = {start}, .entries = {{{1}, 64, 36}}}, 36 * kRow,
                "batch 2: rows 64 + 36 of attempt 1");
  ExpectRefused({.number = 3, .starts = {start}, .entries = {{{1}, 0, 100}}}, 5,
                absl::StrCat("batch 3: 5 bytes of activations, 100 rows need ", 100 * kRow));
  ExpectRefused({.number = 4, .starts = {start, start}}, 0,
                "attempt 1 begins with an id that is here already");
  AttemptStart other = start;
  other.pages = {0, kPrefillPages};
  ExpectRefused({.number = 5, .starts = {other}}, 0,
                "attempt 1 begins with a page outside the pool");
  other = {.attempt = {1}, .prompt = Prompt(200), .pages = {0, 1, 2, 3}};
  ExpectRefused({.number = 6, .starts = {other}, .entries = {{{1}, 0, 200}}}, 200 * kRow,
                "batch 6: 200 rows, this stage takes 128");
  BatchHeader many = {.number = 7};
  for (uint64_t id = 1; id <= kPrefillSequences + 1; ++id) {
    many.starts.push_back({.attempt = {id}, .prompt = Prompt(2), .pages = {0}});
    many.entries.push_back({{id}, 0, 1});
  }
  ExpectRefused(many, (kPrefillSequences + 1) * kRow,
                absl::StrCat("batch 7: ", kPrefillSequences + 1, " sequences, this stage takes ",
                             kPrefillSequences));
}

}  // namespace
}  // namespace baleen::prefill_worker
