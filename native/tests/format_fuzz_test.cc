// Seeded damage to good files: opening either succeeds or throws Error, and a file that opens can be used in
// full. Endless damage guided by coverage, under sanitizers: fuzz/.
#include "format_helpers.h"
#include "fuzz/use_file.h"

namespace selfedit {
namespace {

#include "format_fixture.inc"

using format_test::Bytes;
using fuzz::UseAsFile;

void Damage(const Bytes& good, Format format, size_t header_bytes, uint32_t seed) {
  ASSERT_TRUE(UseAsFile(good, format));
  uint32_t state = seed;
  const auto random = [&state](size_t below) {
    state = state * 1664525u + 1013904223u;
    return static_cast<size_t>((static_cast<uint64_t>(state) * below) >> 32);
  };
  const uint8_t telling[] = {0, 1, 0x7F, 0x80, 0xFF, '"', '{', '}', '[', ']', ',', '9', '-'};
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    Bytes bytes = good;
    for (size_t change = random(3) + 1; change > 0; --change) {
      const size_t at = random(std::min(bytes.size(), header_bytes));
      switch (random(6)) {
        case 0:
          bytes[at] ^= static_cast<uint8_t>(1u << random(8));
          break;
        case 1:
          bytes[at] = static_cast<uint8_t>(random(256));
          break;
        case 2:
          bytes[at] = telling[random(std::size(telling))];
          break;
        case 3:
          bytes.erase(bytes.begin() + at,
                      bytes.begin() + at + random(std::min<size_t>(9, bytes.size() - at)));
          break;
        case 4:
          bytes.insert(bytes.begin() + at, random(9), telling[random(std::size(telling))]);
          break;
        default:
          std::fill_n(bytes.begin() + at, std::min<size_t>(8, bytes.size() - at), random(2) ? 0xFF : 0x7F);
      }
      if (bytes.empty()) bytes.push_back(0);
    }
    if (!UseAsFile(bytes, format)) ++refused;
  }
  EXPECT_GT(refused, 10000);  // the damage does reach the checks
}

TEST(FormatFuzz, DamagedGgufIsRefusedOrSound) {
  const Bytes good(std::begin(kGgufPyFile), std::end(kGgufPyFile));
  const auto file = format_test::OpenBytes(good);
  Damage(good, file->format(), file->tensors()[0].offset, 1);
}

TEST(FormatFuzz, DamagedSafetensorsIsRefusedOrSound) {
  const Bytes good(std::begin(kLibrarySafetensors), std::end(kLibrarySafetensors));
  const auto file = format_test::OpenBytes(good);
  Damage(good, file->format(), file->tensors()[0].offset, 2);
}

}  // namespace
}  // namespace selfedit
