#include "bf16_gemm.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "bf16_gemm_variants.h"
#include "dispatch.h"
#include "kernels.h"
#include "scratch.h"
#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace selfedit::cpu {
namespace {

// Rows that one task packs and multiplies: few enough that they stay in the second-level cache.
constexpr int64_t kTaskRows = 256;
// Up to so many, the threads share the columns: the matrix is read once.
constexpr int64_t kFewRows = 64;
// Multiply-adds that are not worth a second thread.
constexpr int64_t kSerial = 1 << 18;
constexpr int64_t kRowsTogether = 2 * kBf16Rows;

int64_t Parts(int64_t count, int64_t size) { return (count + size - 1) / size; }

#if defined(__x86_64__)
bool HasAvx512Bf16() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
}

// Intel's vdpbf16ps does not pay (measured on a Xeon with AMX, one thread: 100 GFLOP/s where widening gives
// 140).
bool SlowDot() { return __builtin_cpu_is("intel"); }

#if defined(__linux__)
uint64_t EnabledStates() {  // XCR0: what the operating system saves
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}
#endif

// The tiles must be asked for: their state enlarges every signal frame of the process.
bool HasAmx() {
#if defined(__linux__)
  unsigned a, b, c, d;
  constexpr unsigned kTile = 1u << 24, kBf16 = 1u << 22;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTile) == 0 || (d & kBf16) == 0) return false;
  constexpr uint64_t kTileStates = 3u << 17;
  if ((EnabledStates() & kTileStates) != kTileStates) return false;
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}
#endif

// Best first; null where the machine or the compiler lacks it.
constexpr int kDot = 1;
struct Sets {
  const Bf16Set* list[5] = {};
  bool slow_dot = false;  // taken only when asked for
  Sets() {
#if defined(__x86_64__)
    if (SimdSupported("avx512")) {
      if (amx::kBf16 && HasMatrixUnits()) list[0] = amx::kBf16;
      if (avx512bf16::kBf16 && HasAvx512Bf16()) list[kDot] = avx512bf16::kBf16;
      slow_dot = SlowDot();
      list[2] = &avx512::kBf16;
    }
    if (SimdSupported("avx2")) list[3] = &avx2::kBf16;
#endif
    list[4] = &portable::kBf16;
  }
};

const Sets& Available() {
  static const Sets sets;
  return sets;
}

std::atomic<const Bf16Set*> pinned{nullptr};

const Bf16Set& Selected() {
  if (const Bf16Set* set = pinned.load(std::memory_order_acquire)) return *set;
  // Not above the level that the other kernels were told to use.
  const char* simd = SimdName();
  const int from = std::strcmp(simd, "avx512") == 0 ? 0 : std::strcmp(simd, "avx2") == 0 ? 3 : 4;
  const Sets& sets = Available();
  for (int i = from; i < 4; ++i) {
    if (sets.list[i] && !(i == kDot && sets.slow_dot)) return *sets.list[i];
  }
  return portable::kBf16;
}

}  // namespace

bool HasMatrixUnits() {
#if defined(__x86_64__)
  static const bool found = HasAvx512Bf16() && HasAmx();
  return found;
#else
  return false;
#endif
}

const char* Bf16SimdName() { return Selected().name; }

bool SelectBf16Simd(const char* name) {
  if (!name) {
    pinned.store(nullptr, std::memory_order_release);
    return true;
  }
  for (const Bf16Set* set : Available().list) {
    if (!set || std::strcmp(set->name, name) != 0) continue;
    pinned.store(set, std::memory_order_release);
    return true;
  }
  return false;
}

void Bf16Product(const Bf16Weight& w, const float* x, int64_t m, int64_t ldx, float* y, int64_t ldy,
                 int terms, bool accumulate) {
  const int64_t out = w.out(), in = w.in();
  if (m <= 0 || out <= 0) return;
  if (in <= 0) {
    for (int64_t i = 0; i < m && !accumulate; ++i) std::fill_n(y + i * ldy, out, 0.0f);
    return;
  }
  const Bf16Set& set = Selected();
  const int64_t panels = Parts(out, kBf16Panel), steps = Parts(in, kBf16Step);
  const int64_t threads = m * out * in <= kSerial ? 1 : omp_get_max_threads();
  // Rows while there are enough for every thread, then also parts of the columns.
  const int64_t share = Parts(Parts(m, threads), kRowsTogether) * kRowsTogether;
  const int64_t task_rows = std::clamp(share, kFewRows, kTaskRows);
  const int64_t row_tasks = Parts(m, task_rows);
  const int64_t column_tasks = row_tasks >= threads ? 1 : std::min(panels, Parts(threads, row_tasks));
  const int64_t operands = set.one_operand ? 1 : terms;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    int64_t held = -1;  // the row task whose rows lie in the scratch
    void* operand = nullptr;
#pragma omp for schedule(static)
    for (int64_t task = 0; task < row_tasks * column_tasks; ++task) {
      const int64_t row_task = task / column_tasks, part = task % column_tasks;
      const int64_t row = row_task * task_rows, rows = std::min(task_rows, m - row);
      if (held != row_task) {
        operand = Scratch(
            static_cast<size_t>(Parts(rows, kBf16Rows) * operands * steps * kBf16Tile * set.operand_bytes));
        set.pack(x + row * ldx, ldx, rows, in, terms, operand);
        held = row_task;
      }
      set.product({w.data(), operand, steps, rows, out, terms, panels * part / column_tasks,
                   panels * (part + 1) / column_tasks, y + row * ldy, ldy, accumulate});
    }
  }
}

}  // namespace selfedit::cpu
