// Keyed sampling: the generator's published vectors, the twin by sorting, and frequencies.
#include <array>
#include <map>
#include <numeric>

#include "core/philox.h"
#include "cpu_reference.h"

namespace selfedit::cpu {
namespace {

// Known answers of Random123 1.14 (kat_vectors, philox4x32 10).
TEST(CpuPhilox, KnownAnswers) {
  const auto words = [](uint64_t key, uint64_t position, uint64_t lane) {
    const Philox4 p = Philox(key, position, lane);
    return std::array<uint32_t, 4>{p.v[0], p.v[1], p.v[2], p.v[3]};
  };
  EXPECT_EQ(words(0, 0, 0), (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(words(~0ull, ~0ull, ~0ull),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  // Counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0: tells the order of the words.
  EXPECT_EQ(words(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

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
template <typename T>
Drawn Sample(const std::vector<T>& logits, const std::vector<Request>& requests) {
  const size_t rows = requests.size();
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
  Drawn d{std::vector<int32_t>(rows, -7), std::vector<float>(rows)};
  SampleRows<T>(logits.data(), rows, logits.size() / rows, temperature.data(), top_p.data(), top_k.data(),
                key.data(), position.data(), d.token.data(), d.logprob.data());
  return d;
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

template <typename T>
class CpuSample : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(CpuSample, Types);

TYPED_TEST(CpuSample, AgreesWithTwin) {
  using T = TypeParam;
  std::mt19937_64 engine(41);
  for (int64_t V : {1, 2, 7, 64, 65, 1000, 4099, 49152}) {
    const int rows = V > 10000 ? 24 : 60;
    const auto logits = Normal<T>(rows * V, V, 3);
    std::vector<Request> requests;
    for (int r = 0; r < rows; ++r) {
      Request q;
      q.temperature = std::array<float, 4>{0, 0.3f, 1, 1.7f}[engine() % 4];
      q.top_p = r % 3 == 0 ? 1 : static_cast<float>(engine() % 1000) / 1000;
      q.top_k = r % 2 == 0 ? 0 : static_cast<int32_t>(engine() % (r % 4 == 1 ? 40 : V + 2));
      q.key = engine();
      q.position = static_cast<int64_t>(engine() >> (r % 2 ? 1 : 50));  // beyond 32 bits too
      requests.push_back(q);
    }
    ForEachSimd([&] {
      const Drawn d = Sample(logits, requests);
      for (int r = 0; r < rows; ++r) {
        const Request& q = requests[r];
        const double temperature = q.temperature == 0 ? 1 : q.temperature;
        std::vector<double> z;
        for (int64_t j = 0; j < V; ++j) z.push_back(logits[r * V + j] / temperature);
        ASSERT_GE(d.token[r], 0);
        ASSERT_LT(d.token[r], V);
        EXPECT_NEAR(d.logprob[r], twin::LogSoftmax(z)[d.token[r]], 1e-5);
        double best = -kInfinity, drawn = -kInfinity;
        for (int32_t j : q.temperature == 0 ? Kept(z, 1, 1) : Kept(z, q.top_p, q.top_k)) {
          const double x = z[j] + (q.temperature == 0 ? 0 : Gumbel(q.key, q.position, j));
          best = std::max(best, x);
          if (j == d.token[r]) drawn = x;
        }
        // Two perturbed logits nearer to each other than float can tell may change places.
        EXPECT_GT(drawn, best - 1e-5) << "V " << V << ", row " << r << ", token " << d.token[r];
      }
    });
  }
}

// Frequencies of many draws against the distribution that should have made them: Pearson's statistic, whose
// mean is the number of degrees of freedom k and whose deviation is sqrt(2 k).
void ExpectFrequencies(const std::map<int32_t, int>& counts, const std::vector<double>& probability,
                       int draws) {
  double statistic = 0;
  int freedom = -1;
  for (size_t j = 0; j < probability.size(); ++j) {
    const auto found = counts.find(static_cast<int32_t>(j));
    const double count = found == counts.end() ? 0 : found->second;
    if (probability[j] == 0) {
      EXPECT_EQ(count, 0) << "token " << j << " is not in the support";
      continue;
    }
    ++freedom;
    statistic +=
        (count - draws * probability[j]) * (count - draws * probability[j]) / (draws * probability[j]);
  }
  EXPECT_LT(statistic, freedom + 5 * std::sqrt(2.0 * freedom));
  EXPECT_GT(statistic, freedom - 5 * std::sqrt(2.0 * freedom));
}

TYPED_TEST(CpuSample, Frequencies) {
  using T = TypeParam;
  const int64_t V = 30;
  const int draws = 40000;
  const auto one = Normal<T>(V, 9, 1.2);
  std::vector<T> logits;
  for (int r = 0; r < draws; ++r) logits.insert(logits.end(), one.begin(), one.end());
  struct Setting {
    float temperature, top_p;
    int32_t top_k;
    bool by_key;  // draws differ by key, else by position
  };
  for (const Setting s : {Setting{0.8f, 1, 0, true},
                          {1, 1, 0, false},
                          {1, 1, 6, true},
                          {1.3f, 0.75f, 0, false},
                          {1, 0.8f, 10, true},
                          {1, 0.001f, 0, true}}) {
    std::vector<double> z, probability(V, 0);
    for (T x : one) z.push_back(x / s.temperature);
    const auto kept = Kept(z, s.top_p, s.top_k);
    double total = 0;
    for (int32_t j : kept) total += std::exp(z[j]);
    for (int32_t j : kept) probability[j] = std::exp(z[j]) / total;
    std::vector<Request> requests;
    for (int r = 0; r < draws; ++r) {
      requests.push_back({s.temperature, s.top_p, s.top_k, s.by_key ? 1000003ull * r : 5, s.by_key ? 3 : r});
    }
    ForEachSimd([&] {
      std::map<int32_t, int> counts;
      for (int32_t token : Sample(logits, requests).token) ++counts[token];
      if (kept.size() > 1) {
        ExpectFrequencies(counts, probability, draws);
      } else {
        EXPECT_EQ(counts[kept[0]], draws);
      }
    });
  }
}

// Rare tokens of a large vocabulary keep their share: noise must not end where float's steps near 1 would end
// it.
TEST(CpuSampleFloat, RareTokens) {
  const int64_t V = 8192;
  const int draws = 6000;
  std::vector<float> logits(V, 0);
  logits[77] = 14;  // holds 99.3 %; the other 8,191 share 0.7 %
  std::vector<float> rows;
  std::vector<Request> requests;
  for (int r = 0; r < draws; ++r) {
    rows.insert(rows.end(), logits.begin(), logits.end());
    requests.push_back({1, 1, 0, 12345, r});
  }
  const double rest = 8191 / (8191 + std::exp(14.0)), expected = draws * rest;
  ForEachSimd([&] {
    double others = 0;
    std::map<int32_t, int> counts;
    for (int32_t token : Sample(rows, requests).token) {
      others += token != 77;
      if (token != 77) ++counts[token];
    }
    EXPECT_NEAR(others, expected, 5 * std::sqrt(expected));
    EXPECT_GT(counts.size(), others * 0.9);  // and they are different ones
  });
}

TYPED_TEST(CpuSample, IndependentOfBatchPositionAndThreads) {
  using T = TypeParam;
  const int64_t V = 3001, rows = 12;
  const auto logits = Normal<T>(rows * V, 3, 3);
  std::vector<Request> requests;
  for (int64_t r = 0; r < rows; ++r) {
    requests.push_back({r % 4 == 3 ? 0.f : 1.1f, r % 3 ? 1 : 0.8f, r % 2 ? 20 : 0, 99ull + r, 7 * r});
  }
  ForEachSimd([&] {
    Drawn together;
    {
      const Threads one(1);
      together = Sample(logits, requests);
    }
    const Threads two(2);
    const Drawn again = Sample(logits, requests);
    EXPECT_EQ(again.token, together.token);
    EXPECT_TRUE(SameBits(again.logprob, together.logprob));
    std::vector<T> reversed;
    for (int64_t r = rows; r-- > 0;)
      reversed.insert(reversed.end(), logits.begin() + r * V, logits.begin() + (r + 1) * V);
    Drawn back = Sample(reversed, {requests.rbegin(), requests.rend()});
    std::reverse(back.token.begin(), back.token.end());
    std::reverse(back.logprob.begin(), back.logprob.end());
    EXPECT_EQ(back.token, together.token);
    EXPECT_TRUE(SameBits(back.logprob, together.logprob));
    for (int64_t r = 0; r < rows; ++r) {
      const Drawn alone = Sample<T>({logits.begin() + r * V, logits.begin() + (r + 1) * V}, {requests[r]});
      EXPECT_EQ(alone.token[0], together.token[r]);
      EXPECT_EQ(alone.logprob[0], together.logprob[r]);
    }
  });
}

TYPED_TEST(CpuSample, TiesGoToTheLowerId) {
  using T = TypeParam;
  const int draws = 300;
  for (int64_t V : {10, 500}) {
    std::vector<T> logits(draws * V, 2);
    const auto support = [&](Request request) {
      std::vector<Request> requests;
      for (int r = 0; r < draws; ++r) {
        request.position = r;
        requests.push_back(request);
      }
      std::vector<int32_t> tokens = Sample(logits, requests).token;
      std::sort(tokens.begin(), tokens.end());
      tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
      return tokens;
    };
    ForEachSimd([&] {
      EXPECT_EQ(support({0}), (std::vector<int32_t>{0}));
      EXPECT_EQ(support({1, 1, 3}), (std::vector<int32_t>{0, 1, 2}));
      EXPECT_EQ(support({1, 3.5f / V, 0}), (std::vector<int32_t>{0, 1, 2, 3}));
      EXPECT_EQ(support({1, 0.6f, 4}), (std::vector<int32_t>{0, 1, 2}));
    });
  }
}

TYPED_TEST(CpuSample, RowsThatAreNoDistribution) {
  using T = TypeParam;
  const int64_t V = 200;
  const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  for (const Request request : {Request{0}, {1}, {1, 0.5f}, {1, 1, 5}, {1, 0.5f, 5}}) {
    ForEachSimd([&] {
      std::vector<T> logits(4 * V, 1);
      logits[0 * V + 150] = nan;
      logits[1 * V + 3] = inf;
      for (int64_t j = 0; j < V; ++j) logits[2 * V + j] = -inf;
      const Drawn d = Sample(logits, {request, request, request, request});
      for (int r = 0; r < 3; ++r) {
        EXPECT_EQ(d.token[r], -1) << r;
        EXPECT_TRUE(std::isnan(d.logprob[r])) << r;
      }
      EXPECT_GE(d.token[3], 0);  // the row beside them is untouched
    });
  }
}

// Masked tokens are never drawn, not even when top-k asks for more tokens than are left.
TYPED_TEST(CpuSample, MinusInfinityIsNeverDrawn) {
  using T = TypeParam;
  for (int64_t V : {20, 3000}) {
    const int draws = 50;
    std::vector<T> logits(draws * V, -std::numeric_limits<T>::infinity());
    for (int r = 0; r < draws; ++r) logits[r * V + 5] = logits[r * V + V - 2] = -3;
    for (const Request request : {Request{1}, {1, 0.9f}, {1, 1, 15}, {1, 0.99f, 15}, {1, 0.99f, 2500}, {0}}) {
      std::vector<Request> requests(draws, request);
      for (int r = 0; r < draws; ++r) requests[r].key = r;
      ForEachSimd([&] {
        std::map<int32_t, int> counts;
        for (int32_t token : Sample(logits, requests).token) ++counts[token];
        EXPECT_EQ(counts[5] + counts[V - 2], draws);
        EXPECT_EQ(counts[5] == draws, request.temperature == 0);
      });
    }
  }
}

}  // namespace
}  // namespace selfedit::cpu
