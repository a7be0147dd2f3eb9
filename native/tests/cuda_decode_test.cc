// Decoding: attention over a shared prefix and own keys against softmax in double; the state of the rows.
#include <memory>

#include "cuda_testing.h"

namespace selfedit::cuda::testing {
namespace {

class CudaDecode : public CudaTest {};
SELFEDIT_CUDA_TYPES(CudaDecode);

struct Row {
  int32_t prompt, own;  // prompt -1: idle
};

TEST_P(CudaDecode, AppendsAndAttends) {
  const Type type = GetParam();
  const std::vector<int32_t> prompts = {5, 0, 300};
  const std::vector<Row> rows = {{0, 0}, {0, 3}, {1, 0}, {-1, 0}, {2, 70}, {2, 1}, {1, 129}};
  const int64_t B = static_cast<int64_t>(rows.size()), capacity = 131;
  for (const auto& [H, G, d] : {std::tuple{3, 3, 64}, {9, 1, 40}, {4, 2, 128}, {2, 1, 256}, {4, 4, 16}}) {
    const int64_t width = G * d, q_stride = H * d + 2 * width;
    const double scale = 1 / std::sqrt(static_cast<float>(d));
    std::vector<std::vector<double>> prefix[2], own[2];
    std::vector<std::unique_ptr<Tensor>> keep;
    std::vector<const void*> prefix_lists[2];
    std::vector<void*> own_lists[2];
    std::vector<std::unique_ptr<Tensor>> own_tensors[2];
    for (int side = 0; side < 2; ++side) {
      std::vector<const void*> by_prompt;
      for (size_t p = 0; p < prompts.size(); ++p) {
        prefix[side].push_back(Rounded(type, Normal(prompts[p] * width, 10 * side + p)));
        keep.push_back(std::make_unique<Tensor>(type, prefix[side].back()));
        by_prompt.push_back(prompts[p] == 0 ? nullptr : keep.back()->data());
      }
      for (int64_t b = 0; b < B; ++b) {
        own[side].push_back(Rounded(type, Normal(capacity * width, 100 + 20 * side + b)));
        own_tensors[side].push_back(std::make_unique<Tensor>(type, own[side].back()));
        prefix_lists[side].push_back(rows[b].prompt < 0 ? nullptr : by_prompt[rows[b].prompt]);
        own_lists[side].push_back(rows[b].prompt < 0 ? nullptr : own_tensors[side].back()->data());
      }
    }
    std::vector<int32_t> prefix_length, own_length;
    for (const Row& row : rows) {
      prefix_length.push_back(row.prompt < 0 ? 0 : prompts[row.prompt]);
      own_length.push_back(row.own);
    }
    // q, k and v of the new token side by side in one buffer.
    const std::vector<double> qkv = Rounded(type, Normal(B * q_stride, 3));
    const Tensor merged(type, qkv);
    const Array<const void*> prefix_k(prefix_lists[0]), prefix_v(prefix_lists[1]);
    const Array<void*> own_k(own_lists[0]), own_v(own_lists[1]);
    const Array<int32_t> prefix_lengths(prefix_length), own_lengths(own_length);
    DecodeShape shape{B,
                      H,
                      G,
                      d,
                      q_stride,
                      q_stride,
                      static_cast<float>(scale),
                      prefix_k.data(),
                      prefix_v.data(),
                      prefix_lengths.data(),
                      own_k.data(),
                      own_v.data(),
                      own_lengths.data()};
    AppendKeyValue(type, shape, merged.At(H * d), merged.At(H * d + width), nullptr);
    for (int64_t b = 0; b < B; ++b) {
      for (int side = 0; side < 2 && rows[b].prompt >= 0; ++side) {
        std::copy_n(qkv.begin() + b * q_stride + H * d + side * width, width,
                    own[side][b].begin() + rows[b].own * width);
      }
      EXPECT_EQ(own_tensors[0][b]->Read(), own[0][b]) << "row " << b;
      EXPECT_EQ(own_tensors[1][b]->Read(), own[1][b]) << "row " << b;
    }
    // Windows: none, of one token, within the own keys of some rows and the prefix of others, wider than all.
    for (const int64_t window : {0, 1, 90, 1000}) {
      shape.window = window;
      std::vector<double> expected(B * H * d, 0);
      for (int64_t b = 0; b < B; ++b) {
        if (rows[b].prompt < 0) continue;
        for (int64_t h = 0; h < H; ++h) {
          const auto at = [&](int side, int64_t j, int64_t c) {
            const int64_t before = prefix_length[b], g = h / (H / G);
            return j < before ? prefix[side][rows[b].prompt][j * width + g * d + c]
                              : own[side][b][(j - before) * width + g * d + c];
          };
          const int64_t length = prefix_length[b] + rows[b].own + 1;
          const int64_t begin = window > 0 ? std::max<int64_t>(0, length - window) : 0;
          std::vector<double> s(length, 0);
          double sum = 0;
          for (int64_t j = begin; j < length; ++j) {
            for (int64_t c = 0; c < d; ++c) s[j] += qkv[b * q_stride + h * d + c] * at(0, j, c) * scale;
            sum += std::exp(s[j]);
          }
          for (int64_t j = begin; j < length; ++j) {
            for (int64_t c = 0; c < d; ++c)
              expected[(b * H + h) * d + c] += std::exp(s[j]) / sum * at(1, j, c);
          }
        }
      }
      for (const int64_t splits : {int64_t{1}, int64_t{3}, kMostSplits}) {
        const Tensor out(type, std::vector<double>(B * H * d, 9));
        const Array<float> scratch(B * H * splits * (d + 2), NAN);
        AttentionDecode(type, shape, merged.data(), 1, splits, splits == 1 ? nullptr : scratch.data(),
                        out.data(), nullptr);
        EXPECT_LT(Difference(out.Read(), expected), Tolerance(type))
            << "d " << d << ", window " << window << ", splits " << splits;
      }
    }
  }
}

TEST_P(CudaDecode, StateOfTheRows) {
  // Rows: goes on, stop token, length, context, not finite, idle, already ended; stop beats length.
  const int64_t B = 8, capacity = 6;
  const Array<int32_t> last({1, 2, 3, 4, 5, 6, 7, 8}), own_length({4, 0, 2, 3, 1, 0, 3, 2}),
      finish({0, 0, 0, 0, 0, -1, 2, 0}), prefix_length({10, 11, 12, 13, 14, 15, 16, 17}),
      max_tokens({6, 6, 4, 6, 6, 6, 3, 3}), stop_tokens({50, 60}), out_tokens(B * capacity, -9),
      running(1, -9);
  const Array<int64_t> count({5 - 1, 0, 3, 5 - 1, 1, 0, 3, 2});
  const Array<float> out_logprobs(B * capacity, -9.0f);
  const DecodeState state{B,
                          last.data(),
                          own_length.data(),
                          count.data(),
                          finish.data(),
                          prefix_length.data(),
                          max_tokens.data(),
                          18,
                          stop_tokens.data(),
                          2,
                          out_tokens.data(),
                          out_logprobs.data(),
                          capacity,
                          running.data()};
  const Array<int32_t> tokens(B, -9), positions(B, -9);
  DecodeInput(state, tokens.data(), positions.data(), nullptr);
  EXPECT_EQ(tokens.Read(), (std::vector<int32_t>{1, 2, 3, 4, 5, 0, 0, 8}));
  EXPECT_EQ(positions.Read(), (std::vector<int32_t>{14, 11, 14, 16, 15, 0, 0, 19}));

  const Array<int32_t> drawn({40, 60, 41, 42, -1, 43, 44, 50});
  const Array<float> logprobs({-1, -2, -3, -4, NAN, -6, -7, -8});
  DecodeUpdate(state, drawn.data(), logprobs.data(), 1, nullptr);
  EXPECT_EQ(finish.Read(), (std::vector<int32_t>{0, 1, 2, 3, 4, -1, 2, 1}));
  EXPECT_EQ(running.Read()[0], 1);
  EXPECT_EQ(last.Read(), (std::vector<int32_t>{40, 60, 41, 42, 5, 6, 7, 50}));
  EXPECT_EQ(count.Read(), (std::vector<int64_t>{5, 1, 4, 5, 1, 0, 3, 3}));
  EXPECT_EQ(own_length.Read(), (std::vector<int32_t>{5, 1, 3, 4, 1, 0, 3, 3}));
  std::vector<int32_t> written(B * capacity, -9);
  std::vector<float> written_logprobs(B * capacity, -9);
  const std::vector<std::pair<int64_t, int64_t>> places = {{0, 4}, {1, 0}, {2, 3}, {3, 4}, {7, 2}};
  for (const auto& [b, at] : places) {
    written[b * capacity + at] = drawn.Read()[b];
    written_logprobs[b * capacity + at] = logprobs.Read()[b];
  }
  EXPECT_EQ(out_tokens.Read(), written);
  EXPECT_EQ(out_logprobs.Read(), written_logprobs);
  // After a prefill nothing has been appended.
  DecodeUpdate(state, drawn.data(), logprobs.data(), 0, nullptr);
  EXPECT_EQ(own_length.Read()[0], 5);
  EXPECT_EQ(finish.Read()[0], 2);
  EXPECT_EQ(running.Read()[0], 0);
}

}  // namespace
}  // namespace selfedit::cuda::testing
