/* The inner loops for AVX-512 F, BW, VL and VNNI; chosen at run time by backend.c. */
#include <math.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/lanes-avx512.h"

#define ISA_TABLE isa_avx512
#define ISA_NAME "avx512"
#define ISA_TITLE "AVX-512 VNNI"
#define ISA_PANELS

#include "kernels/cpu/rows.inc"
#include "kernels/cpu/dot.inc"
#include "kernels/cpu/panel.inc"
#include "kernels/cpu/attend.inc"
#include "kernels/cpu/attend8.inc"
#include "kernels/cpu/top.inc"
#include "kernels/cpu/table.inc"
