// The rules of CONTRIBUTING.md that a machine can see.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Modules = std::set<std::string>;

// Module -> modules whose headers it may include. Order: from the base upward.
const std::map<std::string, Modules> kAllowed = {
    {"common", {"common"}},
    {"kernels", {"kernels", "common"}},
    {"model/tokenizer", {"model/tokenizer", "common"}},
    {"model", {"model", "kernels", "common"}},
    {"engine", {"engine", "model", "kernels", "common"}},
    {"kv_transfer", {"kv_transfer", "common"}},
    {"router/chat", {"router/chat", "common"}},
    {"router", {"router", "router/chat", "model/tokenizer", "proto", "common"}},
    {"worker",
     {"worker", "engine", "model", "model/tokenizer", "kernels", "kv_transfer", "proto", "common"}},
    {"prefill_worker",
     {"prefill_worker", "worker", "engine", "model", "kernels", "kv_transfer", "proto", "common"}},
    {"decode_worker",
     {"decode_worker", "worker", "engine", "model", "kernels", "kv_transfer", "proto", "common"}},
    {"tools",
     {"tools", "engine", "model", "model/tokenizer", "kernels", "router/chat", "proto", "common"}},
};

const fs::path kRoot = BALEEN_SOURCE_DIR;

std::string ModuleOf(const std::string& path) {
  for (const char* nested : {"model/tokenizer", "router/chat"})
    if (path.rfind(std::string(nested) + "/", 0) == 0) return nested;
  return path.substr(0, path.find('/'));
}

bool IsSource(const fs::path& file) {
  static const std::set<std::string> kExtensions = {".h", ".cc", ".cu", ".cuh"};
  return kExtensions.count(file.extension().string()) > 0;
}

std::vector<std::string> SourcesUnder(const std::string& folder) {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder))
    if (entry.is_regular_file() && IsSource(entry.path()))
      files.push_back(fs::relative(entry.path(), kRoot).string());
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> AllSources() {
  std::set<std::string> folders;
  for (const auto& [module, allowed] : kAllowed) folders.insert(module.substr(0, module.find('/')));
  std::vector<std::string> files;
  for (const std::string& folder : folders)
    for (std::string& file : SourcesUnder(folder)) files.push_back(std::move(file));
  return files;
}

std::string Read(const std::string& file) {
  std::ifstream in(kRoot / file);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<std::string> Matches(const std::string& text, const std::regex& pattern) {
  std::vector<std::string> found;
  for (std::sregex_iterator it(text.begin(), text.end(), pattern), end; it != end; ++it)
    found.push_back((*it)[1]);
  return found;
}

TEST(SourceTree, IncludesPointDownward) {
  static const std::regex kInclude("#include \"([^\"]+)\"");
  for (const std::string& file : AllSources()) {
    const Modules& allowed = kAllowed.at(ModuleOf(file));
    for (const std::string& included : Matches(Read(file), kInclude)) {
      const std::string module = ModuleOf(included);
      if (kAllowed.count(module) == 0 && module != "proto") continue;  // a library's header
      EXPECT_TRUE(allowed.count(module) > 0) << file << " includes " << included;
    }
  }
}

// Which files may see a library that must stay in its place.
TEST(SourceTree, LibrariesStayInTheirPlace) {
  const std::vector<std::pair<std::regex, std::regex>> rules = {
      {std::regex("#include [<\"](ucp/|ucs/|uct/)"), std::regex("kv_transfer/ucx/.*")},
      {std::regex("#include [<\"](cuda|cublas|nccl)"), std::regex("kernels/cuda/.*")},
      {std::regex("#include [<\"](proto/[a-z]+(\\.grpc)?\\.pb\\.h)"),
       std::regex(".*_(service|clients?|proto)\\.(cc|h)|.*/(server|main)\\.cc|"
                  "worker/(member|model_host|process_config)\\.cc|router/(api|http)/.*\\.cc")},
      {std::regex("(getenv)\\("), std::regex("common/log\\.cc|kernels/cuda/cuda_backend\\.cc")},
  };
  for (const std::string& file : AllSources()) {
    const std::string text = Read(file);
    for (const auto& [library, places] : rules)
      EXPECT_TRUE(!std::regex_search(text, library) || std::regex_match(file, places))
          << file << " must not use what "
          << "its place forbids";
  }
}

// Generated headers are slow to compile and must not leak: only a header of conversions includes
// one.
TEST(SourceTree, GeneratedMessagesStayOutOfHeaders) {
  static const std::regex kGenerated("#include \"(proto/[^\"]+)\"");
  static const std::regex kMayInclude(".*_proto\\.h");
  for (const std::string& file : AllSources()) {
    if (fs::path(file).extension() != ".h" || std::regex_match(file, kMayInclude)) continue;
    EXPECT_TRUE(Matches(Read(file), kGenerated).empty()) << file << " includes a generated header";
  }
}

// `for (x : Snapshot()->list)` walks memory that nothing owns: until C++23 the shared_ptr that
// Snapshot() returned dies before the first round.
TEST(SourceTree, LoopsOwnWhatTheyWalk) {
  static const std::regex kLoop("(for \\([^;{}()]* : [^;{}()]*\\([^()]*\\)->)");
  ASSERT_TRUE(std::regex_search("for (const A& a : b.View()->list) {", kLoop));
  for (const std::string& file : AllSources())
    for (const std::string& loop : Matches(Read(file), kLoop))
      ADD_FAILURE() << file << " walks what a temporary pointer holds: " << loop;
}

TEST(SourceTree, EveryModuleSaysWhatItIs) {
  for (const auto& [module, allowed] : kAllowed) {
    std::ifstream readme(kRoot / module / "README.md");
    ASSERT_TRUE(readme) << module << " has no README.md";
    const auto lines = std::count(std::istreambuf_iterator<char>(readme), {}, '\n');
    EXPECT_LE(lines, 40) << module << "/README.md";
  }
}

// tests/ mirrors the sources: what is long enough to be wrong has a test of its name, or of the
// name its family shares (group_test for group_client.cc and group_service.cc).
bool HasTest(const std::set<std::string>& tests, const std::string& stem) {
  return std::any_of(tests.begin(), tests.end(), [&](const std::string& test) {
    const size_t end = test.rfind("_test");
    return end != std::string::npos && (stem + "_").rfind(test.substr(0, end) + "_", 0) == 0;
  });
}

TEST(SourceTree, LongSourcesHaveATestOfTheirName) {
  std::set<std::string> tests;
  for (const auto& entry : fs::recursive_directory_iterator(kRoot / "tests"))
    tests.insert(entry.path().stem().string());
  for (const std::string& file : AllSources()) {
    const std::string text = Read(file);
    const std::string stem = fs::path(file).stem().string();
    if (fs::path(file).extension() != ".cc" || stem == "main" || stem == "server") continue;
    if (std::count(text.begin(), text.end(), '\n') <= 80) continue;
    EXPECT_TRUE(HasTest(tests, stem)) << file << " has no " << stem << "_test.cc";
  }
}

}  // namespace
