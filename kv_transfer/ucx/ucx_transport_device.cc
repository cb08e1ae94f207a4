#include "kv_transfer/ucx/ucx_transport_device.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace baleen::kv_transfer {
namespace {

ucs_memory_type_t TypeOf(const PeerMemory* memory) {
  return memory != nullptr && memory->kind() == PeerMemory::Kind::kCuda ? UCS_MEMORY_TYPE_CUDA
                                                                        : UCS_MEMORY_TYPE_HOST;
}

bool Knows(ucp_context_h context, ucs_memory_type_t type) {
  ucp_context_attr_t attributes = {};
  attributes.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  return ucp_context_query(context, &attributes) == UCS_OK &&
         (attributes.memory_types & (uint64_t{1} << type)) != 0;
}

absl::Status NotToBeMapped() {
  return absl::FailedPreconditionError("memory of devices is not to be mapped (peer_memory)");
}

}  // namespace

absl::StatusOr<DeviceWay> ChooseDeviceWay(const absl::Status& mapped, bool ucx_of_sender,
                                          bool ucx_of_target) {
  if (mapped.ok()) return DeviceWay::kPeerMemory;
  if (ucx_of_sender && ucx_of_target) return DeviceWay::kUcx;
  const char* const lacking = ucx_of_sender   ? "UCX of the target does not carry"
                              : ucx_of_target ? "UCX of the sender does not carry"
                                              : "UCX of neither carries";
  return absl::FailedPreconditionError(
      absl::StrCat("no way from device to device: ", mapped.message(), "; ", lacking,
                   " memory of devices (deploy/install_deps.sh --cuda; never over shared memory:"
                   " worker.peer_memory \"ucx\" does without)"));
}

UcxDevice::UcxDevice(PeerMemory* memory, DeviceWays ways, ucp_context_h context)
    : memory_(memory),
      ways_(ways),
      context_(context),
      type_(TypeOf(memory)),
      by_ucx_(memory != nullptr && ways != DeviceWays::kPeerMemory && Knows(context, type_)) {}

absl::Status UcxDevice::Register(uint64_t id, std::byte* base, size_t bytes) {
  if (memory_ == nullptr)
    return absl::UnimplementedError("transport: made without memory of a device");
  Region region = {.base = base, .bytes = bytes};
  if (ways_ != DeviceWays::kUcx) {
    auto exported = memory_->Export(base, bytes);
    if (!exported.ok() && !by_ucx_) return exported.status();
    if (exported.ok()) region.exported = *std::move(exported);
  } else if (!by_ucx_) {
    return absl::FailedPreconditionError(
        "transport: UCX does not carry memory of this device (deploy/install_deps.sh --cuda)");
  }
  if (using_ucx_) BALEEN_RETURN_IF_ERROR(Map(region));
  regions_.insert_or_assign(id, std::move(region));
  return absl::OkStatus();
}

void UcxDevice::Deregister(uint64_t id) {
  auto region = regions_.extract(id);
  if (!region.empty() && region.mapped().memory != nullptr)
    retired_.push_back(std::move(region.mapped().memory));
}

const UcxDevice::Region* UcxDevice::Find(const std::byte* p) const {
  for (const auto& [id, region] : regions_)
    if (p >= region.base && p < region.base + region.bytes) return &region;
  return nullptr;
}

absl::Status UcxDevice::UseUcx() {
  using_ucx_ = true;
  for (auto& [id, region] : regions_)
    if (region.memory == nullptr) BALEEN_RETURN_IF_ERROR(Map(region));
  return absl::OkStatus();
}

absl::Status UcxDevice::Map(Region& region) const {
  ucp_mem_map_params_t params = {};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                      UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE;
  params.address = region.base;
  params.length = region.bytes;
  params.memory_type = type_;
  ucp_mem_h memory = nullptr;
  BALEEN_RETURN_IF_ERROR(FromUcs(ucp_mem_map(context_, &params, &memory),
                                 absl::StrCat("ucp_mem_map of ", region.bytes, " bytes")));
  region.memory = UcpMemory(memory, {context_});
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const PeerMemory::Mapping>> UcxDevice::Import(
    absl::string_view exported) {
  if (memory_ == nullptr) return absl::FailedPreconditionError("the target has no device");
  if (exported.empty() || ways_ == DeviceWays::kUcx) return NotToBeMapped();
  return memory_->Import(exported);
}

const char* UcxDevice::name(DeviceWay way) const {
  switch (way) {
    case DeviceWay::kNone:
      return "";
    case DeviceWay::kPeerMemory:
      return memory_->name();
    case DeviceWay::kUcx:
      return "ucx_cuda";
  }
  return "";
}

}  // namespace baleen::kv_transfer
