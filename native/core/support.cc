#include "core/support.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace selfedit {

int64_t SupportSize(double density, int64_t count) {
  if (!(density > 0 && density <= 1)) {
    throw Error("OPTION_INVALID",
                "density is " + std::to_string(density) + "; expected a part above 0, at most 1");
  }
  // 0.07 * 100 is 7.000000000000001: what rounding adds is no value more.
  const double wanted = density * static_cast<double>(count);
  return std::clamp<int64_t>(static_cast<int64_t>(std::ceil(wanted * (1 - 1e-12))), 1, count);
}

std::vector<int64_t> LargestEntries(const at::Tensor& x, int64_t k) {
  const at::Tensor magnitude = x.abs().reshape(-1).to(at::kDouble).contiguous();
  const double* sizes = magnitude.const_data_ptr<double>();
  k = std::clamp<int64_t>(k, 0, magnitude.numel());
  std::vector<int64_t> chosen;
  if (k == 0) return chosen;
  std::vector<double> order(sizes, sizes + magnitude.numel());
  std::nth_element(order.begin(), order.begin() + (k - 1), order.end(), std::greater<>());
  const double least = order[k - 1];
  // What lies above the least takes its places; those that are left go to its equals, in order.
  int64_t equals = k - std::count_if(order.begin(), order.begin() + k, [&](double s) { return s > least; });
  chosen.reserve(k);
  for (int64_t i = 0; i < magnitude.numel(); ++i) {
    if (sizes[i] > least || (sizes[i] == least && equals-- > 0)) chosen.push_back(i);
  }
  return chosen;
}

DeltaPart SparseFromIndices(int64_t matrix, int64_t out, int64_t in, const std::vector<int64_t>& indices,
                            const at::Tensor& values) {
  const int64_t count = static_cast<int64_t>(indices.size());
  if (count > std::numeric_limits<int32_t>::max()) {
    throw Error("DELTA_INVALID", "a sparse change of " + std::to_string(count) +
                                     " values; expected at most 2147483647 a matrix");
  }
  at::Tensor offsets = at::zeros({out + 1}, at::kInt), columns = at::empty({count}, at::kInt);
  int32_t* starts = offsets.mutable_data_ptr<int32_t>();
  int32_t* column = columns.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < count; ++i) {
    ++starts[indices[i] / in + 1];
    column[i] = static_cast<int32_t>(indices[i] % in);
  }
  for (int64_t row = 0; row < out; ++row) starts[row + 1] += starts[row];
  return DeltaPart::Sparse(matrix, offsets, columns, values, 1.0);
}

}  // namespace selfedit
