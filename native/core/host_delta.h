// Deltas that a device made, for those who compute on the host.
#pragma once
#include "core/delta.h"

namespace selfedit {

// The same delta with its tensors on the host; itself when they are there.
DeltaPtr HostDelta(const DeltaPtr& delta);
DeltaStack HostStack(const DeltaStack& stack);

}  // namespace selfedit
