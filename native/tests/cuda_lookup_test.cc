// Rows of changes by token, their gradients, and vectors of segments, against sums in double.
#include <memory>

#include "cuda_testing.h"

namespace selfedit::cuda::testing {
namespace {

class CudaLookup : public CudaTest {};
SELFEDIT_CUDA_TYPES(CudaLookup);

constexpr int64_t kIn = 37, kOut = 5;  // few rows: tokens come again

struct Batch {
  explicit Batch(const SegmentCase& c)
      : T(c.Tokens()), S(c.Slots()), offsets(c.Offsets()), device_offsets(offsets) {
    std::mt19937_64 engine(9);
    // Some have no row.
    for (int64_t t = 0; t < T; ++t) token.push_back(static_cast<int32_t>(engine() % (kOut + 2)) - 1);
    for (int64_t s = 0; s < S; ++s) scale.push_back(1.5f - 0.25f * static_cast<float>(s));
    device_token = std::make_unique<Array<int32_t>>(token);
    device_scale = std::make_unique<Array<float>>(scale);
    segments = {device_offsets.data(), S, T};
  }
  bool none(int64_t s) const { return S > 3 && s == 1; }  // without a change
  // body(segment, row of the batch, its token)
  template <typename Body>
  void ForRows(Body body) const {
    for (int64_t s = 0; s < S; ++s) {
      for (int64_t t = offsets[s]; t < offsets[s + 1]; ++t) {
        if (!none(s) && token[t] >= 0 && token[t] < kOut) body(s, t, token[t]);
      }
    }
  }
  int64_t T, S;
  std::vector<int32_t> offsets, token;
  std::vector<float> scale;
  Array<int32_t> device_offsets;
  std::unique_ptr<Array<int32_t>> device_token;
  std::unique_ptr<Array<float>> device_scale;
  Segments segments;
};

// One allocation a segment, and their addresses; null where the batch has none.
template <typename Item, typename Pointer>
class Lists {
 public:
  template <typename Make>
  Lists(const Batch& b, Make make) {
    std::vector<Pointer> list;
    for (int64_t s = 0; s < b.S; ++s) {
      items_.push_back(make(s));
      list.push_back(b.none(s) ? nullptr : items_.back()->data());
    }
    pointers_ = std::make_unique<Array<Pointer>>(list);
  }
  Pointer* data() const { return pointers_->data(); }
  const Item& operator[](int64_t s) const { return *items_[s]; }

 private:
  std::vector<std::unique_ptr<Item>> items_;
  std::unique_ptr<Array<Pointer>> pointers_;
};
using Values = Lists<Tensor, const void*>;
using Indices = Lists<Array<int32_t>, const int32_t*>;
using Gradients = Lists<Array<float>, float*>;

TEST_P(CudaLookup, DenseRowsAndTheirGradients) {
  const Type type = GetParam();
  for (const SegmentCase& c : SegmentCases()) {
    SCOPED_TRACE(c.name);
    const Batch b(c);
    const auto row = [&](int64_t s) { return Rounded(type, Normal(kOut * kIn, 20 + s)); };
    const Values values(b, [&](int64_t s) { return std::make_unique<Tensor>(type, row(s)); });
    const Gradients gradients(b, [&](int64_t) { return std::make_unique<Array<float>>(kOut * kIn, 0.5f); });
    std::vector<double> y = Rounded(type, Normal(b.T * kIn, 3)), dy = Rounded(type, Normal(b.T * kIn, 4));
    const Tensor y_out(type, y), dy_in(type, dy);
    std::vector<std::vector<double>> expected(b.S, std::vector<double>(kOut * kIn, 0.5));
    b.ForRows([&](int64_t s, int64_t t, int32_t token) {
      for (int64_t j = 0; j < kIn; ++j) {
        y[t * kIn + j] += b.scale[s] * row(s)[token * kIn + j];
        expected[s][token * kIn + j] += b.scale[s] * dy[t * kIn + j];
      }
    });
    const Dense delta{values.data(), b.device_scale->data(), kIn, kOut};
    DenseLookup(type, b.segments, delta, b.device_token->data(), y_out.data(), nullptr);
    DenseLookupBackward(type, b.segments, delta, b.device_token->data(), dy_in.data(), gradients.data(),
                        nullptr);
    EXPECT_LT(Difference(y_out.Read(), y), Tolerance(type));
    for (int64_t s = 0; s < b.S; ++s) {
      EXPECT_LT(Difference(Wide(gradients[s].Read()), expected[s]), kFloatTolerance);
    }
  }
}

TEST_P(CudaLookup, SparseRowsAndTheirGradients) {
  const Type type = GetParam();
  for (const SegmentCase& c : SegmentCases()) {
    SCOPED_TRACE(c.name);
    const Batch b(c);
    // Row 2 is empty; every third column of the others.
    std::vector<int32_t> offsets{0}, columns;
    for (int32_t o = 0; o < kOut; ++o) {
      for (int32_t j = o % 3; o != 2 && j < kIn; j += 3) columns.push_back(j);
      offsets.push_back(static_cast<int32_t>(columns.size()));
    }
    const auto value = [&](int64_t s) { return Rounded(type, Normal(columns.size(), 20 + s)); };
    const Indices rows(b, [&](int64_t) { return std::make_unique<Array<int32_t>>(offsets); });
    const Indices column_lists(b, [&](int64_t) { return std::make_unique<Array<int32_t>>(columns); });
    const Values values(b, [&](int64_t s) { return std::make_unique<Tensor>(type, value(s)); });
    const Gradients gradients(b,
                              [&](int64_t) { return std::make_unique<Array<float>>(columns.size(), 0.5f); });
    std::vector<double> y = Rounded(type, Normal(b.T * kIn, 3)), dy = Rounded(type, Normal(b.T * kIn, 4));
    const Tensor y_out(type, y), dy_in(type, dy);
    std::vector<std::vector<double>> expected(b.S, std::vector<double>(columns.size(), 0.5));
    b.ForRows([&](int64_t s, int64_t t, int32_t token) {
      for (int32_t e = offsets[token]; e < offsets[token + 1]; ++e) {
        y[t * kIn + columns[e]] += b.scale[s] * value(s)[e];
        expected[s][e] += b.scale[s] * dy[t * kIn + columns[e]];
      }
    });
    Sparse delta;
    delta.row_offsets = rows.data();
    delta.columns = column_lists.data();
    delta.values = values.data();
    delta.scale = b.device_scale->data();
    delta.in = kIn;
    delta.out = kOut;
    SparseLookup(type, b.segments, delta, b.device_token->data(), y_out.data(), nullptr);
    SparseLookupBackward(type, b.segments, delta, b.device_token->data(), dy_in.data(), gradients.data(),
                         nullptr);
    EXPECT_LT(Difference(y_out.Read(), y), Tolerance(type));
    for (int64_t s = 0; s < b.S; ++s) {
      EXPECT_LT(Difference(Wide(gradients[s].Read()), expected[s]), kFloatTolerance);
    }
  }
}

TEST_P(CudaLookup, LowRankRowsOfB) {
  const Type type = GetParam();
  const int64_t R = 16;
  for (const SegmentCase& c : SegmentCases()) {
    SCOPED_TRACE(c.name);
    const Batch b(c);
    // As separate tensors of rank 5, 6, …, and as slices of one.
    const auto rank = [](int64_t s) { return 5 + s; };
    const auto value = [&](int64_t s, int64_t r) { return Rounded(type, Normal(kOut * r, 20 + s)); };
    const Values apart(b, [&](int64_t s) { return std::make_unique<Tensor>(type, value(s, rank(s))); });
    std::vector<double> flat;
    std::vector<int32_t> ranks;
    for (int64_t s = 0; s < b.S; ++s) {
      const std::vector<double> one = value(s, R);
      flat.insert(flat.end(), one.begin(), one.end());
      ranks.push_back(static_cast<int32_t>(rank(s)));
    }
    const Tensor stacked(type, flat);
    const Array<int32_t> device_ranks(ranks);
    for (const bool separate : {false, true}) {
      LowRank delta;
      delta.rank = R;
      delta.in = kIn;
      delta.out = kOut;
      delta.scale = b.device_scale->data();
      if (separate) {
        delta.a_pointers = delta.b_pointers = apart.data();
        delta.ranks = device_ranks.data();
      } else {
        delta.b = stacked.data();
        delta.b_stride = kOut * R;
      }
      const double marker = -77;
      const Tensor v_out(type, std::vector<double>(b.T * R, marker));
      LowRankLookup(type, b.segments, delta, b.device_token->data(), v_out.data(), nullptr);
      std::vector<double> v(b.T * R, marker);
      for (int64_t s = 0; s < b.S; ++s) {
        for (int64_t t = b.offsets[s]; t < b.offsets[s + 1]; ++t) {
          const bool known = b.token[t] >= 0 && b.token[t] < kOut && !(separate && b.none(s));
          const int64_t r = separate ? rank(s) : R;
          for (int64_t j = 0; j < R; ++j) {
            v[t * R + j] = known && j < r ? b.scale[s] * value(s, r)[b.token[t] * r + j] : 0;
          }
        }
      }
      EXPECT_LT(Difference(v_out.Read(), v), Tolerance(type));
    }
  }
}

TEST_P(CudaLookup, VectorsOfSegments) {
  const Type type = GetParam();
  for (const SegmentCase& c : SegmentCases()) {
    for (const int64_t width : {int64_t{1}, int64_t{131}}) {
      SCOPED_TRACE(c.name + ", " + std::to_string(width));
      const Batch b(c);
      const auto vector = [&](int64_t s) { return Floats(Normal(width, 30 + s)); };
      const Lists<Array<float>, const float*> vectors(
          b, [&](int64_t s) { return std::make_unique<Array<float>>(vector(s)); });
      std::vector<double> y = Rounded(type, Normal(b.T * width, 3)),
                          dy = Rounded(type, Normal(b.T * width, 4));
      const Tensor y_out(type, y), dy_in(type, dy);
      const Array<float> stack(b.S * width, -7.0f);
      VectorAdd(type, b.segments, vectors.data(), width, y_out.data(), nullptr);
      VectorStack(vectors.data(), b.S, width, stack.data(), nullptr);
      std::vector<float> expected_stack;
      for (int64_t s = 0; s < b.S; ++s) {
        const std::vector<float> one = b.none(s) ? std::vector<float>(width, 0) : vector(s);
        expected_stack.insert(expected_stack.end(), one.begin(), one.end());
        for (int64_t t = b.offsets[s]; t < b.offsets[s + 1]; ++t) {
          for (int64_t j = 0; j < width; ++j) y[t * width + j] += one[j];
        }
      }
      EXPECT_LT(Difference(y_out.Read(), y), Tolerance(type));
      EXPECT_EQ(stack.Read(), expected_stack);
      for (const bool accumulate : {true, false}) {
        const Gradients gradients(b, [&](int64_t) { return std::make_unique<Array<float>>(width, 0.5f); });
        VectorBackward(type, b.segments, dy_in.data(), width, gradients.data(), accumulate, nullptr);
        for (int64_t s = 0; s < b.S; ++s) {
          std::vector<double> expected(width, accumulate || b.none(s) ? 0.5 : 0);
          for (int64_t t = b.offsets[s]; t < b.offsets[s + 1] && !b.none(s); ++t) {
            for (int64_t j = 0; j < width; ++j) expected[j] += dy[t * width + j];
          }
          EXPECT_LT(Difference(Wide(gradients[s].Read()), expected), kFloatTolerance);
        }
      }
    }
  }
}

TEST(CudaClip, SegmentsOfAPieceOfTheBatch) {
  if (!HaveDevice()) GTEST_SKIP() << "no GPU";
  const Array<int32_t> offsets({0, 4, 4, 9, 15}), clipped(5, -1);
  const Segments segments{offsets.data(), 4, 20};
  ClipSegments(segments, 0, 20, clipped.data(), nullptr);
  EXPECT_EQ(clipped.Read(), offsets.Read());
  ClipSegments(segments, 3, 8, clipped.data(), nullptr);
  EXPECT_EQ(clipped.Read(), (std::vector<int32_t>{0, 1, 1, 6, 8}));
  ClipSegments(segments, 16, 4, clipped.data(), nullptr);
  EXPECT_EQ(clipped.Read(), (std::vector<int32_t>{0, 0, 0, 0, 0}));
}

}  // namespace
}  // namespace selfedit::cuda::testing
