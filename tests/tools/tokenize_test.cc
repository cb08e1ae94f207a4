#include "tools/tokenize.h"

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "testing/status_matchers.h"

namespace baleen::tools {
namespace {

using ::baleen::testing::StatusIs;
using ::testing::HasSubstr;

class TokenizeTest : public ::testing::Test {
 protected:
  static constexpr char kFile[] = BALEEN_SOURCE_DIR "/models/tiny-dsv32/tokenizer.json";

  void SetUp() override {
    auto loaded = tokenizer::Tokenizer::Load(kFile);
    BALEEN_ASSERT_OK(loaded);
    tokenizer_ = *std::move(loaded);
  }
  absl::Status Tokenize(const std::string& in) {
    std::istringstream stream(in);
    return TokenizeLines(*tokenizer_, stream, out_);
  }

  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;
  std::ostringstream out_;
};

TEST_F(TokenizeTest, WritesOneListALine) {
  BALEEN_EXPECT_OK(Tokenize("\"Hello, world!\"\n\"\"\n\"1\\n\\u0031\""));
  EXPECT_EQ(out_.str(), "[42, 405, 81, 14, 1302, 3]\n[]\n[19, 201, 19]\n");
}

TEST_F(TokenizeTest, NamesTheLineItCannotRead) {
  for (const char* bad : {"Hello", "[1]", "\"\\ud800\"", "\"open", "\"\xFF\""}) {
    EXPECT_THAT(Tokenize(std::string("\"a\"\n") + bad + "\n"),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line 2: ")))
        << bad;
  }
}

TEST_F(TokenizeTest, ArgumentsOtherThanATokenizerAreRefused) {
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{}, {"--tokenizer"}, {"--file", "x"}, {"--tokenizer", "a", "b"}}) {
    EXPECT_EQ(RunTokenize(args), 2);
  }
  EXPECT_EQ(RunTokenize(std::vector<std::string>{"--tokenizer", "/no/such/file"}), 1);
}

}  // namespace
}  // namespace baleen::tools
