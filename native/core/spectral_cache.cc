#include "core/spectral_cache.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>

#include "core/model.h"
#include "core/random.h"
#include "format/safetensors_writer.h"
#include "format/sha256.h"
#include "format/tensor_file.h"

namespace selfedit {
namespace {

constexpr char kFormat[] = "selfedit-spectral-1";  // to be raised when RandomisedSvd gives other bits

std::string FingerprintOf(const at::Tensor& weight) {
  Sha256 hash;
  std::string head = std::string(kFormat) + "," + c10::toString(weight.scalar_type());
  for (const int64_t size : weight.sizes()) (head += ',') += std::to_string(size);
  head += ';';
  hash.Update(head.data(), head.size());
  const at::Tensor plain = weight.contiguous();
  hash.Update(plain.const_data_ptr(), plain.nbytes());
  return hash.HexDigest();
}

std::string DigestOf(const SpectralFactors& f) {
  Sha256 hash;
  for (const at::Tensor* t : {&f.u, &f.sigma, &f.v}) hash.Update(t->const_data_ptr(), t->nbytes());
  return hash.HexDigest();
}

// Nothing when the file is not there, damaged, or not of this weight.
std::optional<SpectralFactors> Read(const std::string& path, const std::string& fingerprint,
                                    const at::Tensor& weight, int64_t rank, at::ScalarType type) {
  try {
    const auto file = TensorFile::Open(path, Format::kSafetensors);
    if (file->MetadataString("format") != kFormat || file->MetadataString("weight") != fingerprint) return {};
    SpectralFactors f{at::empty({weight.size(0), rank}, type), at::empty({rank}, type),
                      at::empty({rank, weight.size(1)}, type)};
    const std::pair<const char*, at::Tensor*> fields[] = {{"u", &f.u}, {"sigma", &f.sigma}, {"v", &f.v}};
    for (const auto& [name, tensor] : fields) {
      const TensorInfo* info = file->Find(name);
      if (info == nullptr || info->dtype != (type == at::kDouble ? DType::kF64 : DType::kF32) ||
          tensor->sizes() != at::IntArrayRef(info->shape)) {
        return {};
      }
      std::memcpy(tensor->mutable_data_ptr(), file->Data(*info), info->bytes);
    }
    if (file->MetadataString("factors") != DigestOf(f)) return {};
    return f;
  } catch (const Error&) {
    return {};
  }
}

void Write(const std::string& path, const std::string& fingerprint, const SpectralFactors& f) {
  const DType dtype = f.u.scalar_type() == at::kDouble ? DType::kF64 : DType::kF32;
  WriteSafetensors(path,
                   {{"u", dtype, f.u.sizes().vec(), f.u.const_data_ptr()},
                    {"sigma", dtype, f.sigma.sizes().vec(), f.sigma.const_data_ptr()},
                    {"v", dtype, f.v.sizes().vec(), f.v.const_data_ptr()}},
                   {{"format", kFormat}, {"weight", fingerprint}, {"factors", DigestOf(f)}});
}

}  // namespace

SpectralFactors LoadOrMakeFactors(const Model& model, int64_t matrix, int64_t rank,
                                  const std::string& folder) {
  const at::Tensor weight = model.Weight(matrix);
  const at::ScalarType type = model.activation();
  const auto make = [&] {
    SpectralFactors f = RandomisedSvd(weight, rank, DeriveKey(0, "spectral factors", {}));
    return SpectralFactors{f.u.to(type).contiguous(), f.sigma.to(type).contiguous(),
                           f.v.to(type).contiguous()};
  };
  if (folder.empty() || rank < 1 || rank > std::min(weight.size(0), weight.size(1))) return make();
  const std::string fingerprint = FingerprintOf(weight);
  const std::string path =
      (std::filesystem::path(folder) /
       (fingerprint + "-" + std::to_string(rank) + (type == at::kDouble ? "-f64" : "-f32") + ".safetensors"))
          .string();
  if (auto held = Read(path, fingerprint, weight, rank, type)) return *held;
  const SpectralFactors made = make();
  try {
    std::filesystem::create_directories(folder);
    Write(path, fingerprint, made);
  } catch (const Error&) {
  } catch (const std::filesystem::filesystem_error&) {
  }
  return made;
}

}  // namespace selfedit
