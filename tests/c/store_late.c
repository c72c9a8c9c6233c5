/*
 * store_late MOUNTED SOURCE: maps the program MOUNTED, closes one of two descriptors of it, and stores into the mapping
 * while the program is executed as SOURCE, and once more after that. Prints what msync says then, what fsync says after
 * it, and what msync says when the program has ended.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *name(int status)
{
    return status == 0 ? "0" : errno == EIO ? "EIO" : strerror(errno);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        errx(2, "usage: store_late MOUNTED SOURCE");
    int fd = open(argv[1], O_RDWR | O_CLOEXEC), other = dup(fd);
    int started[2];
    if (fd < 0 || other < 0 || pipe(started) != 0)
        err(1, "%s", argv[1]);
    fcntl(other, F_SETFD, FD_CLOEXEC);
    fcntl(started[1], F_SETFD, FD_CLOEXEC);
    unsigned char *bytes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        err(1, "mmap");
    unsigned char first = bytes[0];
    close(fd);
    pid_t child = fork();
    if (child == 0) {
        execl(argv[2], argv[2], "100", NULL);
        _exit(1);
    }
    close(started[1]);
    char byte;
    if (read(started[0], &byte, 1) != 0)
        err(1, "pipe");
    bytes[0] = first;
    printf("%s, then ", name(msync(bytes, 4096, MS_SYNC)));
    printf("%s, then ", name(fsync(other)));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    bytes[0] = first;
    printf("%s\n", name(msync(bytes, 4096, MS_SYNC)));
    return 0;
}
