// Slow twin of kernels/adamw.cu. Float where the kernel is: value and moments are kept rounded.
#include "cuda/twins/host.h"

namespace selfedit::cuda {

void AdamW(const AdamWSlots& slots, Stream) {
  for (int64_t s = 0; s < slots.slots; ++s) {
    const int32_t step = slots.adam_step[s];
    if (step <= 0) continue;
    const SlotOptimizer& o = slots.optimizer[s];
    const float* gradient = slots.gradient + s * slots.count;
    double total = 0;
    for (int64_t i = 0; i < slots.count; ++i) total += static_cast<double>(gradient[i]) * gradient[i];
    const double norm = std::sqrt(total), rate = slots.learning_rate[s];
    slots.norm[s] = norm;
    if (!std::isfinite(norm)) {
      if (slots.failed_step != nullptr && slots.failed_step[s] == 0) slots.failed_step[s] = step;
      continue;
    }
    const double clip = o.clip > 0 ? std::fmin(1, o.clip / (norm + 1e-6)) : 1;
    const double root = std::sqrt(1 - std::pow(o.beta2, step));
    const double size = rate / (1 - std::pow(o.beta1, step));
    for (int64_t i = s * slots.count; i < (s + 1) * slots.count; ++i) {
      const double g = slots.gradient[i] * clip;
      const double m = slots.first_moment[i] * o.beta1 + g * (1 - o.beta1);
      const double v = slots.second_moment[i] * o.beta2 + g * g * (1 - o.beta2);
      slots.first_moment[i] = static_cast<float>(m);
      slots.second_moment[i] = static_cast<float>(v);
      slots.value[i] = static_cast<float>(slots.value[i] * (1 - rate * o.weight_decay) -
                                          size * m / (std::sqrt(v) / root + o.epsilon));
      if (slots.shadow != nullptr) host::Store(slots.shadow_type, slots.shadow, i, slots.value[i]);
    }
  }
}

}  // namespace selfedit::cuda
