/*
 * Gives every file of a folder to a fuzz target: the folders on the command line, or
 * $SRCDIR/tests/fuzz/corpus/NAME, NAME being the program's.  No file at all is a failure.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int file_replay(const char *path)
{
	FILE *f = fopen(path, "rb");
	uint8_t *data;
	size_t n;

	if (!f)
		return 0;
	data = malloc(1 << 20);
	if (!data)
		abort();
	n = fread(data, 1, 1 << 20, f);
	fclose(f);
	/* a copy of the exact size, so that a sanitizer sees a read behind it */
	data = realloc(data, n ? n : 1);
	LLVMFuzzerTestOneInput(data, n);
	free(data);
	return 1;
}

static int folder_replay(const char *folder)
{
	char path[4096];
	struct dirent *d;
	int n = 0;
	DIR *dir = opendir(folder);

	while (dir && (d = readdir(dir))) {
		if (d->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "%s/%s", folder, d->d_name);
		n += file_replay(path);
	}
	if (dir)
		closedir(dir);
	return n;
}

int main(int argc, char **argv)
{
	const char *top = getenv("SRCDIR"), *name = strrchr(argv[0], '/');
	char folder[4096];
	int i, n = 0;

	snprintf(folder, sizeof folder, "%s/tests/fuzz/corpus/%s", top ? top : ".", name ? name + 1 : argv[0]);
	if (argc < 2)
		n = folder_replay(folder);
	for (i = 1; i < argc; i++)
		n += folder_replay(argv[i]);
	printf("%d files\n", n);
	return n == 0;
}
