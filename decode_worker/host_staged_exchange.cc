#include "decode_worker/host_staged_exchange.h"

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace baleen::decode_worker {

using kernels::Matrix;
using kernels::Quantized;

size_t HostStagedExchange::XBytes(int64_t rows) const {
  return size_t(rows) * options_.dim * (options_.fp8 ? 1 : DTypeBytes(options_.activations));
}
size_t HostStagedExchange::ScaleBytes(int64_t rows) const {
  return options_.fp8 ? size_t(rows) * (options_.dim / 128) * sizeof(float) : 0;
}
size_t HostStagedExchange::IdBytes(int64_t rows) const {
  return size_t(rows) * options_.topk * sizeof(int32_t);
}

HostStagedExchange::HostStagedExchange(kernels::Backend& backend, model::ExpertExchange& inner,
                                       const Options& options)
    : backend_(backend), inner_(inner), options_(options) {
  const int64_t own = options.max_rows;
  const int64_t received = own * options.ranks;
  const size_t output_row = size_t(options.dim) * DTypeBytes(options.activations) * options.topk;
  x_.resize(XBytes(own));
  scales_.resize(ScaleBytes(own));
  ids_.resize(IdBytes(own));
  outputs_.resize(size_t(received) * output_row);
  device_x_ = model::DeviceBlock(backend, XBytes(received));
  device_scales_ = model::DeviceBlock(backend, ScaleBytes(received));
  device_ids_ = model::DeviceBlock(backend, IdBytes(received));
  device_result_ = model::DeviceBlock(backend, size_t(own) * output_row);
}

absl::StatusOr<std::unique_ptr<HostStagedExchange>> HostStagedExchange::Create(
    kernels::Backend& backend, model::ExpertExchange& inner, const Options& options) {
  std::unique_ptr<HostStagedExchange> exchange(new HostStagedExchange(backend, inner, options));
  size_t wanted = 0;
  bool there = true;
  for (const model::DeviceBlock* block : {&exchange->device_x_, &exchange->device_scales_,
                                          &exchange->device_ids_, &exchange->device_result_}) {
    wanted += block->bytes();
    there = there && (block->bytes() == 0 || block->data() != nullptr);
  }
  if (!there) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the expert exchange wants ", wanted, " bytes of the ", backend.name(),
                     " backend's memory, ", backend.memory().free, " are free"));
  }
  return exchange;
}

model::ExpertExchange::Received HostStagedExchange::Dispatch(const Matrix& x, const Quantized& xq,
                                                             const int32_t* ids, int topk) {
  const bool fp8 = xq.data != nullptr;
  BALEEN_CHECK(fp8 == options_.fp8 && topk == options_.topk && x.cols == options_.dim);
  BALEEN_CHECK(x.rows <= options_.max_rows && (fp8 || x.stride == x.cols));
  backend_.CopyOut(x_.data(), fp8 ? static_cast<const void*>(xq.data) : x.data, XBytes(x.rows));
  if (fp8) backend_.CopyOut(scales_.data(), xq.scales, ScaleBytes(x.rows));
  backend_.CopyOut(ids_.data(), ids, IdBytes(x.rows));
  backend_.Synchronize();

  Matrix host_x = x;
  host_x.data = x_.data();
  Quantized host_xq = xq;
  if (fp8) {
    host_xq.data = reinterpret_cast<uint8_t*>(x_.data());
    host_xq.scales = reinterpret_cast<float*>(scales_.data());
  }
  Received in =
      inner_.Dispatch(host_x, host_xq, reinterpret_cast<const int32_t*>(ids_.data()), topk);
  BALEEN_CHECK(in.rows <= options_.max_rows * options_.ranks);

  // What the inner exchange owns stays whole until its next call, before which we synchronise.
  backend_.CopyIn(device_x_.data(), fp8 ? static_cast<const void*>(in.xq.data) : in.x.data,
                  XBytes(in.rows));
  if (fp8) backend_.CopyIn(device_scales_.data(), in.xq.scales, ScaleBytes(in.rows));
  backend_.CopyIn(device_ids_.data(), in.ids, IdBytes(in.rows));
  if (fp8) {
    in.xq.data = reinterpret_cast<uint8_t*>(device_x_.data());
    in.xq.scales = reinterpret_cast<float*>(device_scales_.data());
  } else {
    in.x.data = device_x_.data();
  }
  in.ids = reinterpret_cast<const int32_t*>(device_ids_.data());
  return in;
}

Matrix HostStagedExchange::Collect(const Matrix& expert_out) {
  const size_t row = size_t(options_.dim) * DTypeBytes(options_.activations);
  BALEEN_CHECK(expert_out.cols == options_.dim && expert_out.stride == expert_out.cols);
  BALEEN_CHECK(size_t(expert_out.rows) * row <= outputs_.size());
  backend_.CopyOut(outputs_.data(), expert_out.data, size_t(expert_out.rows) * row);
  backend_.Synchronize();
  Matrix host_out = expert_out;
  host_out.data = outputs_.data();
  Matrix result = inner_.Collect(host_out);
  BALEEN_CHECK(size_t(result.rows) * row <= device_result_.bytes());
  backend_.CopyIn(device_result_.data(), result.data, size_t(result.rows) * row);
  result.data = device_result_.data();
  return result;
}

}  // namespace baleen::decode_worker
