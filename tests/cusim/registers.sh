#!/usr/bin/env bash
# What ptxas says each kernel takes of sm_90, against kernels/cuda/registers.txt.
#
# The figures belong to one release of nvcc: with another there is nothing to compare, and
# the test is skipped.  `make registers` writes the table: read the difference before you
# commit it, for a register more may be a block less on each multiprocessor.
set -u
table=$SRCDIR/kernels/cuda/registers.txt
export LC_ALL=C

header() {
	echo "# nvcc $NVCC_RELEASE, sm_90: registers, shared bytes, stack, spilled bytes (stores, loads). \`make registers\` writes this."
	printf '%9s %6s %5s %6s %6s  %s\n' registers shared stack stores loads kernel
}

# The log of a file: "Compiling entry function 'NAME' for 'ARCH'", then its numbers.
figures() { # FILE LOG
	awk -v file="$1" '
		function number(after) { return match($0, "[0-9]+ " after) ? substr($0, RSTART) + 0 : 0 }
		/Compiling entry function/ { split($0, part, "\047"); name = part[2]; here = part[4] == "sm_90"; stack = stores = loads = "?" }
		/Function properties for/ { mine = $NF == name }
		/bytes stack frame/ && mine {
			stack = number("bytes stack"); stores = number("bytes spill stores"); loads = number("bytes spill loads")
		}
		/Used [0-9]+ registers/ && here {
			printf "%9d %6d %5s %6s %6s  %s: %s\n", number("registers"), number("bytes smem"), stack, stores, loads, file, name
		}
	' "$2" | c++filt -p
}

now() {
	local log name
	header
	for log in kernels/cuda/*.nv.o.log; do
		[ -f "$log" ] || continue
		name=${log##*/}
		figures "${name%.nv.o.log}.cu" "$log"
	done | sort -k6
}

cd "$BUILDDIR" || exit 1
command -v c++filt >/dev/null || { echo "no c++filt"; exit 77; }
if [ "${1:-}" = write ]; then
	new=$(now) || exit 1
	[ "$(wc -l <<<"$new")" -gt 2 ] || { echo "no kernels for sm_90 in this build"; exit 1; }
	diff -u "$table" - <<<"$new"
	printf '%s\n' "$new" >"$table"
	exit
fi
grep -q "^# nvcc $NVCC_RELEASE, " "$table" || { echo "this is nvcc $NVCC_RELEASE; $(head -n 1 "$table")"; exit 77; }
grep -qs "for 'sm_90'" kernels/cuda/*.nv.o.log || { echo "not built for sm_90"; exit 77; }
diff -u --label "kernels/cuda/registers.txt" --label "this build" "$table" <(now) && exit 0
echo "FAILED: a kernel takes other resources than the table says; when that is meant: make registers"
exit 1
