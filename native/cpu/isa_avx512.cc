// Compiled with the flags of avx512 (CMakeLists.txt); run only where dispatch.cc finds it supported.
#if defined(__x86_64__)
#define SELFEDIT_ISA avx512
#include "isa/kernels.inc"
#endif
