#pragma once

#include "common/fingerprint.h"
#include "proto/worker.pb.h"
#include "worker/member.h"

// Conversions shared by group_service.cc, group_client.cc and directory_client.cc.
namespace baleen::worker {

v1::MemberLoad ToProto(int index, const Load& load);
Load FromProto(const v1::MemberLoad& load);

void SetFingerprint(const Fingerprint& from,
                    google::protobuf::RepeatedPtrField<v1::FingerprintField>* to);
Fingerprint GetFingerprint(const google::protobuf::RepeatedPtrField<v1::FingerprintField>& from);

}  // namespace baleen::worker
