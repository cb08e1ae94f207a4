#include "decode_worker/peer_exchange.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace baleen::decode_worker {
namespace {

// `why`, with the name of the rank that was missing where it lacks it.
absl::Status NameTheMissing(RankMesh& mesh, const absl::Status& why) {
  if (!absl::IsDeadlineExceeded(why)) return why;
  const std::vector<RankMesh::Outgoing> nothing(size_t(mesh.size()));
  const absl::Status round = mesh.Exchange(RankMesh::Kind::kMissing, nothing);
  return absl::UnavailableError(absl::StrCat(
      why.message(), ": ", round.ok() ? "all ranks are there again" : round.message()));
}

}  // namespace

absl::Status PeerExchange::Connect(RankMesh& mesh) {
  const std::string& own = window_->exported();
  const RankMesh::Outgoing out = {.payload = {std::as_bytes(std::span(own))}};
  BALEEN_RETURN_IF_ERROR(mesh.Exchange(RankMesh::Kind::kConnect,
                                       std::vector<RankMesh::Outgoing>(size_t(mesh.size()), out)));
  std::vector<std::string> all(size_t(mesh.size()), own);
  for (int peer = 0; peer < mesh.size(); ++peer) {
    if (peer == mesh.rank()) continue;
    const kv_transfer::Buffer& theirs = mesh.From(peer).payload;
    all[size_t(peer)].assign(reinterpret_cast<const char*>(theirs.data()), theirs.size());
  }
  return NameTheMissing(mesh, window_->Connect(all));
}

absl::Status PeerExchange::Check(RankMesh& mesh) const {
  return NameTheMissing(mesh, window_->status());
}

model::ExpertExchange::Received PeerExchange::Dispatch(const kernels::Matrix& x,
                                                       const kernels::Quantized& xq,
                                                       const int32_t* ids, int /*topk*/) {
  const kernels::ExpertWindow::Received in = window_->Dispatch(x, xq, ids);
  return {.x = in.x, .xq = in.xq, .ids = in.ids, .rows = in.rows};
}

}  // namespace baleen::decode_worker
