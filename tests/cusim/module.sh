#!/usr/bin/env bash
# The real module: one exported symbol, no CUDA library needed to load it, and the daemon
# links nothing of CUDA.
set -u
fail=0
say() { echo "FAILED $1"; fail=1; }

symbols=$(nm -D --defined-only sinkd-cuda.so | awk '{print $3}')
[ "$symbols" = sinkd_backend ] || say "exported: $symbols"
needed=$(readelf -d sinkd-cuda.so | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
grep -qi 'cuda\|cublas\|nvidia' <<<"$needed" && say "the module needs: $needed"
if [ -x sinkd ]; then
	readelf -d sinkd | grep -qi 'cuda\|cublas\|nvidia' && say "the daemon needs CUDA"
fi
exit $fail
