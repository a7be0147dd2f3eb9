// Attention of one token over cached keys and values.
#include "cpu_reference.h"

namespace selfedit::cpu {
namespace {

struct DecodeShape {
  std::vector<int32_t> prefix, own;
  int64_t H, G, d;
};

const std::vector<DecodeShape> kShapes = {
    {{0, 5, 40, 33, 16, 1, 0}, {10, 1, 7, 190, 16, 0, 1}, 9, 3, 64},
    {{300}, {20}, 8, 8, 128},
    {{3, 64}, {1, 65}, 14, 2, 24},
    {{17, 2}, {5, 9}, 4, 1, 5},
};

template <typename T>
struct Cache {
  std::vector<T> q, k, v;
  std::vector<const T*> prefix_k, prefix_v, own_k, own_v;
  T scale;
  Cache(const DecodeShape& s, uint64_t seed) {
    int64_t tokens = 0;
    for (size_t b = 0; b < s.own.size(); ++b) tokens += s.prefix[b] + s.own[b];
    q = Normal<T>(s.own.size() * s.H * s.d, seed);
    k = Normal<T>(tokens * s.G * s.d, seed + 1);
    v = Normal<T>(tokens * s.G * s.d, seed + 2);
    scale = static_cast<T>(1 / std::sqrt(static_cast<double>(s.d)));
    int64_t at = 0;
    for (size_t b = 0; b < s.own.size(); ++b) {
      prefix_k.push_back(s.prefix[b] ? k.data() + at : nullptr);
      prefix_v.push_back(s.prefix[b] ? v.data() + at : nullptr);
      at += s.prefix[b] * s.G * s.d;
      own_k.push_back(k.data() + at);
      own_v.push_back(v.data() + at);
      at += s.own[b] * s.G * s.d;
    }
  }
};

template <typename T>
std::vector<T> Compute(const DecodeShape& s, const Cache<T>& c) {
  std::vector<T> out(c.q.size(), std::numeric_limits<T>::quiet_NaN());
  AttentionDecode<T>(c.q.data(), c.prefix_k.data(), c.prefix_v.data(), s.prefix.data(), c.own_k.data(),
                     c.own_v.data(), s.own.data(), s.own.size(), s.H, s.G, s.d, c.scale, out.data());
  return out;
}

template <typename T>
class CpuDecode : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(CpuDecode, Types);

TYPED_TEST(CpuDecode, AgreesWithTwin) {
  for (const DecodeShape& s : kShapes) {
    const Cache<TypeParam> c(s, 31);
    std::vector<double> expected;
    // The last token of a document attends to all of it: the twin of the forward pass serves.
    int64_t at = 0;
    for (size_t b = 0; b < s.own.size(); ++b) {
      const int32_t length = s.prefix[b] + s.own[b];
      const auto keys = Wide(c.k), values = Wide(c.v), queries = Wide(c.q);
      const int64_t width = s.G * s.d, row = s.H * s.d;
      std::vector<double> q(length * row);
      std::copy_n(queries.begin() + b * row, row, q.begin() + (length - 1) * row);
      const auto a = twin::Attend(
          {{length}, s.H, s.G, s.d}, q, {keys.begin() + at * width, keys.begin() + (at + length) * width},
          {values.begin() + at * width, values.begin() + (at + length) * width}, c.scale);
      expected.insert(expected.end(), a.out.end() - row, a.out.end());
      at += length;
    }
    ForEachSimd(
        [&] { EXPECT_LT(Difference(Compute(s, c), expected), kTolerance<TypeParam>) << "d " << s.d; });
  }
}

// Where the shared prefix ends is a matter of memory, not of arithmetic.
TYPED_TEST(CpuDecode, SameBitsWhereverThePrefixEnds) {
  const int32_t length = 75;
  ForEachSimd([&] {
    for (int64_t d : {64, 10}) {
      DecodeShape whole{{0}, {length}, 6, 2, d};
      const Cache<TypeParam> c(whole, 8);
      const std::vector<TypeParam> expected = Compute(whole, c);
      for (int32_t prefix = 1; prefix <= length; prefix += 3) {
        DecodeShape split{{prefix}, {length - prefix}, 6, 2, d};
        const Cache<TypeParam> same(split, 8);
        EXPECT_TRUE(SameBits(Compute(split, same), expected)) << "prefix of " << prefix << ", d " << d;
      }
    }
  });
}

TYPED_TEST(CpuDecode, IndependentOfBatchMatesAndThreads) {
  const DecodeShape& s = kShapes[0];
  const Cache<TypeParam> c(s, 77);
  ForEachSimd([&] {
    std::vector<TypeParam> together;
    {
      const Threads one(1);
      together = Compute(s, c);
    }
    const Threads two(2);
    EXPECT_TRUE(SameBits(Compute(s, c), together));
    const int64_t row = s.H * s.d;
    for (size_t b = 0; b < s.own.size(); ++b) {
      std::vector<TypeParam> alone(row);
      AttentionDecode<TypeParam>(c.q.data() + b * row, &c.prefix_k[b], &c.prefix_v[b], &s.prefix[b],
                                 &c.own_k[b], &c.own_v[b], &s.own[b], 1, s.H, s.G, s.d, c.scale,
                                 alone.data());
      EXPECT_TRUE(SameBits(alone, {together.begin() + b * row, together.begin() + (b + 1) * row}))
          << "row " << b;
    }
  });
}

// Rows that share one prefix read the same memory.
TEST(CpuDecodeFloat, SharedPrefix) {
  const DecodeShape one{{30}, {4}, 4, 2, 16};
  const Cache<float> c(one, 4);
  const int32_t prefix[] = {30, 30}, own[] = {4, 3};
  const float *pk[] = {c.prefix_k[0], c.prefix_k[0]}, *pv[] = {c.prefix_v[0], c.prefix_v[0]};
  const float *ok[] = {c.own_k[0], c.own_k[0]}, *ov[] = {c.own_v[0], c.own_v[0]};
  std::vector<float> q(c.q);
  q.insert(q.end(), c.q.begin(), c.q.end());
  ForEachSimd([&] {
    std::vector<float> out(q.size());
    AttentionDecode<float>(q.data(), pk, pv, prefix, ok, ov, own, 2, 4, 2, 16, c.scale, out.data());
    EXPECT_TRUE(SameBits({out.begin(), out.begin() + c.q.size()}, Compute(one, c)));
    DecodeShape shorter = one;
    shorter.own = {3};
    EXPECT_TRUE(SameBits({out.begin() + c.q.size(), out.end()}, Compute(shorter, c)));
  });
}

}  // namespace
}  // namespace selfedit::cpu
