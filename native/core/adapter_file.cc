#include "core/adapter_file.h"

#include <algorithm>
#include <map>

#include "core/delta_file.h"
#include "core/model.h"
#include "core/stored.h"
#include "format/gguf_writer.h"
#include "format/json.h"
#include "format/safetensors_writer.h"

namespace selfedit {
namespace {

// The tensors of a file, each read once.
class FactorFile {
 public:
  FactorFile(const Model& model, const std::string& path)
      : file_(TensorFile::Open(path)), options_(model.options()) {}

  const at::Tensor& Read(const std::string& name) {
    const auto known = read_.find(name);
    if (known != read_.end()) return known->second;
    const TensorInfo* info = file_->Find(name);
    if (info == nullptr)
      throw Error("TENSOR_MISSING", file_->path() + ": tensor " + QuoteForMessage(name) + " is missing");
    if (info->shape.size() != 2) {
      throw Error("DELTA_SHAPE", file_->path() + ": " + QuoteForMessage(name) + " has " +
                                     std::to_string(info->shape.size()) + " dimensions; expected two");
    }
    return read_.emplace(name, RealValues(*file_, *info, options_)).first->second;
  }

  [[noreturn]] void Wrong(const std::string& name, const std::string& expected) const {
    const TensorInfo& info = *file_->Find(name);
    throw Error("DELTA_SHAPE", file_->path() + ": " + QuoteForMessage(name) + " is [" +
                                   std::to_string(info.shape[0]) + ", " + std::to_string(info.shape[1]) +
                                   "]; expected " + expected);
  }

  // So many rows of a B belong to a weight.
  void Take(const std::string& name, int64_t rows, bool transposed) {
    taken_[name].rows += rows;
    taken_[name].transposed = transposed;
  }

  // Tensors that were not asked for, and rows that no weight has taken.
  void RefuseTheRest() const {
    RefuseUnused(*file_, [this](const std::string& name) { return read_.count(name) > 0; });
    for (const auto& [name, taken] : taken_) {
      if (file_->Find(name)->shape[taken.transposed ? 1 : 0] == taken.rows) continue;
      const std::string rows = std::to_string(taken.rows);
      Wrong(name, taken.transposed ? "[rank, " + rows + "]" : "[" + rows + ", rank]");
    }
  }

 private:
  std::shared_ptr<const TensorFile> file_;
  at::TensorOptions options_;
  std::map<std::string, at::Tensor> read_;
  struct Taken {
    int64_t rows = 0;
    bool transposed = false;
  };
  std::map<std::string, Taken> taken_;  // of each B
};

DeltaPart ReadPart(FactorFile* file, const FactorSource& source, const MatrixInfo& info) {
  at::Tensor a = file->Read(source.a), b = file->Read(source.b);
  const std::string& from_a = source.transposed ? source.b : source.a;
  const std::string& from_b = source.transposed ? source.a : source.b;
  if (source.transposed) {
    const at::Tensor stored = a;
    a = b.t().contiguous();
    b = stored.t().contiguous();
  }
  const std::string in = std::to_string(info.in), out = std::to_string(source.first_row + info.out);
  if (a.size(1) != info.in || a.size(0) < 1) {
    const std::string least = a.size(0) < 1 ? " with a rank of at least 1" : "";
    file->Wrong(from_a, (source.transposed ? "[" + in + ", rank]" : "[rank, " + in + "]") + least);
  }
  if (b.size(0) < source.first_row + info.out || b.size(1) != a.size(0)) {
    const std::string rank = std::to_string(a.size(0));
    file->Wrong(from_b, source.transposed ? "[" + rank + ", " + out + "]" : "[" + out + ", " + rank + "]");
  }
  file->Take(from_b, info.out, source.transposed);
  b = b.narrow(0, source.first_row, info.out).contiguous();
  if (source.permuted_heads > 0) b = Unpermuted(b, source.permuted_heads);
  return DeltaPart::LowRank(source.matrix, a, b, source.scale);
}

// Parts of one map of a file, in the order of its rows, with the names they share.
struct Group {
  std::string module;
  std::vector<const DeltaPart*> parts;  // null where the delta has none
  std::vector<int64_t> rows;            // of each
};

bool Same(const Group& group) {
  const DeltaPart* first = group.parts[0];
  return std::all_of(group.parts.begin(), group.parts.end(), [&](const DeltaPart* part) {
    return part != nullptr && first != nullptr && part->scale == first->scale && at::equal(part->a, first->a);
  });
}

ModuleFactors Fuse(const Group& group) {
  ModuleFactors fused;
  fused.module = group.module;
  std::vector<at::Tensor> a, b;
  const DeltaPart* leader = nullptr;
  int64_t rank = 0;
  for (const DeltaPart* part : group.parts) {
    if (part == nullptr) continue;
    // A part of scale 0 has no say in the scale of all.
    if (leader == nullptr || leader->scale == 0) leader = part;
    a.push_back(part->a);
    rank += part->rank();
  }
  fused.scale = leader->scale;
  if (Same(group)) {
    for (const DeltaPart* part : group.parts) b.push_back(part->b);
    fused.a = leader->a;
    fused.b = at::cat(b, 0);
    return fused;
  }
  int64_t column = 0;
  for (size_t i = 0; i < group.parts.size(); ++i) {
    at::Tensor rows = at::zeros({group.rows[i], rank}, leader->b.options());
    if (const DeltaPart* part = group.parts[i]) {
      const double factor = fused.scale == 0 ? 1 : part->scale / fused.scale;
      rows.narrow(1, column, part->rank()).copy_(factor == 1 ? part->b : part->b * factor);
      column += part->rank();
    }
    b.push_back(rows);
  }
  fused.a = at::cat(a, 0);
  fused.b = at::cat(b, 0);
  return fused;
}

// The map of a fused file in which a weight lies; of its own otherwise.
Group GroupOf(const Model& model, const MatrixInfo& info, bool fused) {
  const auto of = [&](std::initializer_list<Module> modules, const char* name) {
    Group group{info.name.substr(0, info.name.rfind('.') + 1) + name, {}, {}};
    for (const Module module : modules) {
      group.parts.push_back(nullptr);
      group.rows.push_back(model.tensors()[MatrixId(info.layer, module)].out);
    }
    return group;
  };
  const Module module = info.module;
  if (fused && module <= Module::kV) return of({Module::kQ, Module::kK, Module::kV}, "qkv_proj");
  if (fused && (module == Module::kGate || module == Module::kUp))
    return of({Module::kGate, Module::kUp}, "gate_up_proj");
  return {info.name, {nullptr}, {info.out}};
}

size_t PlaceInGroup(const Group& group, Module module) {
  if (group.parts.size() == 1) return 0;
  return static_cast<size_t>(module) -
         static_cast<size_t>(group.parts.size() == 3 ? Module::kQ : Module::kGate);
}

}  // namespace

DeltaPtr LoadFactors(const Model& model, const std::string& path, const std::vector<FactorSource>& sources,
                     const std::vector<BaseCopy>& copies) {
  FactorFile file(model, path);
  for (const BaseCopy& copy : copies) {
    const at::Tensor own = model.Weight(copy.weight);
    if (at::equal(file.Read(copy.tensor).to(own.scalar_type()), own)) continue;
    throw Error("TENSOR_UNEXPECTED", path + ": " + QuoteForMessage(copy.tensor) +
                                         " is not the model's own \"" + model.tensors().at(copy.weight).name +
                                         "\"; weights trained outside of LoRA are not supported");
  }
  auto delta = std::make_shared<Delta>();
  for (const FactorSource& source : sources) {
    delta->parts.push_back(ReadPart(&file, source, model.tensors().at(source.matrix)));
  }
  file.RefuseTheRest();
  std::sort(delta->parts.begin(), delta->parts.end(),
            [](const DeltaPart& x, const DeltaPart& y) { return x.matrix < y.matrix; });
  CheckRead(*delta, model, path);
  return delta;
}

std::vector<ModuleFactors> FactorsByModule(const Delta& delta, const Model& model, bool fused) {
  std::vector<Group> groups;
  for (const DeltaPart& part : delta.parts) {
    const MatrixInfo& info = model.tensors().at(part.matrix);
    if (part.kind != DeltaKind::kLowRank) {
      throw Error("DELTA_INVALID", "\"" + info.name + "\" has a " + DeltaKindName(part.kind) +
                                       " part; expected low-rank ones only");
    }
    Group group = GroupOf(model, info, fused);
    // Parts come by ascending weight, so a group's parts follow each other.
    if (groups.empty() || groups.back().module != group.module) groups.push_back(std::move(group));
    groups.back().parts[PlaceInGroup(groups.back(), info.module)] = &part;
  }
  std::vector<ModuleFactors> modules;
  for (const Group& group : groups) {
    if (group.parts.size() > 1) {
      modules.push_back(Fuse(group));
      continue;
    }
    const DeltaPart& part = *group.parts[0];
    const bool embedding = model.tensors()[part.matrix].module == Module::kEmbedding;
    modules.push_back({group.module, part.a, part.b, part.scale, embedding});
  }
  return modules;
}

void WritePeft(const std::vector<ModuleFactors>& modules, const std::string& path) {
  std::vector<at::Tensor> kept;
  std::vector<TensorToWrite> tensors;
  for (const ModuleFactors& module : modules) {
    const std::string prefix = "base_model.model." + module.module;
    const auto add = [&](const std::string& name, const at::Tensor& tensor) {
      kept.push_back(tensor.contiguous());
      const DType dtype = tensor.scalar_type() == at::kDouble ? DType::kF64 : DType::kF32;
      tensors.push_back({prefix + name, dtype, tensor.sizes().vec(), kept.back().const_data_ptr()});
    };
    add(module.embedding ? ".lora_embedding_A" : ".lora_A.weight",
        module.embedding ? module.b.t() : module.a);
    add(module.embedding ? ".lora_embedding_B" : ".lora_B.weight",
        module.embedding ? module.a.t() : module.b);
  }
  WriteSafetensors(path, tensors, {{"format", "pt"}});
}

void WriteGgufLora(const std::vector<ModuleFactors>& modules, const std::vector<GgufMap>& maps,
                   const std::string& architecture, const std::string& path) {
  const auto rank_of = [](const ModuleFactors& module) { return static_cast<double>(module.a.size(0)); };
  // llama.cpp takes an alpha of 0 for a scale of 1.
  float alpha = static_cast<float>(rank_of(modules.at(0)));
  for (auto module = modules.rbegin(); module != modules.rend(); ++module) {
    if (module->scale != 0) alpha = static_cast<float>(module->scale * rank_of(*module));
  }
  std::vector<at::Tensor> kept;
  std::vector<TensorToWrite> tensors;
  for (const ModuleFactors& module : modules) {
    const auto map = std::find_if(maps.begin(), maps.end(),
                                  [&](const GgufMap& known) { return known.module == module.module; });
    if (map == maps.end())
      throw Error("DELTA_INVALID", "\"" + module.module + "\" has no name in GGUF adapters");
    const double scale = static_cast<double>(alpha) / rank_of(module);
    const bool same =
        static_cast<float>(module.scale) == static_cast<float>(scale);  // what llama.cpp computes
    at::Tensor b = same ? module.b : module.b * (module.scale / scale);
    if (map->permuted_heads > 0) b = Permuted(b, map->permuted_heads);
    const auto add = [&](const char* suffix, const at::Tensor& tensor) {
      kept.push_back(tensor.to(at::kFloat).contiguous());
      tensors.push_back(
          {map->tensor + suffix, DType::kF32, tensor.sizes().vec(), kept.back().const_data_ptr()});
    };
    add(".lora_a", module.a);
    add(".lora_b", b);
  }
  WriteGguf(path,
            {{"general.architecture", architecture},
             {"general.type", std::string("adapter")},
             {"adapter.type", std::string("lora")},
             {"adapter.lora.alpha", alpha}},
            tensors);
}

}  // namespace selfedit
