/*
 * direct_cycle FILE ROUNDS: fills FILE anew with an asynchronous write past the page cache, round by round, while two
 * processes read it through the page cache. After each round a read through the page cache has to find what was
 * written.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SIZE = 640 << 10 };

static int open_or_die(const char *path, int flags)
{
    int fd = open(path, flags, 0600);
    if (fd < 0)
        err(1, "open %s", path);
    return fd;
}

static void read_for_ever(const char *path)
{
    char *bytes = malloc(SIZE);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        int fd = open_or_die(path, O_RDONLY);
        if (pread(fd, bytes, SIZE, 0) < 0)
            err(1, "read");
        close(fd);
    }
}

static void write_past_the_cache(aio_context_t context, int fd, const char *bytes)
{
    struct iocb block = {
        .aio_lio_opcode = IOCB_CMD_PWRITE,
        .aio_fildes = fd,
        .aio_buf = (uintptr_t)bytes,
        .aio_nbytes = SIZE,
    };
    struct iocb *blocks = &block;
    struct io_event event;
    if (syscall(SYS_io_submit, context, 1, &blocks) != 1)
        err(1, "io_submit");
    if (syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1)
        err(1, "io_getevents");
    if (event.res != SIZE)
        errx(1, "wrote %lld", (long long)event.res);
}

static void expect(int fd, const char *bytes, long round)
{
    static char found[SIZE];
    if (pread(fd, found, SIZE, 0) != SIZE)
        err(1, "read");
    for (long at = 0; at < SIZE; at++)
        if (found[at] != bytes[at])
            errx(1, "round %ld: byte %ld is old", round, at);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        errx(2, "usage: direct_cycle FILE ROUNDS");
    long rounds = atol(argv[2]);
    char *bytes = aligned_alloc(4096, SIZE);
    int direct = open_or_die(argv[1], O_RDWR | O_CREAT | O_DIRECT);
    if (ftruncate(direct, SIZE) != 0)
        err(1, "ftruncate");
    aio_context_t context = 0;
    if (syscall(SYS_io_setup, 1, &context) != 0)
        err(1, "io_setup");
    pid_t readers[2];
    for (int n = 0; n < 2; n++)
        if ((readers[n] = fork()) == 0)
            read_for_ever(argv[1]);
    for (long round = 0; round < rounds; round++) {
        memset(bytes, 'a' + round % 26, SIZE);
        write_past_the_cache(context, direct, bytes);
        int fresh = open_or_die(argv[1], O_RDONLY);
        expect(fresh, bytes, round);
        close(fresh);
    }
    for (int n = 0; n < 2; n++)
        kill(readers[n], SIGKILL);
    return 0;
}
