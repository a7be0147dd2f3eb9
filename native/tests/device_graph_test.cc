// The twin's graphs behave as CUDA's: a capture runs nothing, a replay uses the arguments of the capture and
// the memory's present contents.
#include <gtest/gtest.h>

#include "cuda/runtime/backend.h"
#include "format/error.h"

namespace selfedit::cuda {
namespace {

TEST(DeviceGraph, ReplaysWithTheArgumentsOfTheCapture) {
  const at::Tensor x = at::zeros({2, 3}, at::kFloat), bias = at::ones({3}, at::kFloat),
                   other = at::full({3}, 50.0f);
  const at::Tensor a = at::full({2, 4}, 2.0f), b = at::full({5, 4}, 3.0f), y = at::zeros({2, 5}, at::kFloat);
  void* to = x.mutable_data_ptr();
  void* from = bias.mutable_data_ptr();
  int64_t rows = 2;
  Graph graph;
  graph.Capture([&] {
    Launch(BiasAdd, Type::kFloat32, to, from, rows, int64_t{3});
    Product(a, b, true, true, y);
  });
  EXPECT_EQ(x.sum().item<float>(), 0);
  EXPECT_EQ(y.sum().item<float>(), 0);
  // What the host holds may change, what the device holds is read anew.
  from = other.mutable_data_ptr();
  rows = 0;
  graph.Replay();
  EXPECT_EQ(x.sum().item<float>(), 6);
  EXPECT_EQ(y.sum().item<float>(), 240);
  bias.fill_(2);
  graph.Replay();
  EXPECT_EQ(x.sum().item<float>(), 18);
  EXPECT_EQ(y.sum().item<float>(), 480);
}

TEST(DeviceGraph, RefusesWhatACaptureMustNotDo) {
  const at::Tensor x = at::zeros({2}, at::kFloat);
  Graph graph;
  EXPECT_THROW(graph.Capture([&] { UploadInto(x, x); }), Error);
  EXPECT_THROW(graph.Capture([&] { Synchronise(); }), Error);
  Readback readback;
  EXPECT_THROW(graph.Capture([&] { readback.Start(x); }), Error);
  readback.Start(x);
  EXPECT_EQ(readback.Wait().numel(), 2);
}

}  // namespace
}  // namespace selfedit::cuda
