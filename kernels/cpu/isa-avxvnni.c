/* The inner loops for AVX2, FMA, F16C and AVX-VNNI; chosen at run time by backend.c. */
#include <math.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/lanes-avxvnni.h"

#define ISA_TABLE isa_avxvnni
#define ISA_NAME "avxvnni"
#define ISA_TITLE "AVX-VNNI"

#include "kernels/cpu/rows.inc"
#include "kernels/cpu/dot.inc"
#include "kernels/cpu/attend.inc"
#include "kernels/cpu/attend8.inc"
#include "kernels/cpu/top.inc"
#include "kernels/cpu/table.inc"
