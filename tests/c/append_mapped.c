/*
 * append_mapped FILE: opens FILE to read and append, maps it shared, and does both at once: stores in place and appends. Every way to
 * read it must agree. FILE must have at least two pages and end within one. Prints "ok".
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROUNDS 200

int main(int argc, char **argv)
{
    if (argc != 2)
        errx(2, "usage: append_mapped FILE");
    int fd = open(argv[1], O_RDWR | O_APPEND);
    int reader = open(argv[1], O_RDONLY);
    struct stat before;
    if (fd < 0 || reader < 0 || fstat(fd, &before) != 0)
        err(1, "open %s", argv[1]);
    size_t size = before.st_size, room = size + 100 * ROUNDS;
    char *map = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        err(1, "mmap");
    for (int round = 0; round < ROUNDS; round++) {
        char line[100], got[100];
        memset(line, 'a' + round % 26, sizeof line);
        map[round] = 'A' + round % 26;
        map[size - 1] = 'A' + round % 26; /* in the last page, too, which the append replaces */
        if (write(fd, line, sizeof line) != sizeof line)
            err(1, "append");
        if (pread(reader, got, sizeof got, size) != sizeof got || memcmp(got, line, sizeof got) != 0)
            errx(1, "round %d: another descriptor reads something else", round);
        if (pread(fd, got, sizeof got, size) != sizeof got || memcmp(got, line, sizeof got) != 0)
            errx(1, "round %d: the same descriptor reads something else", round);
        if (memcmp(map + size, line, sizeof line) != 0)
            errx(1, "round %d: the mapping has something else", round);
        char stored[2];
        if (pread(reader, stored, 1, round) != 1 || pread(reader, stored + 1, 1, size - 1) != 1)
            err(1, "pread");
        if (round == 0 && (stored[0] != map[0] || stored[1] != map[size - 1]))
            errx(1, "what was stored is not read");
        size += sizeof line;
    }
    if (msync(map, room, MS_SYNC) != 0)
        err(1, "msync");
    puts("ok");
    return 0;
}
