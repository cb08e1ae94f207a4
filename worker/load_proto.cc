#include "worker/load_proto.h"

namespace baleen::worker {

v1::MemberLoad ToProto(int index, const Load& load) {
  v1::MemberLoad proto;
  proto.set_index(index);
  proto.set_total_pages(load.total_pages);
  proto.set_free_pages(load.free_pages);
  proto.set_quarantined_pages(load.quarantined_pages);
  proto.set_running(load.running);
  proto.set_waiting(load.waiting);
  proto.set_waiting_tokens(load.waiting_tokens);
  proto.set_ungranted_tokens(load.ungranted_tokens);
  proto.set_transports(load.transports);
  proto.set_accept_length(load.accept_length);
  proto.set_unready(load.unready);
  return proto;
}

Load FromProto(const v1::MemberLoad& proto) {
  return {.total_pages = proto.total_pages(),
          .free_pages = proto.free_pages(),
          .quarantined_pages = proto.quarantined_pages(),
          .running = proto.running(),
          .waiting = proto.waiting(),
          .waiting_tokens = proto.waiting_tokens(),
          .ungranted_tokens = proto.ungranted_tokens(),
          .transports = proto.transports(),
          .accept_length = proto.accept_length(),
          .unready = proto.unready()};
}

void SetFingerprint(const Fingerprint& from,
                    google::protobuf::RepeatedPtrField<v1::FingerprintField>* to) {
  to->Clear();
  for (const auto& [name, value] : from) {
    v1::FingerprintField* field = to->Add();
    field->set_name(name);
    field->set_value(value);
  }
}

Fingerprint GetFingerprint(const google::protobuf::RepeatedPtrField<v1::FingerprintField>& from) {
  Fingerprint to;
  for (const v1::FingerprintField& field : from) to.emplace_back(field.name(), field.value());
  return to;
}

}  // namespace baleen::worker
