#!/usr/bin/env bash
# The modules export one symbol and need nothing that a machine without CUDA lacks, but for
# cuBLAS; the daemon and the client need nothing of CUDA.
set -u
fail=0
say() { echo "FAILED $1"; fail=1; }
needed() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }

SYSTEM='lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so\..*|ld-linux.*'
module() { # FILE WHAT ELSE IT MAY NEED
	local symbols others
	[ -f "$1" ] || return 0
	symbols=$(nm -D --defined-only "$1" | awk '{print $3}')
	[ "$symbols" = sinkd_backend ] || say "$1 exports: $symbols"
	others=$(needed "$1" | grep -Exv "$SYSTEM|$2")
	[ -z "$others" ] || say "$1 needs: $others"
	echo "$1: $(stat -c %s "$1") bytes; needs $(needed "$1" | tr '\n' ' ')"
}

cd "$BUILDDIR" || exit 1
module sinkd-cuda.so 'libcublas(Lt)?\.so\..*'
module sinkd-cusim.so 'lib(asan|ubsan|tsan)\.so\..*'
[ -f sinkd-cusim.so ] || say "there is no sinkd-cusim.so"
for program in sinkd sink; do
	[ -n "$(needed $program)" ] || say "$program: not built, or readelf does not read it"
	needed $program | grep -i 'cuda\|cublas\|nv' && say "$program needs CUDA"
done
exit $fail
