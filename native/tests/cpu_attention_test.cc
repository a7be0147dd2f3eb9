// Attention over ragged documents against its slow twin, finite differences, and itself alone.
#include "cpu_reference.h"

namespace selfedit::cpu {
namespace {

const std::vector<AttentionShape> kShapes = {
    {{50, 0, 1, 128, 7, 129, 65}, 9, 3, 64},  // skewed, with an empty document and one of a single token
    {{16, 16, 16, 16}, 4, 4, 16},             // identical
    {{1, 2, 3, 4, 5, 6, 17, 31}, 6, 2, 24},   // distinct; a head size that is no whole number of vectors
    {{300, 0, 0, 2}, 5, 1, 80},               // several blocks of keys; one kv head
    {{40, 13}, 2, 1, 128},
    {{0}, 4, 2, 8},
    {{33, 5}, 14, 2, 3},
    // Padding: behind the first block of keys, within it, from the second token on, none.
    {{300, 90, 200, 20, 1}, 4, 2, 16, {140, 17, 1, 20, 1}},
    {{129, 300}, 6, 2, 24, {128, 129}},
    // Windows: of two tokens, narrower and wider than a block of keys, over its edges, wider than documents.
    {{50, 0, 1, 300, 129}, 9, 3, 20, {}, 2},
    {{50, 0, 1, 300, 129, 64}, 6, 2, 24, {}, 7},
    {{400, 128, 3}, 4, 4, 64, {}, 128},
    {{700, 33}, 5, 1, 80, {}, 130},
    {{300, 257}, 14, 2, 3, {}, 256},
};

template <typename T>
struct Inputs {
  std::vector<T> q, k, v, dout;
  T scale;
  Inputs(const AttentionShape& s, uint64_t seed)
      : q(Normal<T>(s.Tokens() * s.H * s.d, seed)),
        k(Normal<T>(s.Tokens() * s.G * s.d, seed + 1)),
        v(Normal<T>(s.Tokens() * s.G * s.d, seed + 2)),
        dout(Normal<T>(s.Tokens() * s.H * s.d, seed + 3)),
        scale(static_cast<T>(1 / std::sqrt(static_cast<double>(s.d)))) {}
};

template <typename T>
struct Results {
  std::vector<T> out, lse, dq, dk, dv;
};

// Outputs start as NaN: whatever is not written shows.
template <typename T>
Results<T> Compute(const AttentionShape& s, const Inputs<T>& in) {
  const int64_t n = s.Tokens();
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const std::vector<T> queries(n * s.H * s.d, nan), keys(n * s.G * s.d, nan);
  Results<T> r{queries, std::vector<T>(n * s.H, nan), queries, keys, keys};
  const std::vector<int32_t> offsets = s.Offsets();
  const int32_t* attended = s.attended.empty() ? nullptr : s.attended.data();
  AttentionForward<T>(in.q.data(), in.k.data(), in.v.data(), offsets.data(), attended, s.Documents(), s.H,
                      s.G, s.d, in.scale, s.window, r.out.data(), r.lse.data());
  AttentionBackward<T>(in.q.data(), in.k.data(), in.v.data(), r.out.data(), r.lse.data(), in.dout.data(),
                       offsets.data(), attended, s.Documents(), s.H, s.G, s.d, in.scale, s.window,
                       r.dq.data(), r.dk.data(), r.dv.data());
  return r;
}

template <typename T>
class CpuAttention : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(CpuAttention, Types);

TYPED_TEST(CpuAttention, AgreesWithTwin) {
  for (const AttentionShape& s : kShapes) {
    const Inputs<TypeParam> in(s, 11);
    const twin::Attention expected =
        twin::Attend(s, Wide(in.q), Wide(in.k), Wide(in.v), in.scale, Wide(in.dout));
    ForEachSimd([&] {
      SCOPED_TRACE("first length " + std::to_string(s.lengths[0]) + ", d " + std::to_string(s.d));
      const Results<TypeParam> r = Compute(s, in);
      EXPECT_LT(Difference(r.out, expected.out), kTolerance<TypeParam>);
      EXPECT_LT(Difference(r.lse, expected.lse), kTolerance<TypeParam>);
      EXPECT_LT(Difference(r.dq, expected.dq), kTolerance<TypeParam>);
      EXPECT_LT(Difference(r.dk, expected.dk), kTolerance<TypeParam>);
      EXPECT_LT(Difference(r.dv, expected.dv), kTolerance<TypeParam>);
    });
  }
}

// Scores far apart: the running maximum moves, most probabilities vanish, none may become NaN.
TYPED_TEST(CpuAttention, LargeScores) {
  for (const int64_t window : {0, 2, 130}) {
    const AttentionShape s{{300, 3}, 2, 1, 16, {}, window};
    Inputs<TypeParam> in(s, 5);
    for (TypeParam& x : in.q) x *= 40;
    const twin::Attention expected =
        twin::Attend(s, Wide(in.q), Wide(in.k), Wide(in.v), in.scale, Wide(in.dout));
    // A score of 200 carries rounding of 1e-5 into the exponent.
    const double tolerance = sizeof(TypeParam) == 4 ? 1e-4 : 1e-11;
    ForEachSimd([&] {
      const Results<TypeParam> r = Compute(s, in);
      EXPECT_LT(Difference(r.out, expected.out), tolerance);
      EXPECT_LT(Difference(r.dq, expected.dq), tolerance);
      EXPECT_LT(Difference(r.dk, expected.dk), tolerance);
      EXPECT_LT(Difference(r.dv, expected.dv), tolerance);
    });
  }
}

// A document's results are the same bits alone, in a batch, anywhere in it, and on any number of threads.
TYPED_TEST(CpuAttention, IndependentOfBatchMatesAndThreads) {
  for (const AttentionShape& s : kShapes) {
    const Inputs<TypeParam> in(s, 23);
    const std::vector<int32_t> offsets = s.Offsets();
    ForEachSimd([&] {
      Results<TypeParam> together;
      {
        const Threads one(1);
        together = Compute(s, in);
      }
      {
        const Threads two(2);
        const Results<TypeParam> r = Compute(s, in);
        EXPECT_TRUE(SameBits(r.out, together.out) && SameBits(r.lse, together.lse));
        EXPECT_TRUE(SameBits(r.dq, together.dq) && SameBits(r.dk, together.dk) &&
                    SameBits(r.dv, together.dv));
      }
      for (int64_t t = 0; t < s.Documents(); ++t) {
        AttentionShape alone{{s.lengths[t]}, s.H, s.G, s.d, {}, s.window};
        if (!s.attended.empty()) alone.attended = {s.attended[t]};
        const auto part = [&](const std::vector<TypeParam>& x, int64_t width) {
          return std::vector<TypeParam>(x.begin() + offsets[t] * width, x.begin() + offsets[t + 1] * width);
        };
        Inputs<TypeParam> own(alone, 0);
        own.q = part(in.q, s.H * s.d);
        own.k = part(in.k, s.G * s.d);
        own.v = part(in.v, s.G * s.d);
        own.dout = part(in.dout, s.H * s.d);
        const Results<TypeParam> r = Compute(alone, own);
        EXPECT_TRUE(SameBits(r.out, part(together.out, s.H * s.d))) << "document " << t;
        EXPECT_TRUE(SameBits(r.lse, part(together.lse, s.H))) << "document " << t;
        EXPECT_TRUE(SameBits(r.dq, part(together.dq, s.H * s.d))) << "document " << t;
        EXPECT_TRUE(SameBits(r.dk, part(together.dk, s.G * s.d))) << "document " << t;
        EXPECT_TRUE(SameBits(r.dv, part(together.dv, s.G * s.d))) << "document " << t;
      }
    });
  }
}

TEST(CpuAttentionDouble, BackwardIsTheDerivative) {
  for (const AttentionShape& s :
       {AttentionShape{{5, 0, 1, 9}, 4, 2, 6}, AttentionShape{{19}, 3, 1, 8},
        AttentionShape{{11, 7}, 4, 2, 6, {4, 1}}, AttentionShape{{11, 7, 2}, 4, 2, 6, {}, 3}}) {
    Inputs<double> in(s, 3);
    ForEachSimd([&] {
      const Results<double> r = Compute(s, in);
      const auto loss = [&] {
        const Results<double> moved = Compute(s, in);
        double sum = 0;
        for (size_t i = 0; i < moved.out.size(); ++i) sum += moved.out[i] * in.dout[i];
        return sum;
      };
      const auto check = [&](std::vector<double>& x, const std::vector<double>& gradient, const char* name) {
        const double h = 1e-5;
        for (size_t i = 0; i < x.size(); ++i) {
          const double before = x[i];
          x[i] = before + h;
          const double up = loss();
          x[i] = before - h;
          const double down = loss();
          x[i] = before;
          ASSERT_NEAR((up - down) / (2 * h), gradient[i], 1e-7) << name << " " << i;
        }
      };
      check(in.q, r.dq, "dq");
      check(in.k, r.dk, "dk");
      check(in.v, r.dv, "dv");
    });
  }
}

// The future never reaches the past.
TEST(CpuAttentionFloat, Causal) {
  const AttentionShape s{{150}, 3, 1, 64};
  Inputs<float> in(s, 9);
  ForEachSimd([&] {
    const Results<float> before = Compute(s, in);
    Inputs<float> changed = in;
    for (int64_t i = 100 * s.d; i < 150 * s.d; ++i) changed.k[i] = changed.v[i] = 7;
    const Results<float> after = Compute(s, changed);
    const int64_t past = 100 * s.H * s.d;
    EXPECT_EQ(std::memcmp(before.out.data(), after.out.data(), past * sizeof(float)), 0);
    EXPECT_NE(std::memcmp(before.out.data() + past, after.out.data() + past, 8), 0);
  });
}

// What lies before the window never reaches the query: the bits are the same, as are those of a window that
// reaches beyond the beginning and of none.
TEST(CpuAttentionFloat, Window) {
  AttentionShape s{{300}, 3, 1, 64, {}, 40};
  Inputs<float> in(s, 9);
  ForEachSimd([&] {
    const Results<float> before = Compute(s, in);
    Inputs<float> changed = in;
    for (int64_t i = 0; i < 100 * s.d; ++i) changed.k[i] = changed.v[i] = 7;
    const Results<float> after = Compute(s, changed);
    const int64_t first = 139 * s.H * s.d;  // the first query that sees nothing of the first 100 tokens
    EXPECT_EQ(std::memcmp(before.out.data() + first, after.out.data() + first,
                          (before.out.size() - first) * sizeof(float)),
              0);
    EXPECT_NE(std::memcmp(before.out.data() + first - s.d, after.out.data() + first - s.d, 8), 0);
    AttentionShape wide = s, none = s;
    wide.window = 300;
    none.window = 0;
    EXPECT_TRUE(SameBits(Compute(wide, in).out, Compute(none, in).out));
    EXPECT_TRUE(SameBits(Compute(wide, in).dk, Compute(none, in).dk));
  });
}

// A query that sees itself alone gives back its value, whatever the scores: nothing flows to q and k.
TEST(CpuAttentionFloat, WindowOfOneToken) {
  const AttentionShape s{{50, 0, 1, 300, 129}, 3, 3, 20, {}, 1};
  const Inputs<float> in(s, 9);
  ForEachSimd([&] {
    const Results<float> r = Compute(s, in);
    EXPECT_LT(Difference(r.out, Wide(in.v)), 1e-6);
    EXPECT_LT(Difference(r.dv, Wide(in.dout)), 5e-6);
    const std::vector<double> nothing(in.q.size(), 0);
    EXPECT_LT(Difference(r.dq, nothing, 1), 1e-4);  // of sums of a hundred products of size one
    EXPECT_LT(Difference(r.dk, nothing, 1), 1e-4);
  });
}

TEST(CpuAttentionFloat, LseMayBeNull) {
  const AttentionShape s{{20}, 2, 2, 8};
  const Inputs<float> in(s, 9);
  const std::vector<int32_t> offsets = s.Offsets();
  ForEachSimd([&] {
    std::vector<float> out(in.q.size());
    AttentionForward<float>(in.q.data(), in.k.data(), in.v.data(), offsets.data(), nullptr, 1, 2, 2, 8,
                            in.scale, 0, out.data(), nullptr);
    EXPECT_TRUE(SameBits(out, Compute(s, in).out));
  });
}

}  // namespace
}  // namespace selfedit::cpu
