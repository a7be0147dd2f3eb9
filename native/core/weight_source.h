// The tensors of a model's files by their Hugging Face names; remembers which have been taken.
#pragma once
#include <ATen/ATen.h>

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/model.h"
#include "core/stored.h"

namespace selfedit {

class WeightSource {
 public:
  // Opens all files. Both must outlive this.
  WeightSource(const LoadSpec& spec, const JobControl& control);

  // Takes a matrix apart into blocks of rows, each of which then is a tensor of its own. One that is missing
  // is reported with all others.
  void Split(const std::string& name, int64_t in,
             const std::vector<std::pair<std::string, int64_t>>& name_and_rows);
  // The tensor in the stored type (weights) or the activation type (norms and biases), the rows of
  // `permuted_heads` heads (0: none) put in order. One that is missing is reported by Finish with all others.
  at::Tensor Take(const std::string& name, const std::vector<int64_t>& shape, at::ScalarType type,
                  int64_t permuted_heads);
  void Ignore(const std::string& name) { used_.insert(name); }
  // Whether bfloat16 holds every value of the tensor, as far as float32 does.
  bool FitsBFloat16(const std::string& name, const std::vector<int64_t>& shape) const;
  // A head that only repeats the tied embedding may be there; one that differs is of another model.
  void CheckTied(const std::string& head, const std::string& embedding);
  // Throws when tensors were missing or are left over, or hold what is not finite.
  void Finish();

 private:
  static void CheckShape(const StoredTensor& source, const std::vector<int64_t>& shape);
  void Report(int64_t bytes);
  // The tensor where it lies, kept mapped by what is returned: nothing ever writes to a weight. Nothing when
  // its type or order is another. Its values are not looked at before Finish.
  std::optional<at::Tensor> Mapped(const StoredTensor& source, const std::vector<int64_t>& shape,
                                   at::ScalarType type, int64_t permuted_heads);
  // The tensor in memory of its own, converted, put in its order and checked.
  at::Tensor Read(const StoredTensor& source, const std::vector<int64_t>& shape, at::ScalarType type,
                  int64_t permuted_heads);

  const LoadSpec& spec_;
  const JobControl& control_;
  std::map<std::string, StoredTensor> sources_;
  std::set<std::string> used_, split_;
  std::deque<TensorInfo> parts_;  // of what was taken apart
  std::vector<std::string> missing_;
  std::vector<StoredTensor> unexpected_;
  std::vector<StoredTensor> mapped_;
  double done_ = 0, total_ = 0;
};

}  // namespace selfedit
