/* The inner loops for AVX2, FMA and F16C; chosen at run time by backend.c. */
#include <math.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/lanes-avx2.h"

#define ISA_TABLE isa_avx2
#define ISA_NAME "avx2"
#define ISA_TITLE "AVX2"

#include "kernels/cpu/rows.inc"
#include "kernels/cpu/dot.inc"
#include "kernels/cpu/attend.inc"
#include "kernels/cpu/attend8.inc"
#include "kernels/cpu/top.inc"
#include "kernels/cpu/table.inc"
