// Copy-on-write proper: of the linear maps that a stack of deltas touches, the row blocks that it changes are
// copied and changed in place; everything else stays shared with the model. An alternative to the overlay
// where one fork works for long (decoding) under deltas that cost much in every product (dense, sparse).
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "core/delta.h"
#include "core/linear.h"
#include "core/model.h"

namespace selfedit {

constexpr int64_t kCopiedRows = 64;  // rows of a weight that are copied together

class Materialised {
 public:
  // Neighbouring changed blocks of one weight: rows [begin, end) with all deltas added, in the weights'
  // stored type.
  struct Run {
    int64_t begin = 0, end = 0;
    Linear linear;
  };
  static std::shared_ptr<const Materialised> Make(const Model& model, const DeltaStack& stack,
                                                  const JobControl& control);
  // Ascending; empty when no row of the matrix changes.
  const std::vector<Run>& runs(int64_t matrix) const { return runs_[matrix]; }
  bool whole(int64_t matrix) const;
  int64_t bytes() const;  // copied rows, and what has been packed of them so far

 private:
  void Copy(const Model& model, const DeltaStack& stack, const JobControl& control);

  std::vector<std::vector<Run>> runs_;
  std::vector<int64_t> rows_;
};

// Where a fork and its copies keep the result until one of them changes its list.
class MaterialisedSlot {
 public:
  std::shared_ptr<const Materialised> get() const {
    std::lock_guard lock(mutex_);
    return value_;
  }
  void set(std::shared_ptr<const Materialised> value) {
    std::lock_guard lock(mutex_);
    value_ = std::move(value);
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const Materialised> value_;
};

// How a call applies deltas.
enum class Application { kAuto, kOverlay, kMaterialised };

// The cost model of kAuto, in bytes moved: `steps` decode steps read the deltas' values each, against
// reading, changing and packing the touched rows once. Never for bfloat16, where the copy would be rounded
// and the overlay is not.
bool MaterialisingPays(const Model& model, const DeltaStack& stack, int64_t steps);

}  // namespace selfedit
