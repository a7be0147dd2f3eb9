// Keyed sampling against a reference that sorts in double and against the CPU kernel; frequencies.
#include <numeric>

#include "core/philox.h"
#include "cpu/kernels.h"
#include "cuda_testing.h"

namespace selfedit::cuda::testing {
namespace {

class CudaSample : public CudaTest {};
SELFEDIT_CUDA_TYPES(CudaSample);

struct Request {
  float temperature = 1, top_p = 1;
  int32_t top_k = 0;
  uint64_t key = 0;
  int64_t position = 0;
};
struct Drawn {
  std::vector<int32_t> token;
  std::vector<float> logprob;
};

// Row r of logits for request r.
Drawn Sample(Type type, const std::vector<double>& logits, const std::vector<Request>& requests) {
  std::vector<float> temperature, top_p;
  std::vector<int32_t> top_k;
  std::vector<uint64_t> key;
  std::vector<int64_t> position;
  for (const Request& r : requests) {
    temperature.push_back(r.temperature);
    top_p.push_back(r.top_p);
    top_k.push_back(r.top_k);
    key.push_back(r.key);
    position.push_back(r.position);
  }
  const int64_t rows = static_cast<int64_t>(requests.size());
  const Tensor device(type, logits);
  const Array<float> temperatures(temperature), top_ps(top_p), logprob(rows, -9.0f);
  const Array<int32_t> top_ks(top_k), token(rows, -9);
  const Array<uint64_t> keys(key);
  const Array<int64_t> positions(position);
  SampleRows(type, device.data(), rows, static_cast<int64_t>(logits.size()) / rows, temperatures.data(),
             top_ps.data(), top_ks.data(), keys.data(), positions.data(), token.data(), logprob.data(),
             nullptr);
  return {token.Read(), logprob.Read()};
}

// Tokens kept, best first, by sorting everything.
std::vector<int32_t> Kept(const std::vector<double>& z, double top_p, int32_t top_k) {
  std::vector<int32_t> order(z.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return z[a] > z[b]; });
  if (top_k > 0 && top_k < static_cast<int32_t>(order.size())) order.resize(top_k);
  if (top_p >= 1) return order;
  double total = 0, sum = 0;
  for (int32_t j : order) total += std::exp(z[j] - z[order[0]]);
  size_t count = 0;
  do sum += std::exp(z[order[count++]] - z[order[0]]);
  while (count < order.size() && sum < top_p * total);
  order.resize(count);
  return order;
}

double Gumbel(uint64_t key, int64_t position, int32_t j) {
  const uint32_t bits = Philox(key, position, j / 4).v[j % 4];
  const float v = std::min(static_cast<float>(bits) * 0x1p-32f + 0x1p-33f, 1 - 0x1p-24f);
  return -std::log(-std::log1p(-static_cast<double>(v)));
}

std::vector<Request> Requests(int rows, int64_t V, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<Request> requests;
  for (int r = 0; r < rows; ++r) {
    Request q;
    q.temperature = std::vector<float>{0, 0.3f, 1, 1.7f}[engine() % 4];
    q.top_p = r % 3 == 0 ? 1 : static_cast<float>(engine() % 1000) / 1000;
    q.top_k = r % 2 == 0 ? 0 : static_cast<int32_t>(engine() % (r % 4 == 1 ? 40 : V + 2));
    q.key = engine();
    q.position = static_cast<int64_t>(engine() >> (r % 2 ? 1 : 50));  // beyond 32 bits too
    requests.push_back(q);
  }
  return requests;
}

TEST_P(CudaSample, AgreesWithTheReference) {
  const Type type = GetParam();
  for (const int64_t V : {1, 2, 7, 64, 65, 1000, 4099}) {
    const int rows = V > 2000 ? 12 : 36;
    const std::vector<double> logits = Rounded(type, Normal(rows * V, V, 3));
    const std::vector<Request> requests = Requests(rows, V, 41);
    const Drawn d = Sample(type, logits, requests);
    for (int r = 0; r < rows; ++r) {
      const Request& q = requests[r];
      const bool greedy = q.temperature == 0;
      std::vector<double> z;
      double sum = 0;
      for (int64_t j = 0; j < V; ++j) {
        // Scaled in float: of 16-bit logits many are equal, and must stay so.
        z.push_back(static_cast<float>(logits[r * V + j]) * (greedy ? 1 : 1 / q.temperature));
        sum += std::exp(z.back());
      }
      ASSERT_GE(d.token[r], 0);
      ASSERT_LT(d.token[r], V);
      EXPECT_NEAR(d.logprob[r], z[d.token[r]] - std::log(sum), 1e-5);
      double best = -INFINITY, drawn = -INFINITY;
      for (int32_t j : greedy ? Kept(z, 1, 1) : Kept(z, q.top_p, q.top_k)) {
        const double x = z[j] + (greedy ? 0 : Gumbel(q.key, q.position, j));
        best = std::max(best, x);
        if (j == d.token[r]) drawn = x;
      }
      // Two perturbed logits nearer to each other than float can tell may change places.
      EXPECT_GT(drawn, best - 1e-5) << "V " << V << ", row " << r << ", token " << d.token[r];
    }
  }
}

// One seed, one text, whatever the device.
TEST_P(CudaSample, AgreesWithTheCpuKernel) {
  const Type type = GetParam();
  const int64_t V = 777, rows = 64;
  const std::vector<double> logits = Rounded(type, Normal(rows * V, 8, 2));
  const std::vector<float> as_float = Floats(logits);
  const std::vector<Request> requests = Requests(rows, V, 9);
  const Drawn d = Sample(type, logits, requests);
  for (int64_t r = 0; r < rows; ++r) {
    const Request& q = requests[r];
    int32_t token = -1;
    float logprob = 0;
    cpu::SampleRows<float>(as_float.data() + r * V, 1, V, &q.temperature, &q.top_p, &q.top_k, &q.key,
                           &q.position, &token, &logprob);
    EXPECT_EQ(d.token[r], token) << "row " << r;
    EXPECT_NEAR(d.logprob[r], logprob, 1e-5);
  }
}

// Pearson's statistic has the number of degrees of freedom k as its mean and sqrt(2 k) as its deviation.
TEST_P(CudaSample, Frequencies) {
  const Type type = GetParam();
  const int64_t V = 30;
  const int draws = 4000;
  const std::vector<double> one = Rounded(type, Normal(V, 9, 1.2));
  std::vector<double> logits;
  for (int r = 0; r < draws; ++r) logits.insert(logits.end(), one.begin(), one.end());
  for (const Request& s : std::vector<Request>{{0.8f}, {1, 1, 6}, {1.3f, 0.75f}, {1, 0.95f, 10}}) {
    std::vector<double> z, probability(V, 0);
    for (double x : one) z.push_back(static_cast<float>(x) * (1 / s.temperature));
    const std::vector<int32_t> kept = Kept(z, s.top_p, s.top_k);
    double total = 0;
    for (int32_t j : kept) total += std::exp(z[j]);
    for (int32_t j : kept) probability[j] = std::exp(z[j]) / total;
    std::vector<Request> requests(draws, s);
    for (int r = 0; r < draws; ++r) requests[r].key = 1000003ull * r;
    std::vector<int> counts(V, 0);
    for (int32_t token : Sample(type, logits, requests).token) ++counts.at(token);
    double statistic = 0;
    for (int64_t j = 0; j < V; ++j) {
      if (probability[j] == 0) {
        EXPECT_EQ(counts[j], 0) << "token " << j << " is not in the support";
      } else {
        const double expected = draws * probability[j];
        statistic += (counts[j] - expected) * (counts[j] - expected) / expected;
      }
    }
    ASSERT_GT(kept.size(), 2u);
    const double freedom = static_cast<double>(kept.size()) - 1;
    EXPECT_LT(statistic, freedom + 5 * std::sqrt(2 * freedom));
  }
}

TEST_P(CudaSample, TiesGoToTheLowerId) {
  const int draws = 60;
  for (const int64_t V : {10, 900}) {
    const std::vector<double> logits(draws * V, 2);
    const auto support = [&](Request request) {
      std::vector<Request> requests(draws, request);
      for (int r = 0; r < draws; ++r) requests[r].position = r;
      std::vector<int32_t> tokens = Sample(GetParam(), logits, requests).token;
      std::sort(tokens.begin(), tokens.end());
      tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
      return tokens;
    };
    EXPECT_EQ(support({0}), (std::vector<int32_t>{0}));
    EXPECT_EQ(support({1, 1, 3}), (std::vector<int32_t>{0, 1, 2}));
    EXPECT_EQ(support({1, 3.5f / static_cast<float>(V), 0}), (std::vector<int32_t>{0, 1, 2, 3}));
    EXPECT_EQ(support({1, 0.6f, 4}), (std::vector<int32_t>{0, 1, 2}));
  }
  // Zeros of both signs are equal.
  std::vector<double> zeros(40, -5);
  zeros[7] = 0.0;
  zeros[2] = -0.0;
  EXPECT_EQ(Sample(GetParam(), zeros, {{0}}).token[0], 2);
  EXPECT_EQ(Sample(GetParam(), zeros, {{1, 1, 1}}).token[0], 2);
}

// Nearly flat rows: a token too many or too few would soon show.
TEST_P(CudaSample, KeepsExactlyTheCut) {
  const int draws = 80;
  const int64_t V = 40;
  std::vector<double> logits;
  for (int r = 0; r < draws; ++r) {
    for (int64_t j = 0; j < V; ++j) logits.push_back(static_cast<double>(j * 7 % V) / 64);
  }
  const std::vector<double> one(logits.begin(), logits.begin() + V);
  for (const Request& request : std::vector<Request>{
           {1, 1, 1}, {1, 1, 2}, {1, 1, 3}, {1, 1, 5}, {1, 0.03f}, {1, 0.1f}, {1, 0.5f, 7}}) {
    std::vector<Request> requests(draws, request);
    for (int r = 0; r < draws; ++r) requests[r].key = 77 + r;
    std::vector<int32_t> tokens = Sample(GetParam(), logits, requests).token;
    std::vector<int32_t> kept = Kept(one, request.top_p, request.top_k);
    std::sort(kept.begin(), kept.end());
    std::sort(tokens.begin(), tokens.end());
    tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
    EXPECT_EQ(tokens, kept) << "top-k " << request.top_k << ", top-p " << request.top_p;
  }
}

TEST_P(CudaSample, RowsThatAreNoDistribution) {
  const int64_t V = 200;
  for (const Request& request : std::vector<Request>{{0}, {1}, {1, 0.5f}, {1, 1, 5}, {1, 0.5f, 5}}) {
    std::vector<double> logits(4 * V, 1);
    logits[150] = NAN;
    logits[V + 3] = INFINITY;
    for (int64_t j = 0; j < V; ++j) logits[2 * V + j] = -INFINITY;
    const Drawn d = Sample(GetParam(), logits, {request, request, request, request});
    for (int r = 0; r < 3; ++r) {
      EXPECT_EQ(d.token[r], -1) << r;
      EXPECT_TRUE(std::isnan(d.logprob[r])) << r;
    }
    EXPECT_GE(d.token[3], 0);
  }
}

TEST_P(CudaSample, MinusInfinityIsNeverDrawn) {
  for (const int64_t V : {20, 1500}) {
    const int draws = 20;
    std::vector<double> logits(draws * V, -INFINITY);
    for (int r = 0; r < draws; ++r) logits[r * V + 5] = logits[r * V + V - 2] = -3;
    for (const Request& request :
         std::vector<Request>{{1}, {1, 0.9f}, {1, 1, 15}, {1, 0.99f, 15}, {1, 0.99f, 2500}, {0}}) {
      std::vector<Request> requests(draws, request);
      for (int r = 0; r < draws; ++r) requests[r].key = r;
      int low = 0, high = 0;
      for (int32_t token : Sample(GetParam(), logits, requests).token)
        (token == 5 ? low : high) += token == 5 || token == V - 2;
      EXPECT_EQ(low + high, draws);
      EXPECT_EQ(high == 0, request.temperature == 0);
    }
  }
}

}  // namespace
}  // namespace selfedit::cuda::testing
