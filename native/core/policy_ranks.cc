// The parts of a policy step that many ranks take together.
#include <algorithm>
#include <utility>

#include "core/policy.h"
#include "core/process_group.h"
#include "format/sha256.h"

namespace selfedit {

void Policy::ReduceGradient(ProcessGroup* group, const JobControl& control) {
  if (group == nullptr) return;
  group->AllReduce(delta_.gradient(), control);
  if (has_value_head()) group->AllReduce(value_gradient_, control);
}

int64_t Policy::gradient_bytes() const {
  const int64_t values = value_gradient_.defined() ? value_gradient_.numel() : 0;
  return (delta_.gradient().numel() + values) * delta_.gradient().element_size();
}

void Policy::KeepGradient() {
  const at::Tensor& own = delta_.gradient();
  const int64_t count = own.numel() + (has_value_head() ? value_gradient_.numel() : 0);
  at::Tensor flat = at::empty({count}, own.options());
  flat.narrow(0, 0, own.numel()).copy_(own);
  if (has_value_head()) flat.narrow(0, own.numel(), value_gradient_.numel()).copy_(value_gradient_);
  kept_.push_back(std::move(flat));
}

void Policy::SumKept(ProcessGroup* group, const std::vector<int32_t>& owners, const JobControl& control) {
  const std::vector<at::Tensor> kept = std::exchange(kept_, {});
  const int64_t rank = group == nullptr ? 0 : group->rank();
  const auto mine = static_cast<size_t>(std::count(owners.begin(), owners.end(), rank));
  if (kept.size() != mine) {
    throw Error("INPUT_INVALID", "rank " + std::to_string(rank) + " keeps " + std::to_string(kept.size()) +
                                     " gradients; expected " + std::to_string(mine));
  }
  delta_.ZeroGradient();
  if (has_value_head()) value_gradient_.zero_();
  const int64_t count = delta_.count(), values = has_value_head() ? value_gradient_.numel() : 0;
  at::Tensor arriving;
  size_t next = 0;
  for (const int32_t owner : owners) {
    at::Tensor term;
    if (owner == rank) {
      term = kept[next++];
    } else {
      if (!arriving.defined()) arriving = at::empty({count + values}, delta_.gradient().options());
      term = arriving;
    }
    if (group != nullptr) group->BroadcastTensor(term, owner, control);
    delta_.gradient().add_(term.narrow(0, 0, count));
    if (values > 0) value_gradient_.add_(term.narrow(0, count, values));
  }
}

std::string Policy::Fingerprint() {
  Sha256 hash;
  for (const at::Tensor& tensor : {delta_.values(), delta_.first_moment(), delta_.second_moment(), value_,
                                   value_first_, value_second_}) {
    if (tensor.defined()) hash.Update(tensor.const_data_ptr(), static_cast<size_t>(tensor.nbytes()));
  }
  const int64_t counters[] = {steps_, optimizer_start_};
  hash.Update(counters, sizeof counters);
  return hash.HexDigest();
}

}  // namespace selfedit
