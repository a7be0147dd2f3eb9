// The product once for every instruction set (gemm_<set>.cc); gemm.cc takes the one in use (dispatch.h).
#pragma once
#include "gemm.h"

namespace selfedit::cpu {

struct GemmSet {
  decltype(&Gemm<float>) f32;
  decltype(&Gemm<double>) f64;
};

namespace portable {
extern const GemmSet kGemm;
}
#if defined(__x86_64__)
namespace avx2 {
extern const GemmSet kGemm;
}
namespace avx512 {
extern const GemmSet kGemm;
}
#endif

}  // namespace selfedit::cpu
