// Segmented sparse changes against dense sums in double.
#include <memory>

#include "cuda_testing.h"

namespace selfedit::cuda::testing {
namespace {

class CudaSparse : public CudaTest {};
SELFEDIT_CUDA_TYPES(CudaSparse);

// A random change of one segment, dense and as its two indices.
struct Change {
  std::vector<int32_t> row_offsets{0}, columns, column_offsets{0}, rows, order;
  std::vector<double> values, dense;
  Change(Type type, int64_t in, int64_t out, double share, uint64_t seed) : dense(in * out) {
    std::mt19937_64 engine(seed);
    std::bernoulli_distribution present(share);
    std::normal_distribution<double> normal;
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) {
        if (!present(engine)) continue;
        columns.push_back(static_cast<int32_t>(i));
        values.push_back(host::Round(type, normal(engine)));
        dense[o * in + i] = values.back();
      }
      row_offsets.push_back(static_cast<int32_t>(columns.size()));
    }
    for (int64_t i = 0; i < in; ++i) {
      for (int64_t o = 0; o < out; ++o) {
        for (int32_t e = row_offsets[o]; e < row_offsets[o + 1]; ++e) {
          if (columns[e] != i) continue;
          rows.push_back(static_cast<int32_t>(o));
          order.push_back(e);
        }
      }
      column_offsets.push_back(static_cast<int32_t>(rows.size()));
    }
  }
};

// Keeps arrays of pointers alive.
class Pointers {
 public:
  void Add(const std::vector<int32_t>& values) {
    parts_.push_back(std::make_unique<Array<int32_t>>(values));
    list_.push_back(parts_.back()->data());
  }
  void AddNull() { list_.push_back(nullptr); }
  const int32_t* const* data() {
    if (!device_) device_ = std::make_unique<Array<const int32_t*>>(list_);
    return device_->data();
  }

 private:
  std::vector<std::unique_ptr<Array<int32_t>>> parts_;
  std::vector<const int32_t*> list_;
  std::unique_ptr<Array<const int32_t*>> device_;
};

TEST_P(CudaSparse, ForwardAndBackward) {
  const Type type = GetParam();
  for (const SegmentCase& c : SegmentCases()) {
    for (const auto& [in, out, share] :
         {std::tuple<int64_t, int64_t, double>{40, 150, 0.05}, {133, 31, 0.3}, {16, 8, 1}, {9, 300, 0.002}}) {
      SCOPED_TRACE(c.name + ", in " + std::to_string(in));
      const int64_t T = c.Tokens(), S = c.Slots();
      const std::vector<int32_t> offsets = c.Offsets();
      const std::vector<double> x = Rounded(type, Normal(T * in, 1)), dy = Rounded(type, Normal(T * out, 2));
      std::vector<double> y = Rounded(type, Normal(T * out, 3)), dx = Rounded(type, Normal(T * in, 4));
      const Tensor y_out(type, y), dx_out(type, dx), x_in(type, x), dy_in(type, dy);
      Pointers row_offsets, columns, column_offsets, rows, order;
      std::vector<std::unique_ptr<Tensor>> values;
      std::vector<std::unique_ptr<Array<float>>> gradients;
      std::vector<const void*> value_list;
      std::vector<float*> gradient_list;
      std::vector<float> scale;
      std::vector<std::vector<double>> dvalues;
      for (int64_t s = 0; s < S; ++s) {
        scale.push_back(1.5f - 0.25f * static_cast<float>(s));
        const bool none = S > 3 && s == 1;  // a segment without a change
        const Change change(type, in, out, share, 20 + s);
        dvalues.emplace_back(change.values.size(), 0.25);
        values.push_back(std::make_unique<Tensor>(type, change.values));
        gradients.push_back(std::make_unique<Array<float>>(change.values.size(), 0.25f));
        value_list.push_back(none ? nullptr : values.back()->data());
        gradient_list.push_back(gradients.back()->data());
        for (auto& [to, from] : {std::pair{&row_offsets, &change.row_offsets},
                                 {&columns, &change.columns},
                                 {&column_offsets, &change.column_offsets},
                                 {&rows, &change.rows},
                                 {&order, &change.order}}) {
          none ? to->AddNull() : to->Add(*from);
        }
        if (none) continue;
        for (int64_t t = offsets[s]; t < offsets[s + 1]; ++t) {
          for (int64_t o = 0; o < out; ++o) {
            for (int64_t i = 0; i < in; ++i) {
              y[t * out + o] += scale[s] * change.dense[o * in + i] * x[t * in + i];
              dx[t * in + i] += scale[s] * change.dense[o * in + i] * dy[t * out + o];
            }
            for (int32_t e = change.row_offsets[o]; e < change.row_offsets[o + 1]; ++e) {
              // d/dvalue of sum(dy y), which is linear in the value
              dvalues[s][e] += scale[s] * dy[t * out + o] * x[t * in + change.columns[e]];
            }
          }
        }
      }
      const Array<int32_t> device_offsets(offsets);
      const Array<float> device_scale(scale);
      const Array<const void*> device_values(value_list);
      const Array<float*> device_gradients(gradient_list);
      const Segments segments{device_offsets.data(), S, T};
      const Sparse delta{row_offsets.data(),
                         columns.data(),
                         device_values.data(),
                         column_offsets.data(),
                         rows.data(),
                         order.data(),
                         device_scale.data(),
                         in,
                         out};
      const Tensor y_wide(Type::kFloat32, y_out.Read());
      SparseForward(type, type, segments, delta, x_in.data(), y_out.data(), nullptr);
      SparseForward(type, Type::kFloat32, segments, delta, x_in.data(), y_wide.data(), nullptr);
      SparseBackwardInput(type, segments, delta, dy_in.data(), dx_out.data(), nullptr);
      SparseBackwardValues(type, segments, delta, x_in.data(), dy_in.data(), device_gradients.data(), true,
                           nullptr);
      EXPECT_LT(Difference(y_out.Read(), y), Tolerance(type));
      EXPECT_LT(Difference(y_wide.Read(), y), kFloatTolerance);
      EXPECT_LT(Difference(dx_out.Read(), dx), Tolerance(type));
      for (int64_t s = 0; s < S; ++s) {
        EXPECT_LT(Difference(Wide(gradients[s]->Read()), dvalues[s]), kFloatTolerance);
      }
      SparseBackwardValues(type, segments, delta, x_in.data(), dy_in.data(), device_gradients.data(), false,
                           nullptr);
      for (int64_t s = 0; s < S; ++s) {
        if (value_list[s] == nullptr) continue;
        for (double& value : dvalues[s]) value -= 0.25;
        EXPECT_LT(Difference(Wide(gradients[s]->Read()), dvalues[s]), kFloatTolerance);
      }
    }
  }
}

}  // namespace
}  // namespace selfedit::cuda::testing
