// Weight edits: what the entries of a vector mean for a subset of the weights. A vector has one block for
// each target matrix; a block's space says which change of its matrix the entries stand for.
#pragma once
#include <string>
#include <vector>

#include "core/gradient.h"

namespace selfedit {

enum class SpaceKind { kSpectral, kLowRank, kSparse, kGradient, kModulated };
const char* SpaceKindName(SpaceKind kind);  // "spectral" …

// The change Delta W of one matrix W [out, in] from n entries z. D is the matrix's part of the *material*: a
// delta that one context gives.
//   spectral   U diag(sigma z) V^T, D holds the leading n factors               (SVF, arXiv 2501.06252)
//   lowRank    unit B diag(z) A, A [n, in] and B [n, out]^T of the basis
//   sparse     entry j moves the j-th largest |value| of D by unit z_j along that value's sign; D holds minus
//              the loss gradient on its support, so that entry j means the same in every context
//   gradient   e^{z_0} (I + P' Z' Q'^T) D (I + Q Z P^T), Z = diag(z_1 … z_k), Z' = diag(z_{k+1} … z_2k), D
//   one
//              gradient step: its factors sum_t delta_t x_t^T, each side under a low-rank residual transform
//              (after MEND, arXiv 2110.11309); n = 1 + 2 k. D stays dense, hence exact, shared by all edits
//   modulated  (1 + z) D, D of any kind; n = 1
// `unit` makes entries relative: the size of a typical singular value of W (lowRank), of a typical entry
// (sparse), else 1. At z = 0: no change, but D for gradient and modulated.
struct SpaceChoice {
  int64_t matrix = 0;
  SpaceKind kind = SpaceKind::kModulated;
  int64_t size = 1;
};
struct SpaceBlock : SpaceChoice {
  int64_t offset = 0;  // first entry of the vector
  int64_t basis = 0;   // first value of the basis
  double unit = 1;
  int64_t end() const { return offset + size; }
};

class EditSpace {
 public:
  // Choices by ascending matrix id, one a matrix. Throws TARGET_UNKNOWN, OPTION_INVALID.
  EditSpace(const Model& model, const std::vector<SpaceChoice>& choices);
  const std::vector<SpaceBlock>& blocks() const { return blocks_; }
  int64_t size() const { return size_; }
  int64_t basis_size() const { return basis_size_; }
  bool Has(SpaceKind kind) const;
  // Orthonormal rows, keyed by matrix: lowRank A, B; gradient Q, P (over the input), Q', P' (over the
  // output).
  at::Tensor FirstBasis(const Model& model, uint64_t key) const;

  // Throws INPUT_INVALID for a vector that does not fit, DELTA_SHAPE for material that does not.
  DeltaPtr Compose(const Model& model, const Delta& material, const double* vector,
                   const at::Tensor& basis) const;
  // `gradient`: dLoss/dvalues of what Compose gave (see core/gradient.h). Adds dLoss/dvector to dvector and,
  // when defined, dLoss/dbasis to dbasis.
  void PullBack(const Model& model, const Delta& material, const double* vector, const at::Tensor& basis,
                const Delta& gradient, double* dvector, const at::Tensor& dbasis) const;

 private:
  std::vector<SpaceBlock> blocks_;
  int64_t size_ = 0, basis_size_ = 0;
};

struct MaterialSpec {
  double rate = 0;  // of the gradient step
  Selection selection = Selection::kGradient;
  std::string folder;  // of singular factors; empty: none
};
// What a context's documents give to the spectral, sparse and gradient blocks, on top of `stack`, and those
// parts of `adapted` (the inner loop's delta for the context; may be null) that are modulated.
DeltaPtr ContextMaterial(const Model& model, const EditSpace& space, const DeltaStack& stack,
                         const Ragged& documents, const DeltaPtr& adapted, const MaterialSpec& spec,
                         const JobControl& control);

}  // namespace selfedit
