/* The inner loops for plain C, for any machine; chosen at run time by backend.c. */
#include <math.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/lanes-scalar.h"

#define ISA_TABLE isa_scalar
#define ISA_NAME "scalar"
#define ISA_TITLE "plain C"

#include "kernels/cpu/rows.inc"
#include "kernels/cpu/dot.inc"
#include "kernels/cpu/attend.inc"
#include "kernels/cpu/attend8.inc"
#include "kernels/cpu/top.inc"
#include "kernels/cpu/table.inc"
