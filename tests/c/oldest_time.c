/* oldest_time FILE: sets FILE's times to the first second that 64 bits can count, and prints "ok" or the errno's name. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
    if (argc != 2)
        errx(2, "usage: oldest_time FILE");
    struct timespec times[2] = {{INT64_MIN, 1}, {INT64_MIN, 1}};
    puts(utimensat(AT_FDCWD, argv[1], times, 0) < 0 ? strerrorname_np(errno) : "ok");
    return 0;
}
