// Compiled with the baseline flags of the platform.
#define SELFEDIT_ISA portable
#include "isa/kernels.inc"
