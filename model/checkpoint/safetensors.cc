#include "model/checkpoint/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace baleen::model {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100u << 20;  // the reference reader's cap
constexpr size_t kMaxDimensions = 8;

struct DTypeInfo {
  FileDType dtype;
  const char* name;
  size_t bytes;
};
constexpr DTypeInfo kDTypes[] = {
    {FileDType::kBool, "BOOL", 1},      {FileDType::kU8, "U8", 1},
    {FileDType::kI8, "I8", 1},          {FileDType::kF8E4M3, "F8_E4M3", 1},
    {FileDType::kF8E5M2, "F8_E5M2", 1}, {FileDType::kU16, "U16", 2},
    {FileDType::kI16, "I16", 2},        {FileDType::kF16, "F16", 2},
    {FileDType::kBf16, "BF16", 2},      {FileDType::kU32, "U32", 4},
    {FileDType::kI32, "I32", 4},        {FileDType::kF32, "F32", 4},
    {FileDType::kU64, "U64", 8},        {FileDType::kI64, "I64", 8},
    {FileDType::kF64, "F64", 8},
};

// Builds the tensor list from JSON events, so that nothing nested deeper than the format allows is
// ever held and a name given twice is seen.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<TensorEntry> tensors;
  std::string error;  // empty: none so far

  bool start_object(size_t) override {
    if (depth_ == 2 || in_array_) return Fail("has an object where a value belongs");
    ++depth_;
    return true;
  }

  bool end_object() override {
    --depth_;
    if (depth_ == 1 && !metadata_) return FinishTensor();
    return true;
  }

  bool key(string_t& name) override {
    if (depth_ == 1) return StartTensor(name);
    if (metadata_) return true;
    field_ = name;
    if (name == "dtype" || name == "shape" || name == "data_offsets") return true;
    return Fail("is not a known field");
  }

  bool string(string_t& value) override {
    if (metadata_ && depth_ == 2) return true;
    if (depth_ != 2 || in_array_ || field_ != "dtype") return Fail("must not be a string");
    if (dtype_) return Fail("is given twice");
    for (const DTypeInfo& info : kDTypes) {
      if (value == info.name) dtype_ = info.dtype;
    }
    return dtype_.has_value() || Fail(absl::StrCat("is \"", value, "\", an unknown type"));
  }

  bool start_array(size_t) override {
    if (depth_ != 2 || metadata_ || in_array_ || field_ == "dtype") {
      return Fail("must not be a list");
    }
    if (Numbers().has_value()) return Fail("is given twice");
    Numbers().emplace();
    in_array_ = true;
    return true;
  }

  bool end_array() override {
    in_array_ = false;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) return Fail("must not be a number");
    if (Numbers()->size() == kMaxDimensions) return Fail("has too many numbers");
    Numbers()->push_back(value);
    return true;
  }

  bool null() override { return Fail("must not be null"); }
  bool boolean(bool) override { return Fail("must not be true or false"); }
  bool binary(binary_t&) override { return Fail("must not be binary"); }
  bool number_integer(number_integer_t) override { return Fail("must not be negative"); }
  bool number_float(number_float_t, const string_t&) override {
    return Fail("must be a whole number");
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    if (error.empty()) error = absl::StrCat("the header is no JSON, at byte ", position);
    return false;
  }

 private:
  bool Fail(absl::string_view what) {
    if (!error.empty()) return false;
    if (name_.empty() && depth_ < 2) {
      error = absl::StrCat("the header ", what);
    } else {
      error =
          absl::StrCat("tensor ", name_, ": ", field_.empty() ? "its entry" : field_, " ", what);
    }
    return false;
  }

  bool StartTensor(const std::string& name) {
    name_ = name;
    field_.clear();
    dtype_.reset();
    shape_.reset();
    offsets_.reset();
    metadata_ = name == "__metadata__";
    return names_.insert(name).second || Fail("is given twice");
  }

  bool FinishTensor() {
    field_.clear();
    if (!dtype_) return Fail("has no dtype");
    if (!shape_) return Fail("has no shape");
    if (!offsets_ || offsets_->size() != 2) return Fail("has no data_offsets of two numbers");
    TensorEntry tensor{.name = name_, .dtype = *dtype_};
    for (const uint64_t n : *shape_) {
      if (n > uint64_t(std::numeric_limits<int64_t>::max())) return Fail("has too large a shape");
      tensor.shape.push_back(static_cast<int64_t>(n));
    }
    tensor.begin = (*offsets_)[0];
    tensor.end = (*offsets_)[1];
    tensors.push_back(std::move(tensor));
    return true;
  }

  std::optional<std::vector<uint64_t>>& Numbers() { return field_ == "shape" ? shape_ : offsets_; }

  int depth_ = 0;
  bool in_array_ = false;
  bool metadata_ = false;
  std::string name_, field_;
  std::optional<FileDType> dtype_;
  std::optional<std::vector<uint64_t>> shape_, offsets_;
  absl::flat_hash_set<std::string> names_;
};

// Bytes of the tensor by shape and dtype; nullopt when they do not fit in 64 bits.
std::optional<uint64_t> BytesOf(const TensorEntry& tensor) {
  uint64_t bytes = FileDTypeBytes(tensor.dtype);
  for (const int64_t n : tensor.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(n), &bytes)) return std::nullopt;
  }
  return bytes;
}

// Turns offsets into the data into offsets into the file, after checking them.
absl::Status PlaceTensors(std::vector<TensorEntry>& tensors, uint64_t data_begin,
                          uint64_t data_bytes, absl::string_view file) {
  for (TensorEntry& t : tensors) {
    const auto fail = [&](auto... what) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": tensor ", t.name, ": data_offsets [",
                                                     t.begin, ", ", t.end, ") ", what...));
    };
    if (t.begin > t.end) return fail("are in the wrong order");
    if (t.end > data_bytes) {
      return fail("reach beyond the file's ", data_bytes, " bytes of data; is it truncated?");
    }
    const std::optional<uint64_t> bytes = BytesOf(t);
    if (!bytes || *bytes != t.end - t.begin) {
      return fail("do not hold the bytes of its shape and dtype");
    }
    t.begin += data_begin;
    t.end += data_begin;
  }
  std::sort(tensors.begin(), tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  for (size_t i = 1; i < tensors.size(); ++i) {
    if (tensors[i].begin < tensors[i - 1].end) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": tensor ", tensors[i].name,
                                                     ": data_offsets overlap those of tensor ",
                                                     tensors[i - 1].name));
    }
  }
  return absl::OkStatus();
}

}  // namespace

size_t FileDTypeBytes(FileDType dtype) { return kDTypes[static_cast<int>(dtype)].bytes; }

absl::string_view FileDTypeName(FileDType dtype) { return kDTypes[static_cast<int>(dtype)].name; }

absl::StatusOr<std::vector<TensorEntry>> ParseSafetensorsHeader(std::span<const std::byte> bytes,
                                                                absl::string_view file) {
  const auto fail = [&](auto... what) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", what...));
  };
  uint64_t length = 0;  // little-endian in the file, as all hosts we build for
  if (bytes.size() < sizeof(length)) {
    return fail("has ", bytes.size(), " bytes, too few for a safetensors file");
  }
  std::memcpy(&length, bytes.data(), sizeof(length));
  const uint64_t rest = bytes.size() - sizeof(length);
  if (length > kMaxHeaderBytes) return fail("header length ", length, " exceeds 100 MiB");
  if (length > rest) return fail("header length ", length, " reaches beyond the file; truncated?");
  const char* json = reinterpret_cast<const char*>(bytes.data()) + sizeof(length);
  if (length == 0 || json[0] != '{') return fail("the header does not begin with '{'");
  HeaderReader reader;
  if (!nlohmann::json::sax_parse(json, json + length, &reader) || !reader.error.empty()) {
    return fail(reader.error.empty() ? "the header is no JSON" : reader.error);
  }
  BALEEN_RETURN_IF_ERROR(
      PlaceTensors(reader.tensors, sizeof(length) + length, rest - length, file));
  return std::move(reader.tensors);
}

// A call is cut off at the device's read-ahead or its largest request, silently: 128 KiB or more.
void WillNeed(std::span<const std::byte> bytes) {
  constexpr uintptr_t kCall = 128 << 10;
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<uintptr_t>(bytes.data());
  const uintptr_t end = first + bytes.size();
  for (uintptr_t at = first / page * page; at < end; at += kCall) {
    madvise(reinterpret_cast<void*>(at), std::min(kCall, end - at), MADV_WILLNEED);
  }
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info = {};
  if (fd < 0 || fstat(fd, &info) != 0) {
    const std::string reason = std::strerror(errno);
    if (fd >= 0) close(fd);
    return absl::NotFoundError(absl::StrCat(path, ": cannot be opened: ", reason));
  }
  const size_t size = static_cast<size_t>(info.st_size);
  void* base = size == 0 ? nullptr : mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": cannot be mapped: ", std::strerror(errno)));
  }
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = path;
  file->bytes_ = {static_cast<const std::byte*>(base), size};
  BALEEN_ASSIGN_OR_RETURN(file->tensors_, ParseSafetensorsHeader(file->bytes_, path));
  for (size_t i = 0; i < file->tensors_.size(); ++i) {
    file->by_name_.emplace(file->tensors_[i].name, i);
  }
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

const TensorEntry* SafetensorsFile::Find(absl::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

}  // namespace baleen::model
