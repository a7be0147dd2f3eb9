#include "core/algebra.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/host_delta.h"
#include "core/parts.h"

namespace selfedit {
namespace {

struct Term {
  const DeltaPart* part;
  double factor;  // of D: the part's scale and the delta's
};
using Terms = std::vector<Term>;

// What the sum keeps as its own scale, so that equal factors need no rounding: the first that is not 0.
double CommonFactor(const Terms& terms) {
  for (const Term& term : terms) {
    if (term.factor != 0) return term.factor;
  }
  return 0;
}

// Factor of a term beside the common one.
double Share(const Term& term, double common) { return common == 0 ? 0 : term.factor / common; }

DeltaPart Alone(const Term& term) {
  DeltaPart part = *term.part;
  part.scale = term.factor;
  return part;
}

// sum_t share_t values_t, rounded once.
at::Tensor SumOfValues(const Terms& terms, double common) {
  at::Tensor sum = at::zeros(terms.front().part->values.sizes(), at::kDouble);
  for (const Term& term : terms) sum.add_(term.part->values.to(at::kDouble), Share(term, common));
  return sum.to(terms.front().part->values.scalar_type());
}

// sum_t f_t B_t A_t = f [B_0 f_0 / f, B_1 f_1 / f, …] [A_0; A_1; …]
DeltaPart ConcatLowRank(const Terms& terms) {
  if (terms.size() == 1) return Alone(terms.front());
  const double common = CommonFactor(terms);
  std::vector<at::Tensor> a, b;
  for (const Term& term : terms) {
    const double share = Share(term, common);
    a.push_back(term.part->a);
    b.push_back(share == 1 ? term.part->b
                           : (term.part->b.to(at::kDouble) * share).to(term.part->b.scalar_type()));
  }
  return DeltaPart::LowRank(terms.front().part->matrix, at::cat(a, 0), at::cat(b, 1).contiguous(), common);
}

// The union of the patterns, row by row.
DeltaPart UniteSparse(const Terms& terms, int64_t out) {
  if (terms.size() == 1) return Alone(terms.front());
  const double common = CommonFactor(terms);
  std::vector<at::Tensor> wide;
  for (const Term& term : terms) wide.push_back(term.part->values.to(at::kDouble));
  std::vector<int32_t> offsets{0}, columns;
  std::vector<double> values;
  std::map<int32_t, double> row;
  for (int64_t i = 0; i < out; ++i) {
    row.clear();
    for (size_t t = 0; t < terms.size(); ++t) {
      const int32_t* starts = terms[t].part->row_offsets.const_data_ptr<int32_t>();
      const double share = Share(terms[t], common);
      for (int32_t k = starts[i]; k < starts[i + 1]; ++k) {
        row[terms[t].part->columns.const_data_ptr<int32_t>()[k]] +=
            share * wide[t].const_data_ptr<double>()[k];
      }
    }
    for (const auto& [column, value] : row) {
      columns.push_back(column);
      values.push_back(value);
    }
    if (columns.size() > static_cast<size_t>(INT32_MAX))
      throw Error("DELTA_INVALID", "the sum has more than 2^31 - 1 sparse values in one matrix");
    offsets.push_back(static_cast<int32_t>(columns.size()));
  }
  return DeltaPart::Sparse(terms.front().part->matrix, at::tensor(offsets, at::kInt),
                           at::tensor(columns, at::kInt),
                           at::tensor(values, at::kDouble)
                               .to(wide.empty() ? at::kDouble : terms.front().part->values.scalar_type()),
                           common);
}

DeltaPart SumDense(const Terms& terms) {
  if (terms.size() == 1) return Alone(terms.front());
  const double common = CommonFactor(terms);
  return DeltaPart::Dense(terms.front().part->matrix, SumOfValues(terms, common), common);
}

bool SameFactors(const DeltaPart& p, const DeltaPart& q) {
  const auto same = [](const at::Tensor& s, const at::Tensor& t) {
    return s.is_same(t) || (s.sizes() == t.sizes() && at::equal(s, t));
  };
  return same(p.a, q.a) && same(p.b, q.b) && same(p.sigma, q.sigma);
}

// Those of the same factors as the first are summed; others become low-rank ones, since a matrix has one of
// each kind: U diag(sigma values) V^T = (U diag(sigma values)) V^T.
DeltaPart SumSpectral(const Terms& terms, std::vector<DeltaPart>* as_low_rank) {
  Terms same;
  for (const Term& term : terms) {
    if (SameFactors(*term.part, *terms.front().part)) {
      same.push_back(term);
      continue;
    }
    const DeltaPart wide = Widened(*term.part);
    as_low_rank->push_back(DeltaPart::LowRank(
        term.part->matrix, term.part->a, (wide.b * (wide.sigma * wide.values)).to(term.part->b.scalar_type()),
        term.factor));
  }
  if (same.size() == 1) return Alone(same.front());
  DeltaPart part = *same.front().part;
  part.scale = CommonFactor(same);
  part.values = SumOfValues(same, part.scale);
  return part;
}

}  // namespace

DeltaPart Widened(const DeltaPart& part) {
  DeltaPart wide = part;
  for (at::Tensor* t : {&wide.a, &wide.b, &wide.sigma, &wide.values}) {
    if (t->defined()) *t = t->to(at::kDouble);
  }
  return wide;
}

DeltaPtr Finished(const Model& model, std::vector<DeltaPart> parts) {
  std::stable_sort(parts.begin(), parts.end(), [](const DeltaPart& a, const DeltaPart& b) {
    return a.matrix != b.matrix ? a.matrix < b.matrix : a.kind < b.kind;
  });
  auto delta = std::make_shared<Delta>();
  delta->parts = std::move(parts);
  delta->Check(model);
  return delta;
}

std::vector<std::vector<DeltaPart>> ByMatrix(const Delta& delta) {
  std::vector<std::vector<DeltaPart>> groups;
  for (const DeltaPart& part : delta.parts) {
    if (groups.empty() || groups.back().front().matrix != part.matrix) groups.emplace_back();
    groups.back().push_back(part);
  }
  return groups;
}

DeltaPtr AddDeltas(const Model& model, const DeltaStack& given) {
  const DeltaStack terms = HostStack(given);
  std::map<std::pair<int64_t, DeltaKind>, Terms> groups;
  for (const AppliedDelta& applied : terms) {
    for (const DeltaPart& part : applied.delta->parts) {
      groups[{part.matrix, part.kind}].push_back({&part, part.scale * applied.scale});
    }
  }
  std::vector<DeltaPart> parts, turned;
  for (const auto& [key, group] : groups) {
    if (key.second == DeltaKind::kSpectral) parts.push_back(SumSpectral(group, &turned));
  }
  for (const DeltaPart& part : turned)
    groups[{part.matrix, DeltaKind::kLowRank}].push_back({&part, part.scale});
  for (const auto& [key, group] : groups) {
    switch (key.second) {
      case DeltaKind::kLowRank:
        parts.push_back(ConcatLowRank(group));
        break;
      case DeltaKind::kSparse:
        parts.push_back(UniteSparse(group, model.tensors().at(key.first).out));
        break;
      case DeltaKind::kDense:
        parts.push_back(SumDense(group));
        break;
      default:
        break;
    }
  }
  return Finished(model, std::move(parts));
}

DeltaPtr DeltaDifference(const Fork& to, const Fork& from) {
  if (to.model != from.model)
    throw Error("INPUT_INVALID", "the two forks belong to different models; expected forks of one model");
  size_t common = 0;
  while (common < to.stack.size() && common < from.stack.size() && to.stack[common] == from.stack[common])
    ++common;
  DeltaStack terms(to.stack.begin() + static_cast<std::ptrdiff_t>(common), to.stack.end());
  for (size_t i = common; i < from.stack.size(); ++i)
    terms.push_back({from.stack[i].delta, -from.stack[i].scale});
  return AddDeltas(*to.model, terms);
}

}  // namespace selfedit
