#include "core/host_delta.h"

namespace selfedit {

DeltaPtr HostDelta(const DeltaPtr& delta) {
  auto host = std::make_shared<Delta>(*delta);
  bool moved = false;
  for (DeltaPart& part : host->parts) {
    for (at::Tensor* t : {&part.a, &part.b, &part.sigma, &part.row_offsets, &part.columns, &part.values}) {
      if (!t->defined() || t->is_cpu()) continue;
      *t = t->cpu();
      moved = true;
    }
  }
  return moved ? host : delta;
}

DeltaStack HostStack(const DeltaStack& stack) {
  DeltaStack host;
  for (const AppliedDelta& applied : stack) host.push_back({HostDelta(applied.delta), applied.scale});
  return host;
}

}  // namespace selfedit
