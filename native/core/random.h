// Keys and keyed draws on the host (decision 6).
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

namespace selfedit {

uint64_t DeriveKey(uint64_t seed, std::string_view purpose, const std::vector<int32_t>& indices);
// Fisher–Yates over keyed draws.
std::vector<int32_t> Permutation(uint64_t key, int32_t n);
std::vector<double> Uniform(uint64_t key, int64_t n);

}  // namespace selfedit
