#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baleen::model {

// Element types a safetensors header may name; which of them a tensor may have is the weight
// table's business.
enum class FileDType : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kU16,
  kI16,
  kF16,
  kBf16,
  kU32,
  kI32,
  kF32,
  kU64,
  kI64,
  kF64
};
size_t FileDTypeBytes(FileDType dtype);
absl::string_view FileDTypeName(FileDType dtype);  // as in the header: "F8_E4M3"

// One tensor of a file: row-major, little-endian, bytes [begin, end) of the file. No alignment is
// promised.
struct TensorEntry {
  std::string name;
  FileDType dtype = FileDType::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// Reads the header of a whole file's bytes (8 bytes of length, JSON, data; section 2.1 of
// docs/model.md) and checks that every tensor lies inside the file, has exactly the bytes of its
// shape and dtype, and shares none with another. The result is in the order of the file.
// InvalidArgument names `file`, tensor and field.
absl::StatusOr<std::vector<TensorEntry>> ParseSafetensorsHeader(std::span<const std::byte> bytes,
                                                                absl::string_view file);

// Asks the kernel to read these bytes of a mapped file soon, and returns at once. A hint.
void WillNeed(std::span<const std::byte> bytes);

// A file mapped read-only. Threads: immutable after Open, any thread.
class SafetensorsFile {
 public:
  // NotFound when the file cannot be opened; InvalidArgument as ParseSafetensorsHeader.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;
  ~SafetensorsFile();

  const std::string& path() const { return path_; }
  const std::vector<TensorEntry>& tensors() const { return tensors_; }
  const TensorEntry* Find(absl::string_view name) const;  // nullptr: not here
  const std::byte* Data(const TensorEntry& tensor) const { return bytes_.data() + tensor.begin; }

 private:
  SafetensorsFile() = default;

  std::string path_;
  std::span<const std::byte> bytes_;  // the mapping
  std::vector<TensorEntry> tensors_;
  absl::flat_hash_map<std::string, size_t> by_name_;
};

}  // namespace baleen::model
