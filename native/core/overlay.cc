#include "core/overlay.h"

#include <ATen/Parallel.h>

#include "cpu/gemm.h"

namespace selfedit {
namespace {

// Rows of one task. A task's products are serial, so bits do not depend on how tasks are spread over threads.
constexpr int64_t kBlockRows = 64;

struct Task {
  const Segment* segment;
  int64_t begin, end;
};

std::vector<Task> SplitRows(const std::vector<Segment>& segments) {
  std::vector<Task> tasks;
  for (const Segment& segment : segments) {
    for (int64_t begin = segment.begin; begin < segment.end; begin += kBlockRows) {
      tasks.push_back({&segment, begin, std::min(segment.end, begin + kBlockRows)});
    }
  }
  return tasks;
}

template <typename T>
T* Scratch(int64_t count) {
  thread_local std::vector<T> buffer;
  if (static_cast<int64_t>(buffer.size()) < count) buffer.resize(count);
  return buffer.data();
}

}  // namespace

void OverlayPlan::Add(int64_t matrix, int64_t level, const Segment& segment) {
  auto& levels = levels_[matrix];
  if (static_cast<int64_t>(levels.size()) <= level) levels.resize(level + 1);
  levels[level].push_back(segment);
  if (segment.view.da != nullptr) {
    const int64_t layer = matrix / kModulesPerLayer;
    if (lowest_trainable_ < 0 || layer < lowest_trainable_) lowest_trainable_ = layer;
  }
}

template <typename T>
void OverlayPlan::ForwardTyped(int64_t matrix, const at::Tensor& x, const at::Tensor& y) const {
  const int64_t in = x.size(1), out = y.size(1);
  const T* xs = x.const_data_ptr<T>();
  T* ys = y.mutable_data_ptr<T>();
  for (const auto& level : levels_[matrix]) {
    const std::vector<Task> tasks = SplitRows(level);
    at::parallel_for(0, static_cast<int64_t>(tasks.size()), 1, [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t) {
        const LowRankView& view = tasks[t].segment->view;
        const int64_t begin = tasks[t].begin, m = tasks[t].end - begin, r = view.rank;
        T* u = Scratch<T>(m * r);
        cpu::Gemm<T>(false, true, m, r, in, T(1), xs + begin * in, in, static_cast<const T*>(view.a), in,
                     T(0), u, r);
        cpu::Gemm<T>(false, true, m, out, r, T(view.scale), u, r, static_cast<const T*>(view.b), r, T(1),
                     ys + begin * out, out);
      }
    });
  }
}

template <typename T>
void OverlayPlan::BackwardTyped(int64_t matrix, const at::Tensor& x, const at::Tensor& dy,
                                const at::Tensor& dx) const {
  const int64_t in = x.size(1), out = dy.size(1);
  const T* xs = x.const_data_ptr<T>();
  const T* dys = dy.const_data_ptr<T>();
  T* dxs = dx.defined() ? dx.mutable_data_ptr<T>() : nullptr;
  for (const auto& level : levels_[matrix]) {
    // Gradients of the values: one task a segment, so that a segment's rows are added in one fixed order.
    std::vector<Segment> trainable, frozen;
    for (const Segment& segment : level) (segment.view.da != nullptr ? trainable : frozen).push_back(segment);
    at::parallel_for(0, static_cast<int64_t>(trainable.size()), 1, [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t) {
        const LowRankView& view = trainable[t].view;
        const int64_t begin = trainable[t].begin, m = trainable[t].end - begin, r = view.rank;
        T* u = Scratch<T>(2 * m * r);
        T* v = u + m * r;
        cpu::Gemm<T>(false, true, m, r, in, T(view.scale), xs + begin * in, in, static_cast<const T*>(view.a),
                     in, T(0), u, r);
        cpu::Gemm<T>(false, false, m, r, out, T(view.scale), dys + begin * out, out,
                     static_cast<const T*>(view.b), r, T(0), v, r);
        cpu::Gemm<T>(true, false, out, r, m, T(1), dys + begin * out, out, u, r, T(1),
                     static_cast<T*>(view.db), r);
        cpu::Gemm<T>(true, false, r, in, m, T(1), v, r, xs + begin * in, in, T(1), static_cast<T*>(view.da),
                     in);
        if (dxs != nullptr) {
          cpu::Gemm<T>(false, false, m, in, r, T(1), v, r, static_cast<const T*>(view.a), in, T(1),
                       dxs + begin * in, in);
        }
      }
    });
    if (dxs == nullptr || frozen.empty()) continue;
    const std::vector<Task> tasks = SplitRows(frozen);
    at::parallel_for(0, static_cast<int64_t>(tasks.size()), 1, [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t) {
        const LowRankView& view = tasks[t].segment->view;
        const int64_t begin = tasks[t].begin, m = tasks[t].end - begin, r = view.rank;
        T* v = Scratch<T>(m * r);
        cpu::Gemm<T>(false, false, m, r, out, T(view.scale), dys + begin * out, out,
                     static_cast<const T*>(view.b), r, T(0), v, r);
        cpu::Gemm<T>(false, false, m, in, r, T(1), v, r, static_cast<const T*>(view.a), in, T(1),
                     dxs + begin * in, in);
      }
    });
  }
}

void OverlayPlan::Forward(int64_t matrix, const at::Tensor& x, const at::Tensor& y) const {
  if (!Touches(matrix)) return;
  if (x.scalar_type() == at::kDouble) {
    ForwardTyped<double>(matrix, x, y);
  } else {
    ForwardTyped<float>(matrix, x, y);
  }
}

void OverlayPlan::Backward(int64_t matrix, const at::Tensor& x, const at::Tensor& dy,
                           const at::Tensor& dx) const {
  if (!Touches(matrix)) return;
  if (x.scalar_type() == at::kDouble) {
    BackwardTyped<double>(matrix, x, dy, dx);
  } else {
    BackwardTyped<float>(matrix, x, dy, dx);
  }
}

OverlayPlan MakeOverlayPlan(int64_t matrices, const std::vector<int32_t>& offsets,
                            const std::vector<DocumentDeltas>& documents) {
  OverlayPlan plan(matrices);
  const int64_t count = static_cast<int64_t>(documents.size());
  size_t depth = 0;
  for (const auto& document : documents) depth = std::max(depth, document.stack->size());
  for (size_t level = 0; level < depth; ++level) {
    for (int64_t d = 0; d < count;) {
      if (documents[d].stack->size() <= level) {
        ++d;
        continue;
      }
      const AppliedDelta& applied = (*documents[d].stack)[level];
      int64_t end = d + 1;
      while (end < count && documents[end].stack->size() > level && (*documents[end].stack)[level] == applied)
        ++end;
      for (const LowRankPart& part : applied.delta->low_rank) {
        plan.Add(part.matrix, level,
                 {offsets[d],
                  offsets[end],
                  {part.a.const_data_ptr(), part.b.const_data_ptr(), nullptr, nullptr, part.rank(),
                   part.scale * applied.scale}});
      }
      d = end;
    }
  }
  for (int64_t d = 0; d < count;) {
    const TrainableView* trainable = documents[d].trainable;
    int64_t end = d + 1;
    while (end < count && documents[end].trainable == trainable) ++end;
    if (trainable != nullptr) {
      for (size_t i = 0; i < trainable->views.size(); ++i) {
        plan.Add(trainable->matrices[i], depth, {offsets[d], offsets[end], trainable->views[i]});
      }
    }
    d = end;
  }
  return plan;
}

}  // namespace selfedit
