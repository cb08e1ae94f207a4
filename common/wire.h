#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace baleen {

// Little-endian bytes of plain values, for messages between processes of one build line.
static_assert(std::endian::native == std::endian::little);

class ByteWriter {
 public:
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void Put(const T& value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), bytes, bytes + sizeof(T));
  }
  // u32 count, then the elements.
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void PutVector(std::span<const T> values) {
    Put(static_cast<uint32_t>(values.size()));
    const auto bytes = std::as_bytes(values);
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  void PutString(const std::string& s) { PutVector(std::span<const char>(s)); }

  const std::vector<std::byte>& bytes() const { return bytes_; }
  std::vector<std::byte> Take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

// Reads what ByteWriter wrote. A read past the end gives zeros and makes ok() false; nothing is
// allocated beyond the bytes that are there.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <typename T>
  requires std::is_trivially_copyable_v<T> T Get() {
    T value{};
    if (!Take(sizeof(T))) return value;
    std::memcpy(&value, taken_, sizeof(T));
    return value;
  }
  template <typename T>
  requires std::is_trivially_copyable_v<T> std::vector<T> GetVector() {
    const size_t bytes = size_t{Get<uint32_t>()} * sizeof(T);
    if (!Take(bytes)) return {};
    std::vector<T> values(bytes / sizeof(T));
    if (bytes > 0) std::memcpy(values.data(), taken_, bytes);
    return values;
  }
  std::string GetString() {
    const size_t bytes = Get<uint32_t>();
    if (!Take(bytes)) return {};
    return std::string(reinterpret_cast<const char*>(taken_), bytes);
  }

  bool ok() const { return ok_; }
  // Everything was read, and nothing was missing.
  bool Done() const { return ok_ && rest_.empty(); }
  std::span<const std::byte> rest() const { return rest_; }

 private:
  bool Take(size_t bytes) {
    ok_ = ok_ && bytes <= rest_.size();
    if (!ok_) return false;
    taken_ = rest_.data();
    rest_ = rest_.subspan(bytes);
    return true;
  }

  std::span<const std::byte> rest_;
  const std::byte* taken_ = nullptr;
  bool ok_ = true;
};

}  // namespace baleen
