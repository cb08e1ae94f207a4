#include "decode_worker/transport_exchange.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace baleen::decode_worker {
namespace {

// Message layouts depend on this rank's pieces only: [ids | rows | scales] and [outputs].
std::span<const std::byte> Bytes(const void* data, size_t bytes) {
  return {static_cast<const std::byte*>(data), bytes};
}

const std::byte* RowBytes(const kernels::Matrix& m, int row) {
  return static_cast<const std::byte*>(m.data) +
         size_t(row) * size_t(m.stride) * DTypeBytes(m.dtype);
}

// The larger of a Dispatch message and a Collect message, for a whole batch.
size_t StagingBytes(const TransportExchangeOptions& o, int experts_per_rank) {
  const size_t row = size_t(o.dim) * DTypeBytes(o.activations);
  const size_t dispatch =
      size_t(o.topk) * sizeof(int32_t) + row + size_t(o.dim / 128) * sizeof(float);
  const size_t collect = size_t(std::min(o.topk, experts_per_rank)) * row;
  return size_t(o.max_rows) * std::max(dispatch, collect);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TransportExchange>> TransportExchange::Create(
    RankMesh& mesh, const TransportExchangeOptions& options) {
  if (options.experts <= 0 || options.experts % mesh.size() != 0)
    return absl::InvalidArgumentError(absl::StrCat("worker.size: ", options.experts,
                                                   " experts cannot be divided among ", mesh.size(),
                                                   " ranks"));
  return std::unique_ptr<TransportExchange>(new TransportExchange(mesh, options));
}

TransportExchange::TransportExchange(RankMesh& mesh, const TransportExchangeOptions& options)
    : mesh_(mesh),
      options_(options),
      experts_per_rank_(options.experts / mesh.size()),
      sources_(size_t(mesh.size())),
      staging_bytes_(StagingBytes(options, experts_per_rank_)),
      out_(size_t(mesh.size())) {
  const size_t row = size_t(options.dim) * DTypeBytes(options.activations);
  const size_t rows = size_t(options.max_rows);
  const size_t all_rows = rows * size_t(mesh.size());
  for (Memory& staging : staging_) staging = Allocate(staging_bytes_ * size_t(mesh.size()));
  received_ids_ = Allocate(all_rows * size_t(options.topk) * sizeof(int32_t));
  received_x_ = Allocate(all_rows * row);
  received_scales_ = Allocate(all_rows * ScaleBytes());
  result_ = Allocate(rows * size_t(options.topk) * row);
}

void TransportExchange::FreeAligned::operator()(std::byte* p) const { std::free(p); }

TransportExchange::Memory TransportExchange::Allocate(size_t bytes) {
  void* p = std::aligned_alloc(64, (bytes / 64 + 1) * 64);
  BALEEN_CHECK_MSG(p != nullptr, "out of host memory");
  return Memory(static_cast<std::byte*>(p));
}

bool TransportExchange::Wanted(const int32_t* row_ids, int rank) const {
  return std::any_of(row_ids, row_ids + topk_, [&](int32_t id) { return Owner(id) == rank; });
}

model::ExpertExchange::Received TransportExchange::Dispatch(const kernels::Matrix& x,
                                                            const kernels::Quantized& xq,
                                                            const int32_t* ids, int topk) {
  BALEEN_CHECK(x.rows <= options_.max_rows && topk <= options_.topk && x.cols == options_.dim);
  x_ = x;
  xq_ = xq;
  ids_ = ids;
  topk_ = topk;
  const bool fp8 = xq.data != nullptr;
  row_bytes_ = size_t(x.cols) * (fp8 ? 1 : DTypeBytes(x.dtype));
  received_rows_ = 0;
  mesh_.WaitSent();
  for (int peer = 0; peer < mesh_.size(); ++peer) out_[size_t(peer)] = PackRows(peer);

  absl::Status status = mesh_.Exchange(RankMesh::Kind::kDispatch, out_);
  for (int source = 0; status.ok() && source < mesh_.size(); ++source) {
    if (source != mesh_.rank()) {
      status = Accept(source, mesh_.From(source));
      continue;
    }
    const auto& own = out_[size_t(source)];
    status = AppendRows(source, own.words[0], own.payload[0].data(), own.payload[1].data(),
                        own.payload[2].data());
  }
  if (!status.ok()) {
    mesh_.Fail(status);
    received_rows_ = 0;
  }
  return {.x = {.data = fp8 ? nullptr : received_x_.get(),
                .dtype = x.dtype,
                .rows = received_rows_,
                .cols = x.cols,
                .stride = x.cols},
          .xq = {.data = fp8 ? reinterpret_cast<uint8_t*>(received_x_.get()) : nullptr,
                 .scales = fp8 ? reinterpret_cast<float*>(received_scales_.get()) : nullptr,
                 .rows = received_rows_,
                 .cols = x.cols},
          .ids = received_ids(),
          .rows = received_rows_};
}

// Also for this rank itself: its rows take the same way, so that they meet the same arithmetic.
RankMesh::Outgoing TransportExchange::PackRows(int peer) {
  const bool fp8 = xq_.data != nullptr;
  const size_t id_bytes = size_t(topk_) * sizeof(int32_t);
  const size_t scale_bytes = fp8 ? ScaleBytes() : 0;
  std::byte* const begin = staging_[mesh_.parity()].get() + staging_bytes_ * size_t(peer);
  std::byte* const rows_at = begin + size_t(x_.rows) * id_bytes;
  std::byte* const scales_at = rows_at + size_t(x_.rows) * row_bytes_;
  int count = 0;
  for (int r = 0; r < x_.rows; ++r) {
    const int32_t* row_ids = ids_ + size_t(r) * size_t(topk_);
    if (!Wanted(row_ids, peer)) continue;
    const size_t n = size_t(count++);
    std::memcpy(begin + n * id_bytes, row_ids, id_bytes);
    std::memcpy(rows_at + n * row_bytes_,
                fp8 ? reinterpret_cast<const std::byte*>(xq_.data) + size_t(r) * row_bytes_
                    : RowBytes(x_, r),
                row_bytes_);
    if (fp8)
      std::memcpy(scales_at + n * scale_bytes, xq_.scales + size_t(r) * size_t(x_.cols / 128),
                  scale_bytes);
  }
  return {.words = {count, topk_, static_cast<int32_t>(row_bytes_), 0},
          .payload = {Bytes(begin, size_t(count) * id_bytes),
                      Bytes(rows_at, size_t(count) * row_bytes_),
                      Bytes(scales_at, size_t(count) * scale_bytes)}};
}

absl::Status TransportExchange::Accept(int source, const RankMesh::Incoming& in) {
  const int rows = in.words[0];
  const size_t id_bytes = size_t(topk_) * sizeof(int32_t);
  const size_t scale_bytes = xq_.data != nullptr ? ScaleBytes() : 0;
  if (rows < 0 || rows > options_.max_rows || in.words[1] != topk_ ||
      in.words[2] != static_cast<int32_t>(row_bytes_) ||
      in.payload.size() != size_t(rows) * (id_bytes + row_bytes_ + scale_bytes))
    return absl::InternalError(
        absl::StrCat("decode rank ", source, " sent ", rows, " rows of another shape"));
  const std::byte* ids = in.payload.data();
  const std::byte* data = ids + size_t(rows) * id_bytes;
  return AppendRows(source, rows, ids, data, data + size_t(rows) * row_bytes_);
}

absl::Status TransportExchange::AppendRows(int source, int rows, const std::byte* ids,
                                           const std::byte* data, const std::byte* scales) {
  const size_t first = size_t(received_rows_);
  const size_t count = size_t(rows);
  sources_[size_t(source)] = {.first = received_rows_, .rows = rows};
  if (rows == 0) return absl::OkStatus();
  int32_t* const own_ids = reinterpret_cast<int32_t*>(received_ids_.get()) + first * size_t(topk_);
  std::memcpy(own_ids, ids, count * size_t(topk_) * sizeof(int32_t));
  for (size_t i = 0; i < count * size_t(topk_); ++i)
    if (own_ids[i] < -1 || own_ids[i] >= options_.experts)
      return absl::InternalError(
          absl::StrCat("decode rank ", source, " sent expert id ", own_ids[i]));
  std::memcpy(received_x_.get() + first * row_bytes_, data, count * row_bytes_);
  if (xq_.data != nullptr)
    std::memcpy(received_scales_.get() + first * ScaleBytes(), scales, count * ScaleBytes());
  received_rows_ += rows;
  return absl::OkStatus();
}

kernels::Matrix TransportExchange::Collect(const kernels::Matrix& expert_out) {
  BALEEN_CHECK(expert_out.cols == options_.dim && expert_out.dtype == options_.activations);
  const size_t row_bytes = size_t(options_.dim) * DTypeBytes(expert_out.dtype);
  const size_t pairs = size_t(x_.rows) * size_t(topk_);
  mesh_.WaitSent();
  // Before the exchange: another rank may still compute.
  std::memset(result_.get(), 0, pairs * row_bytes);
  absl::Status status = mesh_.status();
  if (status.ok()) {
    for (int peer = 0; peer < mesh_.size(); ++peer)
      if (peer != mesh_.rank()) out_[size_t(peer)] = PackOutputs(peer, expert_out);
    ScatterOwn(expert_out, row_bytes);
    status = mesh_.Exchange(RankMesh::Kind::kCollect, out_);
  }
  for (int peer = 0; status.ok() && peer < mesh_.size(); ++peer)
    if (peer != mesh_.rank()) status = Scatter(peer, mesh_.From(peer), row_bytes);
  if (!status.ok()) mesh_.Fail(status);
  return {.data = result_.get(),
          .dtype = expert_out.dtype,
          .rows = static_cast<int>(pairs),
          .cols = options_.dim,
          .stride = options_.dim};
}

RankMesh::Outgoing TransportExchange::PackOutputs(int peer, const kernels::Matrix& expert_out) {
  const size_t row_bytes = size_t(options_.dim) * DTypeBytes(expert_out.dtype);
  std::byte* const begin = staging_[mesh_.parity()].get() + staging_bytes_ * size_t(peer);
  const Source& source = sources_[size_t(peer)];
  const int first = source.first * topk_;
  size_t count = 0;
  for (int pair = first; pair < first + source.rows * topk_; ++pair) {
    if (Owner(received_ids()[pair]) != mesh_.rank()) continue;
    std::memcpy(begin + count++ * row_bytes, RowBytes(expert_out, pair), row_bytes);
  }
  return {.words = {static_cast<int32_t>(count), static_cast<int32_t>(row_bytes), 0, 0},
          .payload = {Bytes(begin, count * row_bytes)}};
}

absl::Status TransportExchange::Scatter(int peer, const RankMesh::Incoming& in, size_t row_bytes) {
  const int pairs = x_.rows * topk_;
  size_t next = 0;
  for (int pair = 0; pair < pairs; ++pair) {
    if (Owner(ids_[pair]) != peer) continue;
    if ((next + 1) * row_bytes > in.payload.size()) break;
    std::memcpy(result_.get() + size_t(pair) * row_bytes, in.payload.data() + next++ * row_bytes,
                row_bytes);
  }
  const auto wanted =
      std::count_if(ids_, ids_ + pairs, [&](int32_t id) { return Owner(id) == peer; });
  if (in.words[0] != wanted || in.payload.size() != size_t(wanted) * row_bytes)
    return absl::InternalError(absl::StrCat("decode rank ", peer, " answered ", in.words[0],
                                            " expert outputs instead of ", wanted));
  return absl::OkStatus();
}

void TransportExchange::ScatterOwn(const kernels::Matrix& expert_out, size_t row_bytes) {
  int received = sources_[size_t(mesh_.rank())].first;
  for (int r = 0; r < x_.rows; ++r) {
    const int32_t* row_ids = ids_ + size_t(r) * size_t(topk_);
    if (!Wanted(row_ids, mesh_.rank())) continue;
    for (int j = 0; j < topk_; ++j)
      if (Owner(row_ids[j]) == mesh_.rank())
        std::memcpy(result_.get() + (size_t(r) * size_t(topk_) + size_t(j)) * row_bytes,
                    RowBytes(expert_out, received * topk_ + j), row_bytes);
    ++received;
  }
}

}  // namespace baleen::decode_worker
