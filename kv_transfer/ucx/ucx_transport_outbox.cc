#include "kv_transfer/ucx/ucx_transport_outbox.h"

#include <memory>
#include <utility>

namespace baleen::kv_transfer {

UcxOutbox::~UcxOutbox() {
  for (Operation* operation : orphans_) delete operation;
  for (const auto& [id, operations] : pending_)
    for (Operation* operation : operations) delete operation;
}

void UcxOutbox::Later(Transport::Done done, absl::Status status) {
  if (!done) return;
  events_->push_back([done = std::move(done), status = std::move(status)] { done(status); });
}

void UcxOutbox::Send(EndpointId id, ucp_ep_h endpoint, UcxActive active, Transport::Done done) {
  auto* operation = new Operation{this, id, std::move(active), std::move(done)};
  pending_[id.value].insert(operation);
  const ucp_request_param_t param = ParamOf(*operation);
  const UcxActive& a = operation->active;
  const ucs_status_ptr_t request =
      ucp_am_send_nbx(endpoint, a.message, a.header.data(), a.header.size(), a.payload.data(),
                      a.payload.size(), &param);
  if (!UCS_PTR_IS_PTR(request)) Complete(operation, UCS_PTR_STATUS(request));
}

ucp_request_param_t UcxOutbox::ParamOf(Operation& operation) const {
  ucp_request_param_t param = {};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.user_data = &operation;
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  param.cb.send = [](void* request, ucs_status_t status, void* data) {
    ucp_request_free(request);
    auto* sent = static_cast<Operation*>(data);
    sent->outbox->Complete(sent, status);
  };
  const UcxActive& active = operation.active;
  if (active.device != nullptr) {  // its owner takes nothing of a device out of a message
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_MEMH;
    param.flags = UCP_AM_SEND_FLAG_RNDV;
    param.memory_type = device_type_;
    param.memh = active.device;
  } else if (active.message != kMessageId && active.message != kPutId) {
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;  // their receivers take no rendezvous
    param.flags = UCP_AM_SEND_FLAG_EAGER;
  }
  return param;
}

void UcxOutbox::Complete(Operation* operation, ucs_status_t status) {
  const std::unique_ptr<Operation> owned(operation);
  if (orphans_.erase(operation) > 0) return;
  const auto it = pending_.find(owned->endpoint.value);
  it->second.erase(operation);
  if (it->second.empty()) pending_.erase(it);
  Later(std::move(owned->done), FromUcs(status, "wire"));
}

void UcxOutbox::Abandon(EndpointId id, const absl::Status& status) {
  const auto operations = pending_.extract(id.value);
  if (operations.empty()) return;
  for (Operation* operation : operations.mapped()) {
    orphans_.insert(operation);
    Later(std::move(operation->done), status);
  }
}

}  // namespace baleen::kv_transfer
