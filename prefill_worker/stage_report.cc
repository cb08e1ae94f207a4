#include "prefill_worker/stage_report.h"

#include "common/wire.h"

namespace baleen::prefill_worker {

std::vector<std::byte> Encode(const StageReport& report) {
  ByteWriter out;
  out.Put(report.kind);
  out.Put(report.stage);
  out.Put(report.batch);
  out.Put(report.attempt.value);
  out.Put(static_cast<int32_t>(report.status.code()));
  out.PutString(std::string(report.status.message()));
  return out.Take();
}

absl::StatusOr<StageReport> DecodeStageReport(std::span<const std::byte> bytes) {
  ByteReader in(bytes);
  StageReport report;
  report.kind = in.Get<StageReport::Kind>();
  report.stage = in.Get<int32_t>();
  report.batch = in.Get<uint64_t>();
  report.attempt.value = in.Get<uint64_t>();
  const auto code = static_cast<absl::StatusCode>(in.Get<int32_t>());
  report.status = absl::Status(code, in.GetString());
  if (!in.Done() || report.kind > StageReport::Kind::kEnded)
    return absl::InvalidArgumentError("stage report: malformed");
  return report;
}

}  // namespace baleen::prefill_worker
