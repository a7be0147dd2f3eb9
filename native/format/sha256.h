// SHA-256 (FIPS 180-4), for fingerprints of weights and files.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace selfedit {

class Sha256 {
 public:
  /// `plain` takes the portable code where the processor has SHA instructions too (for tests).
  explicit Sha256(bool plain = false);
  void Update(const void* data, size_t bytes);
  /// Digest of everything so far; the object must not be updated afterwards.
  std::array<uint8_t, 32> Digest();
  /// The same as 64 lower-case hexadecimal digits.
  std::string HexDigest();

 private:
  void (*compress_)(uint32_t* state, const uint8_t* data, size_t blocks);
  std::array<uint32_t, 8> state_;
  std::array<uint8_t, 64> buffer_;
  uint64_t total_ = 0;
};

}  // namespace selfedit
