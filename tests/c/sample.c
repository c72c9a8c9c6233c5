/*
 * sample FILE STRIDE: reads 4 KiB at every STRIDE of FILE, prints the sum of the bytes, and keeps FILE open until its
 * input ends.
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        errx(2, "usage: sample FILE STRIDE");
    int fd = open(argv[1], O_RDONLY);
    if (fd < 0)
        err(1, "open %s", argv[1]);
    long long stride = atoll(argv[2]);
    unsigned long long sum = 0;
    unsigned char bytes[4096];
    ssize_t got;
    for (off_t at = 0; (got = pread(fd, bytes, sizeof bytes, at)) > 0; at += stride)
        for (ssize_t n = 0; n < got; n++)
            sum += bytes[n] * (unsigned long long)(at + n + 1);
    if (got < 0)
        err(1, "pread %s", argv[1]);
    printf("%llu\n", sum);
    fflush(stdout);
    while (read(0, bytes, 1) > 0)
        ;
    return 0;
}
