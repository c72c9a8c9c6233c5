/*
 * append_offsets FILE KIND: FILE has contents. Opens it with or without O_APPEND, says afterwards by fcntl(2) or by the flag of
 * one write what was meant, and prints after each write where the descriptor's position is.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef RWF_NOAPPEND
#define RWF_NOAPPEND 0x20
#endif

static int fd;

static void position(const char *what, ssize_t done)
{
    printf("%s %zd at %ld\n", what, done, (long)lseek(fd, 0, SEEK_CUR));
}

static void flag(int on)
{
    int flags = fcntl(fd, F_GETFL);
    if (fcntl(fd, F_SETFL, on ? flags | O_APPEND : flags & ~O_APPEND) != 0)
        err(1, "F_SETFL");
}

static void put(const char *bytes, off_t offset, int rwf)
{
    struct iovec part = {(void *)bytes, strlen(bytes)};
    ssize_t done = pwritev2(fd, &part, 1, offset, rwf);
    if (done < 0)
        err(1, "pwritev2 of %s", bytes);
    position(bytes, done);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        errx(2, "usage: append_offsets FILE KIND");
    const char *kind = argv[2];
    int append = strncmp(kind, "append", 6) == 0;
    fd = open(argv[1], O_RDWR | (append ? O_APPEND : 0));
    if (fd < 0)
        err(1, "open %s", argv[1]);
    if (strcmp(kind, "append") == 0) {
        put("[one]", 3, 0);
        position("[two]", write(fd, "[two]", 5));
    } else if (strcmp(kind, "append-clear") == 0) {
        flag(0);
        put("[in place]", 3, 0);
        position("[at the position]", write(fd, "[at the position]", 17));
        flag(1);
        put("[end]", 3, 0);
        flag(0);
        put("[in place again]", 20, 0);
    } else if (strcmp(kind, "append-noappend") == 0) {
        put("[in place]", 3, RWF_NOAPPEND);
        put("[end]", 3, 0);
        put("[in place again]", 20, RWF_NOAPPEND);
        put("[at the position]", -1, RWF_NOAPPEND);
        put("[beyond the end]", 20000, RWF_NOAPPEND);
        put("[end]", 3, 0);
    } else if (strcmp(kind, "plain-set") == 0) {
        put("[in place]", 3, 0);
        flag(1);
        put("[end]", 3, 0);
        position("[end too]", write(fd, "[end too]", 9));
        flag(0);
        put("[in place again]", 20, 0);
    } else if (strcmp(kind, "plain-append") == 0) {
        put("[end]", 3, RWF_APPEND);
        put("[in place]", 3, 0);
        put("[end too]", -1, RWF_APPEND);
    } else {
        errx(2, "KIND %s?", kind);
    }
    return close(fd) == 0 ? 0 : 1;
}
