#include "core/blocked_bf16.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "core/torch_version.h"
#include "cpu/kernels.h"
#include "cpu/scratch.h"

namespace selfedit {
namespace {

constexpr int64_t kColumns = 64;  // of one block; the most that the layout allows
constexpr int64_t kTileRows =
    16;  // rows of one tile: batches are filled up to a multiple, so few kernels are made
constexpr int64_t kRows = 64;  // of one call
constexpr int64_t kTaskRows = 256;
// Inner length of one pass: the rounded rows of a task stay in the second-level cache.
constexpr int64_t kInner = 2048;

int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

bool BlockedBf16::Fits(int64_t out, int64_t in) {
  return torch_version::HasBf16Blocks() && out % 16 == 0 && in % 32 == 0;
}

BlockedBf16::BlockedBf16(const at::Tensor& weight, bool transposed)
    : out_(weight.size(transposed ? 1 : 0)),
      in_(weight.size(transposed ? 0 : 1)),
      blocks_(at::empty({out_ * in_}, at::kBFloat16)) {
  const int64_t blocks = RoundUp(out_, kColumns) / kColumns;
  at::BFloat16* to = blocks_.mutable_data_ptr<at::BFloat16>();
  at::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    const c10::InferenceMode inference;
    for (int64_t b = first; b < last; ++b) {
      const int64_t column = b * kColumns, columns = std::min(kColumns, out_ - column);
      // [in, columns]
      const at::Tensor slice = (transposed ? weight : weight.t()).narrow(1, column, columns).contiguous();
      torch_version::PackBf16Block(in_, columns, slice.const_data_ptr<at::BFloat16>(), to + column * in_);
    }
  });
}

at::Tensor BlockedBf16::Product(const at::Tensor& x, int terms) const {
  const int64_t n = x.size(0), padded = RoundUp(std::max<int64_t>(n, 1), kTileRows);
  at::Tensor y = at::empty({padded, out_}, x.options());
  const float* xs = x.const_data_ptr<float>();
  float* ys = y.mutable_data_ptr<float>();
  const at::BFloat16* blocks = blocks_.const_data_ptr<at::BFloat16>();
  const int64_t threads = at::get_num_threads();
  const int64_t task_rows =
      std::min(kTaskRows, std::max(kRows, RoundUp((padded + threads - 1) / threads, kTileRows)));
  const int64_t row_tasks = (padded + task_rows - 1) / task_rows;
  const int64_t column_blocks = RoundUp(out_, kColumns) / kColumns;
  const int64_t column_tasks =
      std::min(column_blocks, row_tasks >= threads ? 1 : (threads + row_tasks - 1) / row_tasks);
  const int64_t inner = std::min(kInner, in_);
  at::parallel_for(0, row_tasks * column_tasks, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t row = task / column_tasks * task_rows, rows = std::min(task_rows, padded - row);
      const int64_t part = task % column_tasks;
      const int64_t first_block = column_blocks * part / column_tasks;
      const int64_t last_block = column_blocks * (part + 1) / column_tasks;
      auto* terms_of_x = static_cast<uint16_t*>(cpu::Scratch(sizeof(uint16_t) * terms * rows * inner));
      for (int64_t k = 0; k < in_; k += inner) {
        const int64_t depth = std::min(inner, in_ - k);
        // Rows beyond n are zero.
        cpu::SplitBf16(xs + row * in_ + k, in_, std::min(rows, n - row), rows, depth, terms, terms_of_x);
        for (int64_t b = first_block; b < last_block; ++b) {
          const int64_t column = b * kColumns, columns = std::min(kColumns, out_ - column);
          for (int64_t r = 0; r < rows; r += kRows) {
            for (int term = 0; term < terms; ++term) {
              torch_version::MultiplyBf16Block(
                  std::min(kRows, rows - r), columns, depth,
                  reinterpret_cast<const at::BFloat16*>(terms_of_x + (term * rows + r) * depth), depth,
                  blocks + column * in_ + k * columns, ys + (row + r) * out_ + column, out_,
                  k > 0 || term > 0);
            }
          }
        }
      }
    }
    torch_version::EndBf16Blocks();
  });
  return y.narrow(0, 0, n);
}

}  // namespace selfedit
