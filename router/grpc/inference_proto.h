#pragma once

#include "absl/status/statusor.h"
#include "proto/inference.pb.h"
#include "router/api/client_request.h"
#include "router/api/generation_session.h"
#include "router/model_info.h"

namespace baleen::router {

// Conversions of the public gRPC API; pure. Include only from *_service.cc and tests.

// Checked like the HTTP bodies; errors name the field.
absl::StatusOr<ClientRequest> FromProto(const ModelInfo& model, const v1::GenerateRequest& request);
absl::StatusOr<ClientRequest> FromProto(const ModelInfo& model, const v1::ChatRequest& request);

void ToProto(const OutputDelta& delta, v1::TextDelta* out);
void ToProto(const OutputDelta& delta, v1::ChatDelta* out);

// Sets the event of a stream's response.
void SetDelta(const OutputDelta& delta, v1::GenerateResponse* response);
void SetDelta(const OutputDelta& delta, v1::ChatResponse* response);
void SetFinish(const OutputEnding& ending, const Usage& usage, v1::GenerateResponse* response);
void SetFinish(const OutputEnding& ending, const Usage& usage, v1::ChatResponse* response);

}  // namespace baleen::router
