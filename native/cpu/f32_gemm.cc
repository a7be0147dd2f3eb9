#include "f32_gemm.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "bf16_gemm_variants.h"
#include "dispatch.h"
#include "f32_gemm_variants.h"
#include "packed_memory.h"

namespace selfedit::cpu {
namespace {

int64_t Parts(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Multiply-adds that are not worth a second thread.
constexpr int64_t kSerial = 1 << 18;
constexpr int64_t kRowsTogether = 32;

const F32Set* MatrixUnits() {
#if defined(__x86_64__)
  if (amx::kF32 && HasMatrixUnits() && std::strcmp(SimdName(), "avx512") == 0) return amx::kF32;
#endif
  return nullptr;
}

std::atomic<const F32Set*> pinned{nullptr};

const F32Set& Selected() {
  if (const F32Set* set = pinned.load(std::memory_order_acquire)) return *set;
  const F32Set* units = MatrixUnits();
  return units ? *units : portable::kF32;
}

// A block of W^T, 32 of k by 32 columns, of which `depth` and `columns` exist.
void PackBlock(const float* w, int64_t row, int64_t column, int64_t columns, int64_t depth, float* block) {
  if (columns < kF32Panel || depth < kF32Step) std::memset(block, 0, kF32Block * sizeof(float));
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t c = 0; c < columns; ++c) block[k * kF32Panel + c] = w[c * row + k * column];
  }
}

}  // namespace

F32Weight::F32Weight(const float* w, int64_t out, int64_t in, bool transposed) : out_(out), in_(in) {
  const int64_t panels = Parts(out, kF32Panel), steps = Parts(in, kF32Step);
  packed_ = std::static_pointer_cast<float>(PackedMemory(bytes()));
  float* packed = packed_.get();
  const int64_t row = transposed ? 1 : in, column = transposed ? out : 1;
#pragma omp parallel for schedule(static) if (panels * steps > 64)
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t s = 0; s < steps; ++s) {
      const int64_t o = panel * kF32Panel, k = s * kF32Step;
      PackBlock(w + o * row + k * column, row, column, std::min(kF32Panel, out - o),
                std::min(kF32Step, in - k), packed + (panel * steps + s) * kF32Block);
    }
  }
}

int64_t F32Weight::bytes() const {
  return Parts(out_, kF32Panel) * Parts(in_, kF32Step) * kF32Block * static_cast<int64_t>(sizeof(float));
}

bool F32ProductPays() { return Selected().name != portable::kF32.name; }

const char* F32SimdName() { return Selected().name; }

bool SelectF32Simd(const char* name) {
  const F32Set* set = nullptr;
  if (name) {
    for (const F32Set* known : {MatrixUnits(), &portable::kF32}) {
      if (known && std::strcmp(known->name, name) == 0) set = known;
    }
    if (!set) return false;
  }
  pinned.store(set, std::memory_order_release);
  return true;
}

void F32Product(const F32Weight& w, const float* x, int64_t m, int64_t ldx, float* y, int64_t ldy,
                bool accumulate) {
  const int64_t out = w.out(), in = w.in();
  if (m <= 0 || out <= 0) return;
  if (in <= 0) {
    for (int64_t i = 0; i < m && !accumulate; ++i) std::fill_n(y + i * ldy, out, 0.0f);
    return;
  }
  const F32Set& set = Selected();
  const int64_t panels = Parts(out, kF32Panel);
  const int64_t threads = m * out * in <= kSerial ? 1 : omp_get_max_threads();
  // A thread cuts its part of both operands into terms: share the larger one.
  const bool by_columns = out >= m && panels >= threads;
  const int64_t blocks = Parts(m, kRowsTogether);
  const int64_t tasks = std::min(threads, by_columns ? panels : blocks);
#pragma omp parallel for schedule(static) num_threads(tasks) if (tasks > 1)
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t row = by_columns ? 0 : blocks * task / tasks * kRowsTogether;
    const int64_t end = by_columns ? m : std::min(m, blocks * (task + 1) / tasks * kRowsTogether);
    set.product({w.data(), x + row * ldx, ldx, end - row, in, out, by_columns ? panels * task / tasks : 0,
                 by_columns ? panels * (task + 1) / tasks : panels, y + row * ldy, ldy, accumulate});
  }
}

}  // namespace selfedit::cpu
