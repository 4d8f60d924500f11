# SINKD_CUDA: --with-cuda, --with-cuda-arch.  Two things come of it, each an automake conditional:
#
#   CUSIM  the simulation of make check: wants CUDA's headers and a C++20 compiler, no nvcc
#   CUDA   the module that is installed: wants nvcc, cudart to link statically, and cuBLAS
#
# With auto, what is missing is said in the summary ($cuda_says); with yes or a path it is an error.

# _SINKD_CUDA_FIND: nvcc, the folders of headers and libraries
AC_DEFUN([_SINKD_CUDA_FIND], [
  AS_CASE([$with_cuda],
    [/*], [AS_IF([test -x "$with_cuda/bin/nvcc"], [NVCC=$with_cuda/bin/nvcc], [NVCC=])
           CUDA_INCLUDE=$with_cuda/include],
    [AC_PATH_PROG([NVCC], [nvcc], [], [$PATH$PATH_SEPARATOR/usr/local/cuda/bin])])
  AS_IF([test -n "$NVCC"], [
    CUDA_INCLUDE=`"$NVCC" --dryrun -c -x cu /dev/null -o /dev/null 2>&1 | $SED -n 's/.*INCLUDES="-I\([[^" ]]*\).*/\1/p'`
    CUDA_INCLUDE=`cd "$CUDA_INCLUDE" 2>/dev/null && pwd`
    NVCC_RELEASE=`"$NVCC" --version | $SED -n 's/.*, V\([[0-9.]]*\)$/\1/p'`])
  for CUDA_LIB in "$CUDA_INCLUDE/../lib64" "$CUDA_INCLUDE/../lib" ''; do
    test -f "$CUDA_LIB/libcudart_static.a" && break
  done
  AS_IF([test -f "$CUDA_INCLUDE/cuda_runtime.h"], [], [cuda_lacks='no toolkit found'])
])

# _SINKD_CUDA_HEADERS: does the host's compiler take them?
AC_DEFUN([_SINKD_CUDA_HEADERS], [
  AC_LANG_PUSH([C++])
  sinkd_save_CXXFLAGS=$CXXFLAGS
  CXXFLAGS="-std=gnu++20 -isystem $CUDA_INCLUDE"
  AC_MSG_CHECKING([whether $CXX compiles the CUDA headers of $CUDA_INCLUDE])
  AC_COMPILE_IFELSE([AC_LANG_SOURCE([[#include <cuda_runtime.h>
#include <cuda_fp16.h>
#include <cublas_v2.h>
]])], [cusim=yes], [cuda_lacks="$CXX does not compile CUDA's headers as C++20 (see config.log)"])
  AC_MSG_RESULT([$cusim])
  CXXFLAGS=$sinkd_save_CXXFLAGS
  AC_LANG_POP([C++])
])

# _SINKD_CUDA_ARCH: the list against what nvcc knows; machine code for each, PTX of the lowest
AC_DEFUN([_SINKD_CUDA_ARCH], [
  sinkd_known=" `"$NVCC" --list-gpu-arch | $SED 's/compute_//' | tr '\n' ' '`"
  sinkd_low=
  for sinkd_arch in `AS_ECHO(["${cuda_archs:-75 80 86 89 90 100 120}"]) | tr ',' ' '`; do
    AS_CASE([$sinkd_known], [*" $sinkd_arch "*], [], [
      AS_IF([test -z "$cuda_archs"], [continue])
      AC_MSG_ERROR([--with-cuda-arch: $sinkd_arch is not one of$sinkd_known])])
    CUDA_GENCODE="$CUDA_GENCODE -gencode arch=compute_$sinkd_arch,code=sm_$sinkd_arch"
    CUDA_ARCHS="$CUDA_ARCHS $sinkd_arch"
    AS_IF([test -z "$sinkd_low" || test "$sinkd_arch" -lt "$sinkd_low"], [sinkd_low=$sinkd_arch])
  done
  CUDA_GENCODE="$CUDA_GENCODE -gencode arch=compute_$sinkd_low,code=compute_$sinkd_low"
  AS_IF(["$NVCC" --help | grep -q compress-mode], [CUDA_GENCODE="$CUDA_GENCODE --compress-mode=size"])
])

# _SINKD_CUDA_MODULE: nvcc takes this host compiler, and what is linked is there
AC_DEFUN([_SINKD_CUDA_MODULE], [
  AC_MSG_CHECKING([whether $NVCC compiles for$CUDA_ARCHS])
  AS_ECHO(['__global__ void k(float *x) { *x = 1; }']) >conftest.cu
  AS_IF(["$NVCC" -std=c++20 $NVCCFLAGS $CUDA_GENCODE -c conftest.cu -o conftest.nv.o >&AS_MESSAGE_LOG_FD 2>&1],
    [cuda=yes], [cuda_lacks="$NVCC does not compile (see config.log)"])
  rm -f conftest.cu conftest.nv.o
  AC_MSG_RESULT([$cuda])
  CUBLAS=`ls "$CUDA_LIB"/libcublas.so "$CUDA_LIB"/libcublas.so.* 2>/dev/null | head -n 1`
  AS_IF([test -z "$CUDA_LIB"], [cuda=no; cuda_lacks='no libcudart_static.a'],
    [test -z "$CUBLAS"], [cuda=no; cuda_lacks='no libcublas'])
])

AC_DEFUN([SINKD_CUDA], [
  AC_ARG_WITH([cuda], [AS_HELP_STRING([--with-cuda=auto|yes|no|PATH], [the CUDA backend, of the toolkit at PATH (auto)])],
    [], [with_cuda=auto])
  AC_ARG_WITH([cuda-arch], [AS_HELP_STRING([--with-cuda-arch=LIST|none],
    [machine code for "75 80 86 89 90 100 120" as far as nvcc knows them; none: the simulation of make check only])],
    [cuda_archs=$withval], [cuda_archs=])
  AC_ARG_VAR([NVCC], [CUDA compiler])
  AC_ARG_VAR([NVCCFLAGS], [CUDA compiler flags])
  AS_IF([test "${NVCCFLAGS+set}" != set], [NVCCFLAGS=-O3])
  cusim=no cuda=no cuda_says=no cuda_lacks= CUDA_ARCHS=
  AS_IF([test "$with_cuda" != no], [
    _SINKD_CUDA_FIND
    AS_IF([test -z "$cuda_lacks"], [_SINKD_CUDA_HEADERS])
    AS_IF([test "$cusim" = no || test "$cuda_archs" = none], [],
      [test -z "$NVCC"], [cuda_lacks='no nvcc'],
      [_SINKD_CUDA_ARCH
       _SINKD_CUDA_MODULE])
    AS_IF([test -n "$cuda_lacks" && test "$with_cuda" != auto], [AC_MSG_ERROR([--with-cuda=$with_cuda: $cuda_lacks])])
    cuda_says="`test $cuda = yes && AS_ECHO(["module for$CUDA_ARCHS, "])``test $cusim = yes && echo 'simulation in make check' || echo no`"
    AS_IF([test -n "$cuda_lacks"], [cuda_says="$cuda_says ($cuda_lacks)"])
  ])
  AC_SUBST([CUDA_INCLUDE])
  AC_SUBST([CUDA_LIB])
  AC_SUBST([CUBLAS])
  AC_SUBST([CUDA_GENCODE])
  AC_SUBST([NVCC_RELEASE])
  AM_CONDITIONAL([CUDA], [test "$cuda" = yes])
  AM_CONDITIONAL([CUSIM], [test "$cusim" = yes])
])
