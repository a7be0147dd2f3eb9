#include "core/overlay.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <numeric>

#include "core/materialised.h"
#include "core/model.h"
#include "core/overlay_products.h"

namespace selfedit {
namespace {

// Rows of one task, and columns of a dense change's. A task's products are serial, so bits do not depend on
// how tasks are spread over threads.
constexpr int64_t kBlockRows = 64;
constexpr int64_t kBlockColumns = 512;

struct Task {
  const Segment* segment;
  int64_t begin, end;  // rows
  int64_t from, to;    // columns of the result
  int64_t scratch;     // row of the scratch where the segment begins
};

// Blocks of rows; dense changes also of columns, so that a single row keeps all threads busy.
std::vector<Task> SplitRows(const std::vector<Segment>& segments, bool input, int64_t* scratch_rows) {
  std::vector<Task> tasks;
  int64_t scratch = 0;
  for (const Segment& segment : segments) {
    const int64_t width = input ? segment.view.in : segment.view.out;
    const int64_t step = segment.view.kind == DeltaKind::kDense ? kBlockColumns : width;
    for (int64_t begin = segment.begin; begin < segment.end; begin += kBlockRows) {
      const int64_t end = std::min(segment.end, begin + kBlockRows);
      for (int64_t from = 0; from < width; from += step) {
        tasks.push_back({&segment, begin, end, from, std::min(width, from + step), scratch});
      }
    }
    scratch += segment.end - segment.begin;
  }
  *scratch_rows = scratch;
  return tasks;
}

// Runs body(i) for i < costs.size(), spread over the threads by cost: the largest first, each to the thread
// that has least (documents differ in length by much). Who does what changes no bit.
template <typename Body>
void Balanced(const std::vector<int64_t>& costs, Body&& body) {
  const size_t threads = std::min<size_t>(costs.size(), static_cast<size_t>(at::get_num_threads()));
  if (threads <= 1) {
    for (size_t i = 0; i < costs.size(); ++i) body(i);
    return;
  }
  std::vector<size_t> order(costs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return costs[a] > costs[b]; });
  std::vector<std::vector<size_t>> shares(threads);
  std::vector<int64_t> load(threads, 0);
  for (const size_t i : order) {
    const size_t least = static_cast<size_t>(std::min_element(load.begin(), load.end()) - load.begin());
    shares[least].push_back(i);
    load[least] += costs[i];
  }
  at::parallel_for(0, static_cast<int64_t>(threads), 1, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      for (const size_t i : shares[static_cast<size_t>(t)]) body(i);
    }
  });
}

template <typename Body>
void ForEach(const std::vector<Task>& tasks, Body&& body) {
  std::vector<int64_t> costs;
  for (const Task& task : tasks) costs.push_back((task.end - task.begin) * (task.to - task.from));
  Balanced(costs, [&](size_t i) { body(tasks[i]); });
}

using Levels = std::vector<std::vector<Segment>>;

template <typename T>
void ForwardTyped(const Levels& levels, const at::Tensor& x, const at::Tensor& y) {
  const int64_t in = x.size(1), out = y.size(1);
  const T* xs = x.const_data_ptr<T>();
  T* ys = y.mutable_data_ptr<T>();
  for (const auto& level : levels) {
    int64_t rows = 0;
    ForEach(SplitRows(level, false, &rows), [&](const Task& task) {
      overlay::Forward<T>(task.segment->view, xs + task.begin * in, task.end - task.begin, task.from, task.to,
                          ys + task.begin * out);
    });
  }
}

template <typename T>
void BackwardTyped(const Levels& levels, const at::Tensor& x, const at::Tensor& dy, const at::Tensor& dx) {
  const int64_t out = dy.size(1);
  const T* xs = x.defined() ? x.const_data_ptr<T>() : nullptr;
  const T* dys = dy.const_data_ptr<T>();
  T* dxs = dx.defined() ? dx.mutable_data_ptr<T>() : nullptr;
  for (const auto& level : levels) {
    if (level.empty()) continue;
    int64_t rows = 0, rank = 0, in = 0;
    for (const Segment& segment : level) {
      rank = std::max(rank, segment.view.rank);
      in = segment.view.in;
    }
    const std::vector<Task> tasks = SplitRows(level, true, &rows);
    const at::Tensor scratch = at::empty({2, rows, std::max<int64_t>(1, rank)}, dy.options());
    T* u = scratch.mutable_data_ptr<T>();
    T* v = u + rows * std::max<int64_t>(1, rank);
    // What reaches the input, block by block; on the way the small products that the values need.
    ForEach(tasks, [&](const Task& task) {
      const PartView& view = task.segment->view;
      if (dxs == nullptr && !view.trainable()) return;
      const T* rows_x = view.trainable() ? xs + task.begin * in : nullptr;
      // A segment's rows lie end to end, each as wide as its own rank.
      const int64_t place = task.scratch * rank + (task.begin - task.segment->begin) * view.rank;
      overlay::BackwardInput<T>(view, rows_x, dys + task.begin * out, task.end - task.begin, task.from,
                                task.to, u + place, v + place,
                                dxs == nullptr ? nullptr : dxs + task.begin * in);
    });
    // The values: pieces of fixed size, each adds a segment's rows in one fixed order.
    struct ValueTask {
      const Segment* segment;
      int64_t scratch, piece;
    };
    std::vector<ValueTask> pieces;
    int64_t first = 0;
    for (const Segment& segment : level) {
      if (segment.view.trainable()) {
        for (int64_t p = 0; p < overlay::Pieces(segment.view); ++p) pieces.push_back({&segment, first, p});
      }
      first += segment.end - segment.begin;
    }
    std::vector<int64_t> costs;
    for (const ValueTask& task : pieces) costs.push_back(task.segment->end - task.segment->begin);
    Balanced(costs, [&](size_t i) {
      const Segment& segment = *pieces[i].segment;
      overlay::Values<T>(segment.view, xs + segment.begin * in, dys + segment.begin * out,
                         segment.end - segment.begin, u + pieces[i].scratch * rank,
                         v + pieces[i].scratch * rank, pieces[i].piece);
    });
  }
}

template <typename F>
void Typed(const at::Tensor& like, F&& body) {
  if (like.scalar_type() == at::kDouble) {
    body(double{});
  } else {
    body(float{});
  }
}

// Segments over the batch's rows as segments over the chosen rows.
Levels Remap(const Levels& levels, const std::vector<int64_t>& rows) {
  Levels mapped(levels.size());
  for (size_t l = 0; l < levels.size(); ++l) {
    for (const Segment& segment : levels[l]) {
      const int64_t begin = std::lower_bound(rows.begin(), rows.end(), segment.begin) - rows.begin();
      const int64_t end = std::lower_bound(rows.begin(), rows.end(), segment.end) - rows.begin();
      if (begin < end) mapped[l].push_back({begin, end, segment.view});
    }
  }
  return mapped;
}

}  // namespace

PartView ViewOf(const DeltaPart& part, int64_t out, int64_t in, double scale) {
  PartView view;
  view.kind = part.kind;
  view.matrix = part.matrix;
  view.out = out;
  view.in = in;
  view.rank = part.rank();
  view.scale = part.scale * scale;
  if (part.a.defined()) view.a = part.a.const_data_ptr();
  if (part.b.defined()) view.b = part.b.const_data_ptr();
  if (part.sigma.defined()) view.sigma = part.sigma.const_data_ptr();
  if (part.values.defined()) view.values = part.values.const_data_ptr();
  if (part.row_offsets.defined()) view.row_offsets = part.row_offsets.const_data_ptr<int32_t>();
  if (part.columns.defined()) view.columns = part.columns.const_data_ptr<int32_t>();
  return view;
}

OverlayPlan::OverlayPlan(const Model& model)
    : levels_(model.tensors().size()),
      trains_(model.tensors().size(), false),
      model_(&model),
      lowest_trainable_(model.config().layers) {}

void OverlayPlan::Add(int64_t level, const Segment& segment) {
  auto& levels = levels_[segment.view.matrix];
  if (static_cast<int64_t>(levels.size()) <= level) levels.resize(level + 1);
  levels[level].push_back(segment);
  if (!segment.view.trainable()) return;
  trainable_ = trains_[segment.view.matrix] = true;
  const MatrixInfo& info = model_->tensors()[segment.view.matrix];
  const int64_t layer = info.module == Module::kEmbedding ? -1
                        : info.layer < 0                  ? model_->config().layers
                                                          : info.layer;
  lowest_trainable_ = std::min(lowest_trainable_, layer);
}

bool OverlayPlan::ReplacesAll(int64_t matrix) const {
  int64_t covered = 0;
  for (const Replacement& r : replaced_) {
    if (r.weights->whole(matrix)) covered += r.end - r.begin;
  }
  return tokens_ > 0 && covered == tokens_;
}

void OverlayPlan::ForwardReplaced(int64_t matrix, const at::Tensor& x, const at::Tensor& y) const {
  for (const Replacement& r : replaced_) {
    const int64_t rows = r.end - r.begin;
    for (const Materialised::Run& run : r.weights->runs(matrix)) {
      y.narrow(0, r.begin, rows)
          .narrow(1, run.begin, run.end - run.begin)
          .copy_(run.linear.Forward(x.narrow(0, r.begin, rows)));
    }
  }
}

void OverlayPlan::Forward(int64_t matrix, const at::Tensor& x, const at::Tensor& y) const {
  if (!Touches(matrix)) return;
  Typed(y, [&](auto zero) { ForwardTyped<decltype(zero)>(levels_[matrix], x, y); });
}

void OverlayPlan::Backward(int64_t matrix, const at::Tensor& x, const at::Tensor& dy,
                           const at::Tensor& dx) const {
  if (!Touches(matrix)) return;
  Typed(dy, [&](auto zero) { BackwardTyped<decltype(zero)>(levels_[matrix], x, dy, dx); });
}

void OverlayPlan::ForwardRows(int64_t matrix, const std::vector<int64_t>& rows, const at::Tensor& x,
                              const at::Tensor& y) const {
  if (!Touches(matrix)) return;
  const Levels levels = Remap(levels_[matrix], rows);
  Typed(y, [&](auto zero) { ForwardTyped<decltype(zero)>(levels, x, y); });
}

void OverlayPlan::BackwardRows(int64_t matrix, const std::vector<int64_t>& rows, const at::Tensor& x,
                               const at::Tensor& dy, const at::Tensor& dx) const {
  if (!Touches(matrix)) return;
  const Levels levels = Remap(levels_[matrix], rows);
  Typed(dy, [&](auto zero) { BackwardTyped<decltype(zero)>(levels, x, dy, dx); });
}

void OverlayPlan::EmbedForward(int64_t matrix, const at::Tensor& tokens, const at::Tensor& y) const {
  if (!Touches(matrix)) return;
  const int32_t* token = tokens.const_data_ptr<int32_t>();
  Typed(y, [&](auto zero) {
    using T = decltype(zero);
    T* ys = y.mutable_data_ptr<T>();
    for (const auto& level : levels_[matrix]) {
      for (const Segment& segment : level) {
        at::parallel_for(segment.begin, segment.end, 16, [&](int64_t begin, int64_t end) {
          for (int64_t t = begin; t < end; ++t)
            overlay::RowForward<T>(segment.view, token[t], ys + t * y.size(1));
        });
      }
    }
  });
}

void OverlayPlan::EmbedBackward(int64_t matrix, const at::Tensor& tokens, const at::Tensor& dy) const {
  if (!Trains(matrix)) return;
  const int32_t* token = tokens.const_data_ptr<int32_t>();
  Typed(dy, [&](auto zero) {
    using T = decltype(zero);
    const T* dys = dy.const_data_ptr<T>();
    for (const auto& level : levels_[matrix]) {
      at::parallel_for(0, static_cast<int64_t>(level.size()), 1, [&](int64_t first, int64_t last) {
        for (int64_t s = first; s < last; ++s) {
          const Segment& segment = level[s];
          if (!segment.view.trainable()) continue;
          for (int64_t t = segment.begin; t < segment.end; ++t) {
            overlay::RowBackward<T>(segment.view, token[t], dys + t * dy.size(1));
          }
        }
      });
    }
  });
}

std::vector<VectorSegment> OverlayPlan::Vectors(int64_t matrix, const at::Tensor& base) const {
  std::vector<int64_t> borders{0, tokens_};
  for (const auto& level : levels_[matrix]) {
    for (const Segment& segment : level) {
      borders.push_back(segment.begin);
      borders.push_back(segment.end);
    }
  }
  std::sort(borders.begin(), borders.end());
  borders.erase(std::unique(borders.begin(), borders.end()), borders.end());
  std::vector<VectorSegment> list;
  for (size_t i = 0; i + 1 < borders.size(); ++i) {
    at::Tensor value = base;
    for (const auto& level : levels_[matrix]) {
      for (const Segment& segment : level) {
        if (segment.begin > borders[i] || segment.end < borders[i + 1]) continue;
        if (value.is_same(base)) value = base.clone();
        Typed(value, [&](auto zero) {
          using T = decltype(zero);
          overlay::RowForward<T>(segment.view, 0, value.mutable_data_ptr<T>());
        });
      }
    }
    list.push_back({borders[i], borders[i + 1], value});
  }
  return list;
}

void OverlayPlan::VectorBackward(int64_t matrix, const at::Tensor& terms) const {
  if (!Trains(matrix)) return;
  const int64_t width = terms.size(1);
  Typed(terms, [&](auto zero) {
    using T = decltype(zero);
    const T* rows = terms.const_data_ptr<T>();
    for (const auto& level : levels_[matrix]) {
      at::parallel_for(0, static_cast<int64_t>(level.size()), 1, [&](int64_t first, int64_t last) {
        std::vector<T> sum(width);
        for (int64_t s = first; s < last; ++s) {
          if (!level[s].view.trainable()) continue;
          std::fill(sum.begin(), sum.end(), T(0));
          for (int64_t t = level[s].begin; t < level[s].end; ++t) {
            for (int64_t j = 0; j < width; ++j) sum[j] += rows[t * width + j];
          }
          overlay::RowBackward<T>(level[s].view, 0, sum.data());
        }
      });
    }
  });
}

OverlayPlan MakeOverlayPlan(const Model& model, const std::vector<int32_t>& offsets,
                            const std::vector<DocumentDeltas>& documents) {
  OverlayPlan plan(model);
  plan.set_tokens(offsets.back());
  const int64_t count = static_cast<int64_t>(documents.size());
  size_t depth = 0;
  for (const auto& document : documents) depth = std::max(depth, document.stack->size());
  // A delta may hold parts of several kinds of one weight: each kind is a level of its own.
  constexpr int64_t kKinds = 4;
  for (size_t level = 0; level < depth; ++level) {
    for (int64_t d = 0; d < count;) {
      if (documents[d].stack->size() <= level) {
        ++d;
        continue;
      }
      const AppliedDelta& applied = (*documents[d].stack)[level];
      int64_t end = d + 1;
      while (end < count && documents[end].stack->size() > level &&
             (*documents[end].stack)[level] == applied &&
             (documents[end].materialised != nullptr) == (documents[d].materialised != nullptr))
        ++end;
      for (const DeltaPart& part : applied.delta->parts) {
        if (documents[d].materialised != nullptr &&
            part.matrix < static_cast<int64_t>(model.matrices().size()))
          continue;
        const MatrixInfo& info = model.tensors()[part.matrix];
        plan.Add(static_cast<int64_t>(level) * kKinds + static_cast<int64_t>(part.kind),
                 {offsets[d], offsets[end], ViewOf(part, info.out, info.in, applied.scale)});
      }
      d = end;
    }
  }
  for (int64_t d = 0; d < count;) {
    const Materialised* weights = documents[d].materialised;
    int64_t end = d + 1;
    while (end < count && documents[end].materialised == weights) ++end;
    if (weights != nullptr) plan.Replace(offsets[d], offsets[end], weights);
    d = end;
  }
  for (int64_t d = 0; d < count;) {
    const TrainableView* trainable = documents[d].trainable;
    int64_t end = d + 1;
    while (end < count && documents[end].trainable == trainable) ++end;
    if (trainable != nullptr) {
      for (const PartView& view : trainable->views) {
        plan.Add(static_cast<int64_t>(depth) * kKinds + static_cast<int64_t>(view.kind),
                 {offsets[d], offsets[end], view});
      }
    }
    d = end;
  }
  return plan;
}

}  // namespace selfedit
