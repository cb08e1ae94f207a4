#include "prefill_worker/batch_header.h"

#include "absl/status/status.h"
#include "common/wire.h"

namespace baleen::prefill_worker {
namespace {

void Put(ByteWriter& out, const AttemptStart& start) {
  out.Put(start.attempt.value);
  out.Put(start.decode.value);
  out.PutVector<int32_t>(start.prompt);
  out.PutVector<int32_t>(start.pages);
  out.Put(start.cached_tokens);
  out.PutString(start.sampling);
}

AttemptStart GetStart(ByteReader& in) {
  AttemptStart start;
  start.attempt.value = in.Get<uint64_t>();
  start.decode.value = in.Get<uint64_t>();
  start.prompt = in.GetVector<int32_t>();
  start.pages = in.GetVector<int32_t>();
  start.cached_tokens = in.Get<int32_t>();
  start.sampling = in.GetString();
  return start;
}

void Put(ByteWriter& out, const AttemptAbort& abort) {
  out.Put(abort.attempt.value);
  out.Put(abort.code);
  out.PutString(abort.why);
}

AttemptAbort GetAbort(ByteReader& in) {
  AttemptAbort abort;
  abort.attempt.value = in.Get<uint64_t>();
  abort.code = in.Get<uint32_t>();
  abort.why = in.GetString();
  return abort;
}

}  // namespace

std::vector<std::byte> Encode(const BatchHeader& header) {
  ByteWriter out;
  out.Put(header.number);
  out.Put(static_cast<uint32_t>(header.starts.size()));
  for (const AttemptStart& start : header.starts) Put(out, start);
  out.PutVector<BatchEntry>(header.entries);
  out.Put(static_cast<uint32_t>(header.aborts.size()));
  for (const AttemptAbort& abort : header.aborts) Put(out, abort);
  return out.Take();
}

absl::StatusOr<BatchHeader> DecodeBatchHeader(std::span<const std::byte> bytes) {
  ByteReader in(bytes);
  BatchHeader header;
  header.number = in.Get<uint64_t>();
  const uint32_t starts = in.Get<uint32_t>();
  for (uint32_t i = 0; i < starts && in.ok(); ++i) header.starts.push_back(GetStart(in));
  header.entries = in.GetVector<BatchEntry>();
  const uint32_t aborts = in.Get<uint32_t>();
  for (uint32_t i = 0; i < aborts && in.ok(); ++i) header.aborts.push_back(GetAbort(in));
  if (!in.Done()) return absl::InvalidArgumentError("batch header: wrong length");
  return header;
}

}  // namespace baleen::prefill_worker
