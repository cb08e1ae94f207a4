#include "kv_transfer/transport.h"

#include <memory>
#include <utility>

#include "common/check.h"

namespace baleen::kv_transfer {

Transport::Done DoneAfter(size_t count, Transport::Done done) {
  BALEEN_CHECK(count > 0);
  if (count == 1 || !done) return done;
  struct Parts {
    size_t due;
    absl::Status status;
    Transport::Done done;
  };
  auto parts = std::make_shared<Parts>(Parts{count, absl::OkStatus(), std::move(done)});
  return [parts = std::move(parts)](const absl::Status& status) {
    parts->status.Update(status);
    if (--parts->due == 0) parts->done(parts->status);
  };
}

}  // namespace baleen::kv_transfer
