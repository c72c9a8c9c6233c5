/*
 * store shared|private FILE OFFSET BYTE COUNT [nosync]: maps FILE, fills COUNT bytes from OFFSET with BYTE,
 * checks that its own view has them, and msyncs them when shared (unless told not to).
 */
#include <err.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 6)
        errx(2, "usage: store shared|private FILE OFFSET BYTE COUNT [nosync]");
    int shared = strcmp(argv[1], "shared") == 0;
    off_t offset = atoll(argv[3]);
    int byte = atoi(argv[4]);
    long count = atol(argv[5]);
    int fd = open(argv[2], shared ? O_RDWR : O_RDONLY);
    if (fd < 0)
        err(1, "open %s", argv[2]);
    struct stat st;
    if (fstat(fd, &st) != 0)
        err(1, "fstat %s", argv[2]);
    unsigned char *bytes =
        mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        err(1, "mmap %s", argv[2]);
    close(fd);
    memset(bytes + offset, byte, count);
    for (long n = 0; n < count; n++)
        if (bytes[offset + n] != (unsigned char)byte)
            errx(1, "byte %ld of the own view was lost", n);
    if (shared && argc == 6 && msync(bytes, st.st_size, MS_SYNC) != 0)
        err(1, "msync");
    return munmap(bytes, st.st_size) == 0 ? 0 : 1;
}
