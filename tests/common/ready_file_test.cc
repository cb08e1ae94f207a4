#include "common/ready_file.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "testing/status_matchers.h"

namespace baleen {
namespace {

using baleen::testing::IsOk;
using baleen::testing::StatusIs;
using ::testing::HasSubstr;

TEST(ReadyFile, NamesThePortsAndTheProcess) {
  const std::string path = ::testing::TempDir() + "/ready_file_test";
  ASSERT_THAT(WriteReadyFile(path, {{"http_port", 8000}, {"grpc_port", 9000}}), IsOk());
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_EQ(text.str(), "http_port=8000\ngrpc_port=9000\npid=" + std::to_string(getpid()) + "\n");
  EXPECT_FALSE(std::filesystem::exists(path + ".tmp"));
}

TEST(ReadyFile, AFolderThatIsNotThereIsNamed) {
  EXPECT_THAT(WriteReadyFile("/nowhere/router.ready", {}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("/nowhere/router.ready")));
  EXPECT_THAT(WriteReadyFile("", {}), IsOk());
}

}  // namespace
}  // namespace baleen
