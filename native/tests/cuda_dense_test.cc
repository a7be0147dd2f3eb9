// Segmented dense changes against sums in double.
#include <memory>

#include "cuda_testing.h"

namespace selfedit::cuda::testing {
namespace {

class CudaDense : public CudaTest {};
SELFEDIT_CUDA_TYPES(CudaDense);

struct Shape {
  int64_t in, out;
};
constexpr Shape kShapes[] = {{72, 40}, {37, 51}, {136, 130}, {8, 1}, {1, 70}};

// A change a segment; segment 1 of many has none.
struct Problem {
  Problem(Type type, const SegmentCase& c, const Shape& shape)
      : T(c.Tokens()),
        S(c.Slots()),
        offsets(c.Offsets()),
        x(Rounded(type, Normal(T * shape.in, 1))),
        dy(Rounded(type, Normal(T * shape.out, 2))),
        y(Rounded(type, Normal(T * shape.out, 3))),
        dx(Rounded(type, Normal(T * shape.in, 4))),
        device_offsets(offsets) {
    std::vector<const void*> list;
    for (int64_t s = 0; s < S; ++s) {
      scale.push_back(1.5f - 0.25f * static_cast<float>(s));
      values.push_back(none(s) ? std::vector<double>(shape.in * shape.out, 0)
                               : Rounded(type, Normal(shape.in * shape.out, 20 + s)));
      tensors.push_back(std::make_unique<Tensor>(type, values.back()));
      list.push_back(none(s) ? nullptr : tensors.back()->data());
    }
    pointers = std::make_unique<Array<const void*>>(list);
    device_scale = std::make_unique<Array<float>>(scale);
    segments = {device_offsets.data(), S, T};
    delta = {pointers->data(), device_scale->data(), shape.in, shape.out};
  }
  bool none(int64_t s) const { return S > 3 && s == 1; }
  // body(segment, token, output, input)
  template <typename Body>
  void ForAll(Body body) const {
    for (int64_t s = 0; s < S; ++s) {
      for (int64_t t = offsets[s]; t < offsets[s + 1]; ++t) {
        for (int64_t o = 0; o < delta.out; ++o) {
          for (int64_t i = 0; i < delta.in; ++i) body(s, t, o, i);
        }
      }
    }
  }
  int64_t T, S;
  std::vector<int32_t> offsets;
  std::vector<double> x, dy, y, dx;
  Array<int32_t> device_offsets;
  std::vector<std::vector<double>> values;
  std::vector<float> scale;
  std::vector<std::unique_ptr<Tensor>> tensors;
  std::unique_ptr<Array<const void*>> pointers;
  std::unique_ptr<Array<float>> device_scale;
  Segments segments;
  Dense delta;
};

TEST_P(CudaDense, Products) {
  const Type type = GetParam();
  for (const SegmentCase& c : SegmentCases()) {
    for (const Shape& shape : kShapes) {
      SCOPED_TRACE(c.name + ", in " + std::to_string(shape.in));
      const Problem p(type, c, shape);
      std::vector<double> y = p.y, dx = p.dx;
      p.ForAll([&](int64_t s, int64_t t, int64_t o, int64_t i) {
        const double value = p.scale[s] * p.values[s][o * shape.in + i];
        y[t * shape.out + o] += value * p.x[t * shape.in + i];
        dx[t * shape.in + i] += value * p.dy[t * shape.out + o];
      });
      const Tensor x(type, p.x), dy(type, p.dy), y_out(type, p.y), dx_out(type, p.dx),
          wide(Type::kFloat32, p.y);
      DenseForward(type, type, p.segments, p.delta, x.data(), y_out.data(), nullptr);
      DenseForward(type, Type::kFloat32, p.segments, p.delta, x.data(), wide.data(), nullptr);
      DenseBackwardInput(type, p.segments, p.delta, dy.data(), dx_out.data(), nullptr);
      EXPECT_LT(Difference(y_out.Read(), y), Tolerance(type));
      EXPECT_LT(Difference(wide.Read(), y), kFloatTolerance);
      EXPECT_LT(Difference(dx_out.Read(), dx), Tolerance(type));
    }
  }
}

TEST_P(CudaDense, GradientsOfTheValues) {
  const Type type = GetParam();
  for (const SegmentCase& c : SegmentCases()) {
    for (const Shape& shape : kShapes) {
      SCOPED_TRACE(c.name + ", in " + std::to_string(shape.in));
      const Problem p(type, c, shape);
      const Tensor x(type, p.x), dy(type, p.dy);
      for (const bool accumulate : {true, false}) {
        std::vector<std::vector<double>> expected(
            p.S, std::vector<double>(shape.in * shape.out, accumulate ? 0.25 : 0));
        p.ForAll([&](int64_t s, int64_t t, int64_t o, int64_t i) {
          expected[s][o * shape.in + i] += p.scale[s] * p.dy[t * shape.out + o] * p.x[t * shape.in + i];
        });
        std::vector<std::unique_ptr<Array<float>>> gradients;
        std::vector<float*> list;
        for (int64_t s = 0; s < p.S; ++s) {
          gradients.push_back(std::make_unique<Array<float>>(shape.in * shape.out, 0.25f));
          list.push_back(p.none(s) ? nullptr : gradients.back()->data());
        }
        const Array<float*> pointers(list);
        // Values are not read: those under training may not be there yet.
        Dense probe = p.delta;
        probe.values = nullptr;
        DenseBackwardValues(type, p.segments, probe, x.data(), dy.data(), pointers.data(), accumulate,
                            nullptr);
        for (int64_t s = 0; s < p.S; ++s) {
          if (p.none(s)) {
            EXPECT_EQ(gradients[s]->Read(), std::vector<float>(shape.in * shape.out, 0.25f));
          } else {
            EXPECT_LT(Difference(Wide(gradients[s]->Read()), expected[s]), kFloatTolerance);
          }
        }
      }
    }
  }
}

TEST_P(CudaDense, CopiedRowsTakeThePlaceOfOthers) {
  const Type type = GetParam();
  for (const SegmentCase& c : SegmentCases()) {
    for (const bool biased : {false, true}) {
      SCOPED_TRACE(c.name + (biased ? ", bias" : ""));
      const Shape shape{37, 150};
      const Problem p(type, c, shape);  // its dense values are what rows are copied from
      const auto first = [](int64_t s) { return 7 * (s % 3); };
      const auto count = [](int64_t s) { return s % 2 == 0 ? 70 + s : 3; };
      const std::vector<double> bias = Rounded(type, Normal(shape.out, 9));
      const Tensor device_bias(type, bias), x(type, p.x), y_out(type, p.y);
      std::vector<int32_t> firsts, counts;
      std::vector<double> y = p.y;
      for (int64_t s = 0; s < p.S; ++s) {
        firsts.push_back(static_cast<int32_t>(first(s)));
        counts.push_back(static_cast<int32_t>(count(s)));
        if (p.none(s)) continue;
        for (int64_t t = p.offsets[s]; t < p.offsets[s + 1]; ++t) {
          for (int64_t o = 0; o < count(s); ++o) {
            double sum = biased ? bias[first(s) + o] : 0;
            for (int64_t i = 0; i < shape.in; ++i)
              sum += p.values[s][o * shape.in + i] * p.x[t * shape.in + i];
            y[t * shape.out + first(s) + o] = sum;
          }
        }
      }
      const Array<int32_t> device_first(firsts), device_count(counts);
      const CopiedRows rows{p.pointers->data(),
                            device_first.data(),
                            device_count.data(),
                            biased ? device_bias.data() : nullptr,
                            *std::max_element(counts.begin(), counts.end()),
                            shape.in,
                            shape.out};
      CopiedRowsForward(type, p.segments, rows, x.data(), y_out.data(), nullptr);
      EXPECT_LT(Difference(y_out.Read(), y), Tolerance(type));
    }
  }
}

}  // namespace
}  // namespace selfedit::cuda::testing
