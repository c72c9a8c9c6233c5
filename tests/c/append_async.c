/*
 * append_async FILE SIZE: appends SIZE bytes by one asynchronous write (io_submit), which the kernel may part into requests that
 * are under way at once. Prints how many bytes it took.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        errx(2, "usage: append_async FILE SIZE");
    size_t size = strtoul(argv[2], NULL, 0);
    uint32_t *bytes = aligned_alloc(4096, size);
    for (size_t n = 0; n < size / 4; n++)
        bytes[n] = n;
    int fd = open(argv[1], O_WRONLY | O_APPEND);
    aio_context_t context = 0;
    if (fd < 0 || syscall(SYS_io_setup, 1, &context) != 0)
        err(1, "open %s", argv[1]);
    struct iocb call = {
        .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = fd, .aio_buf = (uintptr_t)bytes, .aio_nbytes = size};
    struct iocb *calls[] = {&call};
    struct io_event event;
    if (syscall(SYS_io_submit, context, 1, calls) != 1 || syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1)
        err(1, "io_submit");
    printf("%lld\n", (long long)event.res);
    return 0;
}
