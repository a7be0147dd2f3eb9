// Causal attention over documents against softmax in double, and finite differences of it.
#include <memory>

#include "cuda_testing.h"

namespace selfedit::cuda::testing {
namespace {

class CudaAttention : public CudaTest {};
SELFEDIT_CUDA_TYPES(CudaAttention);

struct Case {
  std::vector<int32_t> lengths;
  int64_t H, G, d;
  bool merged;  // q, k and v lie in one buffer
  int64_t leftover = 3;
  int64_t window = 0;  // 0: all
};
std::vector<Case> Cases() {
  return {{{1, 1, 1}, 2, 1, 32, false},
          {{70}, 3, 3, 64, true},
          {{17, 0, 33, 5, 0}, 4, 2, 64, false},
          {{64, 64}, 2, 2, 40, true, 0},
          {{130, 3}, 4, 1, 96, true},
          {{40, 90}, 2, 1, 128, false},
          {{35, 1, 20}, 2, 1, 256, false},
          {{0, 0}, 2, 2, 64, false},
          {{67}, 2, 1, 200, true},
          // Windows: of one token, narrower and wider than a tile, over its edges, wider than documents.
          {{70, 0, 1}, 2, 1, 32, true, 3, 1},
          {{130, 33}, 2, 2, 40, false, 3, 7},
          {{200}, 2, 1, 64, true, 0, 64},
          {{150, 40}, 1, 1, 128, false, 3, 65},
          {{90, 5}, 2, 1, 256, false, 3, 33},
          {{40, 30}, 2, 1, 64, false, 3, 40}};
}

class Problem {
 public:
  Problem(Type type, const Case& c) : type(type), c(c) {
    offsets = {0};
    for (int32_t length : c.lengths) offsets.push_back(offsets.back() + length);
    T = offsets.back() + c.leftover;
    q_stride = c.merged ? (c.H + 2 * c.G) * c.d : c.H * c.d;
    kv_stride = c.merged ? q_stride : c.G * c.d;
    scale = 1 / std::sqrt(static_cast<float>(c.d));
    values[0] = Rounded(type, Normal(T * c.H * c.d, 1));
    values[1] = Rounded(type, Normal(T * c.G * c.d, 2));
    values[2] = Rounded(type, Normal(T * c.G * c.d, 3));
    dout = Rounded(type, Normal(T * c.H * c.d, 4));
  }
  // Row of head h of query i, of the keys or values that head h reads.
  int64_t Query(int64_t i, int64_t h) const { return (i * c.H + h) * c.d; }
  int64_t Key(int64_t j, int64_t h) const { return (j * c.G + h / (c.H / c.G)) * c.d; }

  // Probabilities of query i.
  std::vector<double> Weights(const std::vector<double>* v, int64_t begin, int64_t i, int64_t h,
                              double* lse) const {
    std::vector<double> p;
    double most = -INFINITY, sum = 0;
    for (int64_t j = begin; j <= i; ++j) {
      double s = 0;
      for (int64_t x = 0; x < c.d; ++x) s += v[0][Query(i, h) + x] * v[1][Key(j, h) + x];
      p.push_back(s * scale);
      most = std::max(most, p.back());
    }
    for (double s : p) sum += std::exp(s - most);
    *lse = most + std::log(sum);
    for (double& s : p) s = std::exp(s - *lse);
    return p;
  }
  template <typename Body>
  void ForQueries(Body body) const {
    for (size_t t = 0; t + 1 < offsets.size(); ++t) {
      for (int64_t i = offsets[t]; i < offsets[t + 1]; ++i) {
        const int64_t begin = std::max<int64_t>(offsets[t], c.window > 0 ? i - c.window + 1 : 0);
        for (int64_t h = 0; h < c.H; ++h) body(begin, i, h);
      }
    }
  }
  void Reference(std::vector<double>& out, std::vector<double>& lse, std::vector<double> (&grads)[3]) const {
    out.assign(T * c.H * c.d, 0);
    lse.assign(T * c.H, 0);
    for (int part = 0; part < 3; ++part) grads[part].assign(values[part].size(), 0);
    ForQueries([&](int64_t begin, int64_t i, int64_t h) {
      const std::vector<double> p = Weights(values, begin, i, h, &lse[i * c.H + h]);
      const int64_t row = Query(i, h);
      double delta = 0;
      for (int64_t j = begin; j <= i; ++j) {
        for (int64_t x = 0; x < c.d; ++x) out[row + x] += p[j - begin] * values[2][Key(j, h) + x];
      }
      for (int64_t x = 0; x < c.d; ++x) delta += out[row + x] * dout[row + x];
      for (int64_t j = begin; j <= i; ++j) {
        const int64_t key = Key(j, h);
        double dp = 0;
        for (int64_t x = 0; x < c.d; ++x) dp += dout[row + x] * values[2][key + x];
        const double ds = p[j - begin] * (dp - delta) * scale;
        for (int64_t x = 0; x < c.d; ++x) {
          grads[0][row + x] += ds * values[1][key + x];
          grads[1][key + x] += ds * values[0][row + x];
          grads[2][key + x] += p[j - begin] * dout[row + x];
        }
      }
    });
  }
  // sum(dout out), with one of q, k, v replaced.
  double Loss(int part, const std::vector<double>& other) const {
    const std::vector<double> v[3] = {part == 0 ? other : values[0], part == 1 ? other : values[1],
                                      part == 2 ? other : values[2]};
    double loss = 0, lse = 0;
    ForQueries([&](int64_t begin, int64_t i, int64_t h) {
      const std::vector<double> p = Weights(v, begin, i, h, &lse);
      for (int64_t j = begin; j <= i; ++j) {
        for (int64_t x = 0; x < c.d; ++x) loss += p[j - begin] * v[2][Key(j, h) + x] * dout[Query(i, h) + x];
      }
    });
    return loss;
  }
  // Where part lies in its buffer: [T, heads d] spread to rows of its stride (merged: q, k, v side by side).
  int64_t Start(int part) const { return !c.merged || part == 0 ? 0 : (part == 1 ? c.H : c.H + c.G) * c.d; }
  int64_t Width(int part) const { return (part == 0 ? c.H : c.G) * c.d; }
  int64_t Stride(int part) const { return part == 0 ? q_stride : kv_stride; }
  void Spread(int part, std::vector<double>& to) const {
    for (int64_t t = 0; t < T; ++t) {
      std::copy_n(values[part].begin() + t * Width(part), Width(part),
                  to.begin() + t * Stride(part) + Start(part));
    }
  }
  std::vector<double> Collect(int part, const std::vector<double>& from) const {
    std::vector<double> result;
    for (int64_t t = 0; t < T; ++t) {
      const auto row = from.begin() + t * Stride(part) + Start(part);
      result.insert(result.end(), row, row + Width(part));
    }
    return result;
  }

  const Type type;
  const Case c;
  std::vector<int32_t> offsets;
  int64_t T, q_stride, kv_stride;
  float scale;
  std::vector<double> values[3], dout;
};

TEST_P(CudaAttention, ForwardAndBackward) {
  const Type type = GetParam();
  for (const Case& c : Cases()) {
    SCOPED_TRACE("d " + std::to_string(c.d) + ", window " + std::to_string(c.window) + ", first document " +
                 std::to_string(c.lengths[0]));
    const Problem p(type, c);
    std::vector<double> out, lse, grads[3];
    p.Reference(out, lse, grads);
    // Unmerged: three buffers of their own; merged: three views of the first.
    std::vector<std::vector<double>> buffers;
    for (int part = 0; part < 3; ++part) {
      if (part == 0 || !c.merged) buffers.emplace_back(p.T * p.Stride(part), 0);
      p.Spread(part, buffers.back());
    }
    std::vector<std::unique_ptr<Tensor>> inputs, gradients;
    for (const auto& buffer : buffers) {
      inputs.push_back(std::make_unique<Tensor>(type, buffer));
      gradients.push_back(std::make_unique<Tensor>(type, std::vector<double>(buffer.size(), 9)));
    }
    const auto view = [&](const auto& list, int part) {
      return const_cast<void*>(list[c.merged ? 0 : part]->At(p.Start(part)));
    };
    const Array<int32_t> offsets(p.offsets);
    const AttentionShape shape{offsets.data(),
                               static_cast<int64_t>(c.lengths.size()),
                               p.T,
                               c.H,
                               c.G,
                               c.d,
                               p.q_stride,
                               p.kv_stride,
                               p.scale,
                               c.window};
    const Tensor result(type, std::vector<double>(out.size(), 9)), dout(type, p.dout);
    const Array<float> logs(p.T * c.H, 9.0f), delta(p.T * c.H, NAN);
    AttentionForward(type, shape, view(inputs, 0), view(inputs, 1), view(inputs, 2), result.data(),
                     logs.data(), nullptr);
    EXPECT_LT(Difference(result.Read(), out), Tolerance(type));
    EXPECT_LT(Difference(Wide(logs.Read()), lse, 1), kFloatTolerance);
    AttentionBackward(type, shape, view(inputs, 0), view(inputs, 1), view(inputs, 2), result.data(),
                      logs.data(), dout.data(), delta.data(), view(gradients, 0), view(gradients, 1),
                      view(gradients, 2), nullptr);
    for (int part = 0; part < 3; ++part) {
      const std::vector<double> found = p.Collect(part, gradients[c.merged ? 0 : part]->Read());
      // Values are of size 1; a document of one token has gradients of 0, made of cancelling terms of that
      // size.
      EXPECT_LT(Difference(found, grads[part], 1), 2 * Tolerance(type)) << "part " << part;
    }
  }
}

// The reference's own gradients, by differences: it is what the kernels are measured by.
TEST(CudaAttentionReference, GradientsAreThoseOfTheForwardPass) {
  for (const int64_t window : {0, 3}) {
    const Problem p(Type::kFloat32, {{5, 0, 9}, 4, 2, 16, false, 3, window});
    std::vector<double> out, lse, grads[3];
    p.Reference(out, lse, grads);
    std::mt19937_64 engine(7);
    for (int part = 0; part < 3; ++part) {
      for (int draw = 0; draw < 20; ++draw) {
        const int64_t i = static_cast<int64_t>(engine() % p.values[part].size());
        const auto loss = [&](const std::vector<double>& other) { return p.Loss(part, other); };
        EXPECT_NEAR(grads[part][i], Numeric(loss, p.values[part], i), 1e-6);
      }
    }
  }
}

}  // namespace
}  // namespace selfedit::cuda::testing
