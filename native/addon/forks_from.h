// The forks of a call.
#pragma once
#include <napi.h>

#include <memory>
#include <string>
#include <vector>

#include "addon/convert.h"
#include "addon/handles.h"
#include "core/materialised.h"

namespace selfedit::addon {

struct Forks {
  std::shared_ptr<Model> model;
  std::vector<DeltaStack> stacks;
  std::vector<std::shared_ptr<const Materialised>> materialised;  // null where a fork has none
};

// Copies the stacks: what a job sees does not change when the fork does.
inline Forks ForksFrom(const Napi::Object& object) {
  const Napi::Array list = List(object.Get("forks"), "forks");
  Forks forks;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Fork& fork = Unwrap<ForkHandle>(list.Get(i)).get();
    if (forks.model && forks.model != fork.model) {
      throw Error("INPUT_INVALID",
                  "fork " + std::to_string(i) + " belongs to another model; all forks of a call share one");
    }
    forks.model = fork.model;
    forks.stacks.push_back(fork.stack);
    forks.materialised.push_back(fork.slot ? fork.slot->get() : nullptr);
  }
  if (!forks.model) Invalid("forks", "at least one fork");
  return forks;
}

}  // namespace selfedit::addon
