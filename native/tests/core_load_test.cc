// Model::Load on files written here: what is said about a wrong file, the type of the head, and what was
// copied.
#include "core/model.h"
#include "core_delta_helpers.h"
#include "format/safetensors_writer.h"
#include "format_helpers.h"

namespace selfedit {
namespace {

using delta_test::ExpectCode;
using delta_test::TinyModel;
using format_test::ExpectError;
using format_test::TemporaryFolder;

// The weights of a model by the names of its files.
class Stored {
 public:
  explicit Stored(const Model& model) : config_(model.config()) {
    for (size_t id = 0; id < model.tensors().size(); ++id) {
      const MatrixInfo& info = model.tensors()[id];
      const at::Tensor weight = model.Weight(static_cast<int64_t>(id)).contiguous();
      const std::vector<int64_t> shape = info.vector() ? std::vector<int64_t>{info.in} : weight.sizes().vec();
      Add(info.module >= Module::kQBias ? info.name : info.name + ".weight", shape, weight);
    }
  }

  void Add(const std::string& name, const std::vector<int64_t>& shape, const at::Tensor& values) {
    kept_.push_back(values);
    const DType dtype = values.scalar_type() == at::kDouble     ? DType::kF64
                        : values.scalar_type() == at::kBFloat16 ? DType::kBF16
                                                                : DType::kF32;
    tensors_.push_back({name, dtype, shape, values.const_data_ptr()});
  }

  TensorToWrite& operator[](const std::string& name) {
    for (TensorToWrite& tensor : tensors_) {
      if (tensor.name == name) return tensor;
    }
    throw std::out_of_range(name);
  }

  // Tensors [first, last) into a file.
  void Write(const std::string& path, size_t first = 0, size_t last = SIZE_MAX) const {
    WriteSafetensors(path, {tensors_.begin() + static_cast<int64_t>(first),
                            tensors_.begin() + static_cast<int64_t>(std::min(last, tensors_.size()))});
  }

  std::shared_ptr<Model> Load(const std::vector<std::string>& files, Dtype dtype) const {
    LoadSpec spec;
    spec.config = config_;
    spec.files = files;
    spec.dtype = dtype;
    return Model::Load(spec, {});
  }

 private:
  ModelConfig config_;
  std::vector<at::Tensor> kept_;
  std::vector<TensorToWrite> tensors_;
};

std::string MessageOf(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Load, NamesThatAFileMakesUpAreQuotedAndCut) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  Stored stored(*TinyModel(Dtype::kFloat32));
  stored.Add("evil\n\x1b[31m" + std::string(1 << 20, 'x'), {1}, at::zeros({1}));
  const std::string path = folder / "m.safetensors";
  stored.Write(path);
  const std::string message = MessageOf([&] { stored.Load({path}, Dtype::kFloat32); });
  EXPECT_NE(message.find("1 tensor(s) not of this architecture: \"evil\\n\\u001b[31mxxx"), std::string::npos)
      << message.substr(0, 300);
  EXPECT_LT(message.size(), 1000u);
}

TEST(Load, AnUnexpectedTensorIsNamedWithItsShard) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  Stored stored(*TinyModel(Dtype::kFloat32));
  stored.Add("experts", {1}, at::zeros({1}));
  const std::vector<std::string> shards = {folder / "a.safetensors", folder / "b.safetensors"};
  stored.Write(shards[0], 0, 5);
  stored.Write(shards[1], 5);
  ExpectError([&] { stored.Load(shards, Dtype::kFloat32); }, "TENSOR_UNEXPECTED",
              {"\"experts\" in " + shards[1]});
}

// A head is kept in bfloat16 only where that loses nothing, whatever type the file has.
TEST(Load, AHeadIsAsWideAsItsValues) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat32);
  const int64_t head = model->ids().head;
  const at::Tensor exact = model->Weight(head).to(at::kBFloat16).to(at::kFloat);
  at::Tensor last = exact.clone();
  last[30][11] = 1.0f + 1e-3f;  // more than bfloat16 holds, in the last place that is looked at
  struct Case {
    at::Tensor values;
    at::ScalarType expected;
  };
  for (const auto& [values, expected] :
       {Case{exact, at::kBFloat16}, Case{last, at::kFloat}, Case{exact.to(at::kBFloat16), at::kBFloat16},
        Case{exact.to(at::kDouble), at::kBFloat16}}) {
    Stored stored(*model);
    stored["lm_head.weight"] = {"lm_head.weight",
                                values.scalar_type() == at::kDouble     ? DType::kF64
                                : values.scalar_type() == at::kBFloat16 ? DType::kBF16
                                                                        : DType::kF32,
                                {31, 12},
                                values.const_data_ptr()};
    const std::string path = folder / "m.safetensors";
    stored.Write(path);
    const at::Tensor loaded = stored.Load({path}, Dtype::kBFloat16)->Weight(head);
    EXPECT_EQ(loaded.scalar_type(), expected);
    EXPECT_TRUE(at::equal(loaded.to(at::kFloat), values.to(at::kFloat)));
  }
}

// float64 goes to the type asked for at once.
TEST(Load, Float64FilesAreRoundedToTheModelsType) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  const auto model = TinyModel(Dtype::kFloat64);
  Stored stored(*model);
  const std::string path = folder / "m.safetensors";
  stored.Write(path);
  const auto loaded = stored.Load({path}, Dtype::kFloat32);
  for (size_t id = 0; id < model->tensors().size(); ++id) {
    EXPECT_TRUE(at::equal(loaded->Weight(id), model->Weight(id).to(at::kFloat))) << model->tensors()[id].name;
  }
  at::Tensor beyond = at::full({31, 12}, 1e39, at::kDouble);
  stored["lm_head.weight"].data = beyond.const_data_ptr();
  stored.Write(path);
  ExpectError([&] { stored.Load({path}, Dtype::kFloat32); }, "WEIGHT_NOT_FINITE", {path, "lm_head"});
}

TEST(Load, ATiedHeadMustRepeatTheEmbeddingToItsLastBit) {
  const c10::InferenceMode inference;
  const TemporaryFolder folder;
  ModelConfig config = TinyModel(Dtype::kFloat32)->config();
  config.tied = true;
  const auto model = Model::Random(config, Dtype::kFloat32, 5, 0.3);
  const std::string path = folder / "m.safetensors";
  at::Tensor head = model->Weight(model->ids().embedding).clone();
  Stored stored(*model);
  stored.Add("lm_head.weight", {31, 12}, head);
  stored.Write(path);
  EXPECT_TRUE(at::equal(stored.Load({path}, Dtype::kFloat32)->Weight(model->ids().head), head));
  head[30][11] = std::nextafter(head[30][11].item<float>(), 9.0f);
  stored.Write(path);
  ExpectError([&] { stored.Load({path}, Dtype::kFloat32); }, "TENSOR_UNEXPECTED",
              {path, "lm_head.weight", "differs from the embedding"});
}

}  // namespace
}  // namespace selfedit
