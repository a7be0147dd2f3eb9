#include "core/svd.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "core/philox.h"
#include "core/random.h"

namespace selfedit {
namespace {

constexpr int64_t kOversampling = 10;
constexpr int kPowerIterations = 4;

at::Tensor Orthonormal(const at::Tensor& a) { return std::get<0>(at::linalg_qr(a)); }

// The largest |entry| of each column of U becomes positive; of equal ones the first decides.
void FixSigns(SpectralFactors* f) {
  if (f->u.numel() == 0) return;
  const at::Tensor at_largest = f->u.abs().argmax(0, true);
  const at::Tensor negative = at::gather(f->u, 0, at_largest).lt(0);
  const at::Tensor sign = at::where(negative, at::full({1}, -1.0, at::kDouble), at::ones({1}, at::kDouble));
  f->u = (f->u * sign).contiguous();
  f->v = (f->v * sign.t()).contiguous();
}

SpectralFactors Leading(const SpectralFactors& f, int64_t rank) {
  return {f.u.narrow(1, 0, rank).contiguous(), f.sigma.narrow(0, 0, rank).contiguous(),
          f.v.narrow(0, 0, rank).contiguous()};
}

}  // namespace

at::Tensor KeyedNormal(std::vector<int64_t> shape, uint64_t key) {
  at::Tensor out = at::empty(shape, at::kDouble);
  double* values = out.mutable_data_ptr<double>();
  const int64_t count = out.numel();
  for (int64_t i = 0; i < count; i += 2) {
    const Philox4 draw = Philox(key, i / 2, 0);
    const double radius = std::sqrt(-2.0 * std::log(1.0 - UniformDouble(draw.v[0], draw.v[1])));
    const double angle = 2.0 * M_PI * UniformDouble(draw.v[2], draw.v[3]);
    values[i] = radius * std::cos(angle);
    if (i + 1 < count) values[i + 1] = radius * std::sin(angle);
  }
  return out;
}

SpectralFactors DenseSvd(const at::Tensor& a) {
  auto [u, sigma, v] = at::linalg_svd(a.to(at::kDouble), false);
  SpectralFactors f{u, sigma, v};
  FixSigns(&f);
  return f;
}

SpectralFactors ProductSvd(const at::Tensor& b, const at::Tensor& a) {
  const auto [qb, rb] = at::linalg_qr(b.to(at::kDouble));
  const auto [qa, ra] = at::linalg_qr(a.to(at::kDouble).t());
  const auto [u, sigma, v] = at::linalg_svd(at::mm(rb, ra.t()), false);
  SpectralFactors f{at::mm(qb, u), sigma, at::mm(v, qa.t())};
  FixSigns(&f);
  return f;
}

SpectralFactors RandomisedSvd(const at::Tensor& weight, int64_t rank, uint64_t key) {
  const int64_t most = weight.dim() == 2 ? std::min(weight.size(0), weight.size(1)) : 0;
  if (rank < 1 || rank > most) {
    throw Error("DELTA_SHAPE", "rank is " + std::to_string(rank) + "; the weight has 1 to " +
                                   std::to_string(most) + " singular values");
  }
  const auto rounded = weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor w = weight.to(at::kDouble);
  const int64_t width = std::min(rank + kOversampling, most);
  SpectralFactors f;
  if (2 * width >= most) {
    f = DenseSvd(w);  // the whole decomposition costs no more
  } else {
    const at::Tensor turned = w.t();
    at::Tensor q = Orthonormal(at::mm(w, KeyedNormal({w.size(1), width}, key)));
    for (int i = 0; i < kPowerIterations; ++i) q = Orthonormal(at::mm(w, Orthonormal(at::mm(turned, q))));
    // W is nearly Q (Q^T W).
    f = ProductSvd(q, at::mm(q.t(), w));
  }
  f = Leading(f, rank);
  return {f.u.to(rounded), f.sigma.to(rounded), f.v.to(rounded)};
}

double LargestSingularValue(int64_t out, int64_t in, const Product& times, const Product& transposed_times) {
  const int64_t most = std::min({out, in, kMostLanczosSteps});
  if (most == 0) return 0;
  // W^T u_j = alpha_j v_j + beta_j v_{j+1}: in the two bases W is bidiagonal, alpha on the diagonal and beta
  // above it.
  const at::Tensor us = at::zeros({most, out}, at::kDouble), vs = at::zeros({most, in}, at::kDouble);
  const at::Tensor core = at::zeros({most, most + 1}, at::kDouble);
  double* entries = core.mutable_data_ptr<double>();
  // Twice, since once leaves what has been rounded off.
  const auto orthogonal = [](at::Tensor x, const at::Tensor& basis) {
    for (int pass = 0; pass < 2; ++pass) x = x - at::mv(basis.t(), at::mv(basis, x));
    return x;
  };
  at::Tensor v = KeyedNormal({in}, DeriveKey(0, "lanczos", {}));
  v = v / v.norm();
  double size = 0, best = 0;
  for (int64_t j = 0; j < most; ++j) {
    vs[j].copy_(v);
    at::Tensor u = times(v);
    if (j > 0) u = orthogonal(u, us.narrow(0, 0, j));
    const double alpha = u.norm().item<double>();
    entries[j * (most + 1) + j] = alpha;
    size = std::max(size, alpha);
    at::Tensor next;
    double beta = 0;
    // Up to rounding nothing is left in this direction: what has been found so far holds the largest value.
    bool last = alpha <= size * 1e-15;
    if (!last) {
      us[j].copy_(u / alpha);
      next = orthogonal(transposed_times(us[j]), vs.narrow(0, 0, j + 1));
      beta = next.norm().item<double>();
      entries[j * (most + 1) + j + 1] = beta;
      size = std::max(size, beta);
      last = j + 1 == most || beta <= size * 1e-15;
    }
    if (last || j % 8 == 7) {
      const at::Tensor found = core.narrow(0, 0, j + 1).narrow(1, 0, j + 2);
      const double value = at::linalg_svdvals(found)[0].item<double>();
      const bool still = value - best <= 1e-14 * value;
      best = std::max(best, value);
      if (last || still) break;
    }
    v = next / beta;
  }
  return best;
}

}  // namespace selfedit
