/*
 * directory_positions DIR: reads DIR once, noting telldir before every entry; then, in scattered order, seeks
 * to each position and expects the same entry. Prints the number of entries checked.
 */
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 20000

static struct {
    long position;
    char *name;
} entries[MOST];

static int read_all(DIR *dir)
{
    for (int n = 0; n < MOST; n++) {
        entries[n].position = telldir(dir);
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (!entry && errno)
            err(1, "readdir");
        if (!entry)
            return n;
        entries[n].name = strdup(entry->d_name);
    }
    errx(1, "more than %d entries", MOST);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        errx(2, "usage: directory_positions DIR");
    DIR *dir = opendir(argv[1]);
    if (!dir)
        err(1, "opendir %s", argv[1]);
    int count = read_all(dir);
    for (int step = 0; step < count; step++) {
        int n = (int)((step * 7919L) % count); /* a prime: scattered, and repeats do no harm */
        seekdir(dir, entries[n].position);
        struct dirent *entry = readdir(dir);
        if (!entry)
            errx(1, "nothing at the position of %s", entries[n].name);
        if (strcmp(entry->d_name, entries[n].name) != 0)
            errx(1, "%s stands where %s was", entry->d_name, entries[n].name);
    }
    rewinddir(dir);
    struct dirent *first = readdir(dir);
    if (count && (!first || strcmp(first->d_name, entries[0].name) != 0))
        errx(1, "rewinddir lost the first entry");
    printf("%d\n", count);
    return closedir(dir) == 0 ? 0 : 1;
}
