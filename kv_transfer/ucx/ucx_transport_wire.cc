#include "kv_transfer/ucx/ucx_transport_wire.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace baleen::kv_transfer {
namespace {

uint64_t Checksum(absl::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (char c : bytes) hash = (hash ^ uint8_t(c)) * 0x100000001b3;
  return hash;
}

absl::string_view AsBytes(const uint64_t& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

}  // namespace

std::string Seal(absl::string_view tag, uint64_t number, absl::string_view bytes) {
  const std::string body = absl::StrCat(AsBytes(number), bytes);
  const uint64_t sum = Checksum(body);
  return absl::StrCat(tag, AsBytes(sum), body);
}

absl::StatusOr<Sealed> Unseal(absl::string_view tag, absl::string_view sealed) {
  if (absl::StartsWith(sealed, tag) && sealed.size() >= tag.size() + 16) {
    uint64_t sum = 0;
    std::memcpy(&sum, sealed.data() + tag.size(), 8);
    const absl::string_view body = sealed.substr(tag.size() + 8);
    Sealed result = {.bytes = std::string(body.substr(8))};
    std::memcpy(&result.number, body.data(), 8);
    if (Checksum(body) == sum) return result;
  }
  return absl::InvalidArgumentError(absl::StrCat("not a UCX ", tag));
}

}  // namespace baleen::kv_transfer
