#include "router/chat/stop_strings.h"

#include <deque>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace baleen::chat {

absl::StatusOr<std::shared_ptr<const StopStrings>> StopStrings::Create(
    std::span<const std::string> strings) {
  size_t bytes = 0;
  std::shared_ptr<StopStrings> stop(new StopStrings);
  for (const std::string& text : strings) {
    if (text.empty()) return absl::InvalidArgumentError("stop: must not contain an empty string");
    bytes += text.size();
    for (const char byte : text) {
      uint16_t& byte_class = stop->class_of_[static_cast<uint8_t>(byte)];
      if (byte_class == 0) byte_class = static_cast<uint16_t>(stop->classes_++);
    }
  }
  if (bytes > kMaxTotalBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop: over ", kMaxTotalBytes, " bytes in total"));
  }
  stop->next_.assign(stop->classes_, -1);
  stop->depth_ = {0};
  stop->match_ = {-1};
  for (size_t i = 0; i < strings.size(); ++i) stop->AddString(strings[i], static_cast<int>(i));
  stop->LinkFailures();
  return std::shared_ptr<const StopStrings>(std::move(stop));
}

void StopStrings::AddString(const std::string& text, int index) {
  Node node = kRoot;
  for (const char byte : text) {
    const size_t edge = size_t(node) * classes_ + class_of_[static_cast<uint8_t>(byte)];
    if (next_[edge] < 0) {
      next_[edge] = static_cast<Node>(depth_.size());
      depth_.push_back(depth_[node] + 1);
      match_.push_back(-1);
      next_.resize(next_.size() + classes_, -1);
    }
    node = next_[edge];
  }
  if (match_[node] < 0) match_[node] = index;
  length_.push_back(static_cast<int32_t>(text.size()));
}

// Breadth first, so that a node's failure (its longest proper suffix that is a node) is complete
// before the node's own missing edges are taken from it.
void StopStrings::LinkFailures() {
  std::vector<Node> failure(depth_.size(), kRoot);
  std::deque<Node> queue = {kRoot};
  while (!queue.empty()) {
    const Node node = queue.front();
    queue.pop_front();
    if (match_[node] < 0) match_[node] = match_[failure[node]];
    for (size_t c = 0; c < classes_; ++c) {
      Node& child = next_[size_t(node) * classes_ + c];
      const Node fallback = node == kRoot ? kRoot : next_[size_t(failure[node]) * classes_ + c];
      if (child < 0) {
        child = fallback;
      } else {
        failure[child] = fallback;
        queue.push_back(child);
      }
    }
  }
}

StopMatcher::StopMatcher(std::shared_ptr<const StopStrings> strings, bool include_stop)
    : strings_(std::move(strings)), include_stop_(include_stop) {}

std::string StopMatcher::Push(absl::string_view text) {
  if (stopped()) return "";
  for (size_t i = 0; i < text.size(); ++i) {
    node_ = strings_->Next(node_, text[i]);
    const int32_t match = strings_->match_[node_];
    if (match < 0) continue;
    stopped_by_ = match;
    std::string out = std::exchange(held_, "");
    absl::StrAppend(&out, text.substr(0, i + 1));
    if (!include_stop_) out.resize(out.size() - size_t(strings_->length_[match]));
    return out;
  }
  absl::StrAppend(&held_, text);
  const size_t certain = held_.size() - size_t(strings_->depth_[node_]);
  std::string out = held_.substr(0, certain);
  held_.erase(0, certain);
  return out;
}

std::string StopMatcher::Finish() { return std::exchange(held_, ""); }

}  // namespace baleen::chat
