/*
 * print_mapped FILE [noatime]: opens (with O_NOATIME), fstats, maps, closes, prints byte by byte and unmaps FILE.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 3)
        errx(2, "usage: print_mapped FILE [noatime]");
    int fd = open(argv[1], argc == 3 ? O_RDONLY | O_NOATIME : O_RDONLY);
    if (fd < 0)
        err(1, "open %s", argv[1]);
    struct stat st;
    if (fstat(fd, &st) != 0)
        err(1, "fstat %s", argv[1]);
    if (st.st_size == 0) /* mmap refuses an empty range: nothing to print */
        return close(fd) == 0 ? 0 : 1;
    const unsigned char *bytes = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        err(1, "mmap %s", argv[1]);
    if (close(fd) != 0) /* the mapping must outlive the descriptor */
        err(1, "close %s", argv[1]);
    for (off_t at = 0; at < st.st_size; at++)
        if (putchar(bytes[at]) == EOF)
            err(1, "write");
    if (munmap((void *)bytes, st.st_size) != 0)
        err(1, "munmap");
    return fflush(stdout) == 0 ? 0 : 1;
}
