#include "router/api/prompt_fields.h"

#include "gmock/gmock.h"
#include "proto/sampling.pb.h"
#include "router/api/api_error.h"
#include "router/api/tiny_model.h"
#include "testing/status_matchers.h"

namespace baleen::router {
namespace {

using baleen::testing::IsOk;
using baleen::testing::StatusIs;
using ::testing::HasSubstr;

TEST(PromptFields, ARawPromptBeginsWithOneBeginOfSentence) {
  const auto plain = EncodePrompt(TinyModel(), "Hello");
  ASSERT_THAT(plain, IsOk());
  EXPECT_EQ((**plain)[0], TinyModel().bos);
  const auto marked = EncodePrompt(TinyModel(), "<｜begin▁of▁sentence｜>Hello");
  ASSERT_THAT(marked, IsOk());
  EXPECT_EQ(**marked, **plain);
  const auto bare = EncodePrompt(TinyModel(), "Hello", /*add_bos=*/false);
  EXPECT_EQ((*bare)->size() + 1, (*plain)->size());
  EXPECT_EQ((*EncodePrompt(TinyModel(), ""))->size(), 1u);
}

TEST(PromptFields, AllFourFormsOfAPrompt) {
  const std::pair<const char*, size_t> cases[] = {
      {R"("one")", 1}, {R"(["one","two"])", 2}, {"[5,6,7]", 1}, {"[[5,6],[7]]", 2}};
  for (const auto& [prompt, count] : cases) {
    ClientRequest request;
    EXPECT_THAT(ReadPrompts(TinyModel(), Json::parse(prompt), "prompt", true, &request), IsOk());
    EXPECT_EQ(request.prompts.size(), count) << prompt;
  }
  ClientRequest ids;
  ASSERT_THAT(ReadPrompts(TinyModel(), Json::parse("[5,6]"), "prompt", true, &ids), IsOk());
  EXPECT_EQ(*ids.prompts[0], (std::vector<uint32_t>{5, 6}));  // as they are
}

TEST(PromptFields, BadPromptsAreRefused) {
  for (const char* prompt : {"5", "{}", "[]", "[[]]", R"(["a",5])", R"([5,"a"])", "[-1]", "[4096]",
                             "[1.5]", "[[5],[99999]]", "true", "[[5],\"a\"]"}) {
    ClientRequest request;
    const absl::Status status =
        ReadPrompts(TinyModel(), Json::parse(prompt), "prompt", true, &request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << prompt;
    EXPECT_EQ(ParamOf(status), "prompt") << prompt;
  }
}

// The real checkpoint's head has more rows than its tokenizer has tokens.
TEST(PromptFields, AnIdWithARowButNoTokenIsRefused) {
  auto model = ModelInfo::Load(BALEEN_SOURCE_DIR "/models/tiny-dsv32", "tiny");
  ASSERT_THAT(model, IsOk());
  model->vocab_size = 8192;
  ClientRequest request;
  EXPECT_THAT(ReadPrompts(*model, Json::parse("[5,4096]"), "prompt", true, &request),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("4096 is not a token id")));
}

TEST(PromptFields, TheModelsNameIsChecked) {
  EXPECT_THAT(CheckModel(TinyModel(), std::nullopt), IsOk());
  EXPECT_THAT(CheckModel(TinyModel(), "tiny"), IsOk());
  EXPECT_THAT(CheckModel(TinyModel(), "gpt"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("gpt")));
}

GroupView GroupWithPool(WorkerRole role, int64_t pool_tokens) {
  auto identity = std::make_shared<GroupIdentity>();
  identity->role = role;
  identity->max_context = 1000;
  identity->pool_tokens = pool_tokens;
  return {.identity = identity};
}

ClusterView ViewWithPool(int64_t decode_tokens, int64_t prefill_tokens = 4096) {
  ClusterView view;
  view.decode.push_back(GroupWithPool(WorkerRole::kDecode, decode_tokens));
  view.prefill.push_back(GroupWithPool(WorkerRole::kPrefill, prefill_tokens));
  return view;
}

TEST(PromptFields, TheBudgetIsWhatStillFits) {
  ClientRequest request;
  request.prompts.push_back(std::make_shared<std::vector<uint32_t>>(990, 5u));
  const auto one = [&](const ClusterView& view) {
    auto d = ToDispatchRequests(TinyModel(), view, request, {});
    return d.ok() ? d->at(0).max_new_tokens : -1;
  };
  EXPECT_EQ(one(ViewWithPool(4096)), 10);  // the rest of the context
  EXPECT_EQ(one(ClusterView()), TinyModel().max_context - 990);
  request.max_new_tokens = 3;
  EXPECT_EQ(one(ViewWithPool(4096)), 3);
  request.max_new_tokens = 50;
  EXPECT_EQ(one(ViewWithPool(4096)), 10);
  EXPECT_EQ(one(ViewWithPool(992)), 2);
  EXPECT_EQ(one(ViewWithPool(4096, 990)), 10);  // prefill holds the prompt alone
  EXPECT_EQ(one(ViewWithPool(4096, 989)), -1);
}

// A group that is not ready may never be: an answer that only it could hold would wait for it.
TEST(PromptFields, TheBudgetIsOfTheGroupsThatAreReady) {
  ClientRequest request;
  ClusterView view = ViewWithPool(600);
  view.decode.push_back(GroupWithPool(WorkerRole::kDecode, 500));
  view.decode.push_back(GroupWithPool(WorkerRole::kDecode, 300));
  const auto one = [&](size_t tokens, int wanted) {
    request.prompts.assign(1, std::make_shared<std::vector<uint32_t>>(tokens, 5u));
    request.max_new_tokens = wanted;
    auto d = ToDispatchRequests(TinyModel(), view, request, {});
    return d.ok() ? d->at(0).max_new_tokens : -1;
  };
  EXPECT_EQ(one(100, 0), 500);  // none is ready
  view.decode[1].state = view.decode[2].state = GroupState::kReady;
  EXPECT_EQ(one(100, 0), 400);
  EXPECT_EQ(one(500, 0), 100);  // waits for the largest
  EXPECT_EQ(one(100, 50), 50);
  EXPECT_EQ(one(100, 450), 450);  // what is asked for is given, if it can be
  EXPECT_EQ(one(100, 501), 400);  // no group can: as many as fit
  view.decode[0].state = GroupState::kReady;
  EXPECT_EQ(one(100, 0), 500);
}

TEST(PromptFields, APromptThatCanNeverFitIsRefused) {
  ClientRequest request;
  request.prompts.push_back(std::make_shared<std::vector<uint32_t>>(1000, 5u));
  EXPECT_THAT(ToDispatchRequests(TinyModel(), ViewWithPool(4096), request, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the context is 1000")));
  EXPECT_THAT(ToDispatchRequests(TinyModel(), ViewWithPool(640), request, {}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("decode workers' page pools hold 640")));
  request.prompt_field = "input_ids";
  request.prompts[0] = std::make_shared<std::vector<uint32_t>>(700, 5u);
  const auto refused = ToDispatchRequests(TinyModel(), ViewWithPool(4096, 640), request, {});
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kInvalidArgument,
                                HasSubstr("prefill workers' page pools hold 640")));
  EXPECT_EQ(ParamOf(refused.status()), "input_ids");
}

TEST(PromptFields, ATextThatCanNeverFitIsRefusedUnread) {
  const size_t bytes =
      TinyModel().tokenizer->max_token_bytes() * static_cast<size_t>(TinyModel().max_context);
  std::string text(bytes, '\xff');  // would be refused as no UTF-8 if it were read
  ClientRequest request;
  const absl::Status status = ReadPrompts(TinyModel(), text, "text", true, &request);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at least 16384")));
  EXPECT_EQ(ParamOf(status), "text");
  text.pop_back();
  EXPECT_THAT(ReadPrompts(TinyModel(), text, "text", true, &request),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("UTF-8")));
}

}  // namespace
}  // namespace baleen::router
