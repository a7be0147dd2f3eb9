// Segmented low-rank products against sums written out in double, and finite differences of those.
#include <array>
#include <memory>

#include "cuda_testing.h"

namespace selfedit::cuda::testing {
namespace {

struct Shape {
  int64_t rank, in, out;
  bool gain;
};

// One random problem on the device, and its reference. pointers: separately allocated factors of ragged rank.
class Problem {
 public:
  Problem(Type type, const SegmentCase& c, const Shape& shape, bool pointers)
      : type(type),
        c(c),
        shape(shape),
        R((shape.rank + 7) / 8 * 8),
        T(c.Tokens()),
        S(c.Slots()),
        offsets(c.Offsets()),
        x(Rounded(type, Normal(T * shape.in, 1))),
        y(Rounded(type, Normal(T * shape.out, 2))),
        dy(Rounded(type, Normal(T * shape.out, 3))),
        dx(Rounded(type, Normal(T * shape.in, 4))),
        device_offsets(offsets) {
    segments = {device_offsets.data(), S, T};
    for (int64_t s = 0; s < S; ++s) {
      // The second form has other ranks too, and a slot without a delta.
      const int64_t rank = !pointers         ? shape.rank
                           : S > 2 && s == 2 ? 0
                                             : std::max<int64_t>(1, shape.rank - s);
      ranks.push_back(static_cast<int32_t>(rank));
      a.push_back(Rounded(type, Normal(rank * shape.in, 10 + s, 0.2)));
      b.push_back(Rounded(type, Normal(shape.out * rank, 40 + s, 0.2)));
      scale.push_back(0.5f + 0.25f * static_cast<float>(s));
      gain.push_back(shape.gain ? Floats(Normal(R, 70 + s)) : std::vector<float>(R, 1.0f));
    }
    Upload(pointers);
  }

  double A(int64_t s, int64_t j, int64_t i) const { return j < ranks[s] ? a[s][j * shape.in + i] : 0; }
  double B(int64_t s, int64_t o, int64_t j) const { return j < ranks[s] ? b[s][o * ranks[s] + j] : 0; }
  double Gain(int64_t s, int64_t j) const { return shape.gain ? gain[s][j] : 1; }

  const Type type;
  const SegmentCase c;
  const Shape shape;
  const int64_t R, T, S;
  const std::vector<int32_t> offsets;
  const std::vector<double> x, y, dy, dx;
  Array<int32_t> device_offsets;
  Segments segments;
  std::vector<int32_t> ranks;
  std::vector<std::vector<double>> a, b;
  std::vector<float> scale;
  std::vector<std::vector<float>> gain;
  LowRank delta;

 private:
  void Upload(bool pointers) {
    delta.rank = R;
    delta.in = shape.in;
    delta.out = shape.out;
    device_scale = std::make_unique<Array<float>>(scale);
    delta.scale = device_scale->data();
    if (pointers) {
      std::vector<const void*> a_list, b_list;
      std::vector<const float*> gain_list;
      for (int64_t s = 0; s < S; ++s) {
        parts.push_back(std::make_unique<Tensor>(type, a[s]));
        a_list.push_back(ranks[s] == 0 ? nullptr : parts.back()->data());
        parts.push_back(std::make_unique<Tensor>(type, b[s]));
        b_list.push_back(ranks[s] == 0 ? nullptr : parts.back()->data());
        gains.push_back(std::make_unique<Array<float>>(gain[s]));
        gain_list.push_back(gains.back()->data());
      }
      a_pointers = std::make_unique<Array<const void*>>(a_list);
      b_pointers = std::make_unique<Array<const void*>>(b_list);
      gain_pointers = std::make_unique<Array<const float*>>(gain_list);
      device_ranks = std::make_unique<Array<int32_t>>(ranks);
      delta.a_pointers = a_pointers->data();
      delta.b_pointers = b_pointers->data();
      delta.ranks = device_ranks->data();
      if (shape.gain) delta.gain_pointers = gain_pointers->data();
      return;
    }
    // Slots lie count apart, as in one flat buffer a slot: A, then B.
    const int64_t count = (R * (shape.in + shape.out) + 7) / 8 * 8;
    std::vector<double> flat(count * S, 0);
    std::vector<float> flat_gain;
    for (int64_t s = 0; s < S; ++s) {
      for (int64_t j = 0; j < R; ++j) {
        for (int64_t i = 0; i < shape.in; ++i) flat[s * count + j * shape.in + i] = A(s, j, i);
        for (int64_t o = 0; o < shape.out; ++o) flat[s * count + R * shape.in + o * R + j] = B(s, o, j);
      }
      flat_gain.insert(flat_gain.end(), gain[s].begin(), gain[s].end());
    }
    parts.push_back(std::make_unique<Tensor>(type, flat));
    gains.push_back(std::make_unique<Array<float>>(flat_gain));
    delta.a = parts[0]->data();
    delta.b = parts[0]->At(R * shape.in);
    delta.a_stride = delta.b_stride = count;
    if (shape.gain) delta.gain = gains[0]->data();
    delta.gain_stride = R;
  }
  std::unique_ptr<Array<float>> device_scale;
  std::vector<std::unique_ptr<Tensor>> parts;
  std::vector<std::unique_ptr<Array<float>>> gains;
  std::unique_ptr<Array<const void*>> a_pointers, b_pointers;
  std::unique_ptr<Array<const float*>> gain_pointers;
  std::unique_ptr<Array<int32_t>> device_ranks;
};

// sum over j of left(j) right(j)
template <typename Left, typename Right>
double Sum(int64_t count, Left left, Right right) {
  double sum = 0;
  for (int64_t j = 0; j < count; ++j) sum += left(j) * right(j);
  return sum;
}

class CudaLowRank : public CudaTest {};
SELFEDIT_CUDA_TYPES(CudaLowRank);

void ForProblems(Type type, bool pointers, const std::function<void(const Problem&)>& body) {
  const std::vector<Shape> shapes = {{4, 72, 40, false}, {7, 37, 51, false},   {16, 136, 72, true},
                                     {33, 64, 24, true}, {64, 40, 130, false}, {128, 72, 64, false}};
  const std::vector<SegmentCase> cases = SegmentCases();
  for (size_t i = 0; i < shapes.size(); ++i) {
    for (size_t j = 0; j < cases.size(); ++j) {
      if (shapes[i].rank > 40 && j % 3 != 0) continue;  // large ranks on fewer shapes of batch
      SCOPED_TRACE(cases[j].name + ", rank " + std::to_string(shapes[i].rank));
      body(Problem(type, cases[j], shapes[i], pointers));
    }
  }
}

void CheckProducts(const Problem& p) {
  const int64_t in = p.shape.in, out = p.shape.out, R = p.R;
  const double marker = -77;
  std::vector<double> u(p.T * R, marker), v(p.T * R, marker), y = p.y, dx = p.dx;
  const std::vector<double> given = Rounded(p.type, Normal(p.T * R, 5));  // what the second halves start from
  for (int64_t s = 0; s < p.S; ++s) {
    for (int64_t t = p.offsets[s]; t < p.offsets[s + 1]; ++t) {
      for (int64_t j = 0; j < R; ++j) {
        u[t * R + j] = Sum(
            in, [&](int64_t i) { return p.A(s, j, i); }, [&](int64_t i) { return p.x[t * in + i]; });
        v[t * R + j] = p.scale[s] * Sum(
                                        out, [&](int64_t o) { return p.B(s, o, j); },
                                        [&](int64_t o) { return p.dy[t * out + o]; });
      }
      const auto gained = [&](int64_t j) { return p.Gain(s, j) * given[t * R + j]; };
      for (int64_t o = 0; o < out; ++o)
        y[t * out + o] += p.scale[s] * Sum(
                                           R, [&](int64_t j) { return p.B(s, o, j); }, gained);
      for (int64_t i = 0; i < in; ++i)
        dx[t * in + i] += Sum(
            R, [&](int64_t j) { return p.A(s, j, i); }, gained);
    }
  }
  const Tensor x(p.type, p.x), dy(p.type, p.dy), narrow(p.type, given);
  const std::vector<double> markers(p.T * R, marker);
  const Tensor u_out(p.type, markers), v_out(p.type, markers), y_out(p.type, p.y), dx_out(p.type, p.dx);
  LowRankShrink(p.type, p.segments, p.delta, x.data(), u_out.data(), nullptr);
  LowRankShrinkBackward(p.type, p.segments, p.delta, dy.data(), v_out.data(), nullptr);
  LowRankExpand(p.type, p.type, p.segments, p.delta, narrow.data(), y_out.data(), nullptr);
  const Tensor wide(Type::kFloat32, p.y);  // logits: only the gained values are rounded
  LowRankExpand(p.type, Type::kFloat32, p.segments, p.delta, narrow.data(), wide.data(), nullptr);
  EXPECT_LT(Difference(wide.Read(), y), p.shape.gain ? Tolerance(p.type) : kFloatTolerance);
  LowRankExpandBackward(p.type, p.segments, p.delta, narrow.data(), dx_out.data(), nullptr);
  EXPECT_LT(Difference(u_out.Read(), u), Tolerance(p.type));
  EXPECT_LT(Difference(v_out.Read(), v), Tolerance(p.type));
  EXPECT_LT(Difference(y_out.Read(), y), Tolerance(p.type));
  EXPECT_LT(Difference(dx_out.Read(), dx), Tolerance(p.type));
}

TEST_P(CudaLowRank, StackedProducts) { ForProblems(GetParam(), false, CheckProducts); }
TEST_P(CudaLowRank, ProductsOfSeparateDeltas) { ForProblems(GetParam(), true, CheckProducts); }

// Loss of slot s: sum of dy (scale B (gain (A x))) over its tokens; linear in every single value.
double LossOf(const Problem& p, int64_t s, const std::vector<double>& a, const std::vector<double>& b,
              const std::vector<double>& gain) {
  const int64_t in = p.shape.in, out = p.shape.out, r = p.ranks[s];
  double loss = 0;
  for (int64_t t = p.offsets[s]; t < p.offsets[s + 1]; ++t) {
    for (int64_t j = 0; j < r; ++j) {
      const double u = Sum(
          in, [&](int64_t i) { return a[j * in + i]; }, [&](int64_t i) { return p.x[t * in + i]; });
      loss += u * gain[j] * p.scale[s] *
              Sum(
                  out, [&](int64_t o) { return b[o * r + j]; }, [&](int64_t o) { return p.dy[t * out + o]; });
    }
  }
  return loss;
}

TEST_P(CudaLowRank, GradientsOfTheValues) {
  const Type type = GetParam();
  ForProblems(type, false, [&](const Problem& p) {
    const int64_t in = p.shape.in, out = p.shape.out, R = p.R;
    const Tensor x(type, p.x), dy(type, p.dy), u(type, std::vector<double>(p.T * R)),
        v(type, std::vector<double>(p.T * R));
    LowRankShrink(type, p.segments, p.delta, x.data(), u.data(), nullptr);
    LowRankShrinkBackward(type, p.segments, p.delta, dy.data(), v.data(), nullptr);
    const int64_t count = R * (in + out + 1);
    const std::vector<float> before(count * p.S, 0.5f);
    for (const bool accumulate : {false, true}) {
      const Array<float> gradient(before);
      const LowRankGradient to{gradient.data(),
                               gradient.data() + R * in,
                               p.shape.gain ? gradient.data() + R * (in + out) : nullptr,
                               count,
                               count,
                               count,
                               accumulate};
      LowRankBackwardValues(type, p.segments, p.delta, x.data(), dy.data(), u.data(), v.data(), to, nullptr);
      const std::vector<double> found = Wide(gradient.Read());
      std::mt19937_64 engine(6);
      for (int64_t s = 0; s < p.S; ++s) {
        const double start = accumulate ? 0.5 : 0;
        double size = 1;
        for (int64_t i = s * count; i < (s + 1) * count; ++i) size = std::max(size, std::abs(found[i]));
        const std::vector<double> gain = Wide(p.gain[s]);
        for (int draw = 0; draw < 4; ++draw) {
          const int64_t j = engine() % p.ranks[s], i = engine() % in, o = engine() % out;
          const auto near = [&](int64_t place, double value) {
            EXPECT_NEAR(found[s * count + place], start + value, 2 * Tolerance(type) * size);
          };
          near(j * in + i,
               Numeric([&](const auto& a) { return LossOf(p, s, a, p.b[s], gain); }, p.a[s], j * in + i, 1));
          near(R * in + o * R + j, Numeric([&](const auto& b) { return LossOf(p, s, p.a[s], b, gain); },
                                           p.b[s], o * p.ranks[s] + j, 1));
          if (p.shape.gain) {
            near(R * (in + out) + j,
                 Numeric([&](const auto& g) { return LossOf(p, s, p.a[s], p.b[s], g); }, gain, j, 1));
          }
        }
        // The padding of the rank never gets a gradient, and empty slots none at all.
        for (int64_t j = p.ranks[s]; j < R; ++j) EXPECT_EQ(found[s * count + j * in], start);
        if (p.c.lengths[s] == 0) {
          EXPECT_EQ(found[s * count], start);
          EXPECT_EQ(found[s * count + R * in], start);
        }
      }
    }
  });
}

TEST_P(CudaLowRank, MakesOnlyTheGradientsThatAreWanted) {
  const Type type = GetParam();
  const Problem p(type, SegmentCases()[1], {16, 136, 72, true}, true);
  const int64_t a = p.R * p.shape.in, b = p.R * p.shape.out;
  const Tensor x(type, p.x), dy(type, p.dy), u(type, std::vector<double>(p.T * p.R)),
      v(type, std::vector<double>(p.T * p.R));
  LowRankShrink(type, p.segments, p.delta, x.data(), u.data(), nullptr);
  LowRankShrinkBackward(type, p.segments, p.delta, dy.data(), v.data(), nullptr);
  const auto run = [&](bool da, bool db, bool dgain) {
    const Array<float> as(a * p.S, 7.0f), bs(b * p.S, 7.0f), gains(p.R * p.S, 7.0f);
    const LowRankGradient to{
        da ? as.data() : nullptr, db ? bs.data() : nullptr, dgain ? gains.data() : nullptr, a, b, p.R, false};
    LowRankBackwardValues(type, p.segments, p.delta, x.data(), dy.data(), u.data(), v.data(), to, nullptr);
    return std::array{as.Read(), bs.Read(), gains.Read()};
  };
  const auto all = run(true, true, true);
  for (size_t only = 0; only < 3; ++only) {
    const auto one = run(only == 0, only == 1, only == 2);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(one[i], i == only ? all[i] : std::vector<float>(all[i].size(), 7.0f));
    }
  }
}

// A slot's rows give the same bits alone and among others.
TEST_P(CudaLowRank, DoesNotDependOnBatchMates) {
  const Type type = GetParam();
  const Shape shape{16, 136, 72, false};
  const Problem many(type, {"many", {3, 41, 70}}, shape, false), one(type, {"one", {0, 41, 0}}, shape, false);
  std::vector<double> rows(one.T * shape.in, 0);
  std::copy_n(many.x.begin() + 3 * shape.in, 41 * shape.in, rows.begin());
  const Tensor x(type, many.x), alone(type, rows), u(type, std::vector<double>(many.T * many.R)),
      u_alone(type, std::vector<double>(one.T * one.R));
  LowRankShrink(type, many.segments, many.delta, x.data(), u.data(), nullptr);
  LowRankShrink(type, one.segments, one.delta, alone.data(), u_alone.data(), nullptr);
  const std::vector<double> all = u.Read(), few = u_alone.Read();
  EXPECT_TRUE(std::equal(few.begin(), few.begin() + 41 * one.R, all.begin() + 3 * many.R));
}

}  // namespace
}  // namespace selfedit::cuda::testing
