/*
 * write_and_run WAY MOUNTED SOURCE TIMES: writes this very program to MOUNTED in one of several ways and, as soon as
 * it is closed, executes the file as SOURCE or takes a read lease on it, in turn. Prints how often either was refused
 * because somebody had the file open for writing.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned char bytes[1 << 20];
static ssize_t length;

static void check(int ok, const char *what)
{
    if (!ok)
        err(1, "%s", what);
}

static void write_all(int fd)
{
    for (ssize_t at = 0; at < length; at += 4096) {
        ssize_t count = length - at < 4096 ? length - at : 4096;
        check(write(fd, bytes + at, count) == count, "write");
    }
}

static int create(const char *path)
{
    unlink(path);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
    check(fd >= 0, path);
    return fd;
}

static void map(const char *path, int close_first)
{
    int fd = create(path);
    check(ftruncate(fd, length) == 0, "ftruncate");
    void *mapped = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    check(mapped != MAP_FAILED, "mmap");
    if (close_first)
        close(fd);
    memcpy(mapped, bytes, length);
    check(munmap(mapped, length) == 0, "munmap");
    if (!close_first)
        close(fd);
}

/* As linkers do: sections out of order, headers last, a look at what is there. */
static void in_pieces(const char *path)
{
    int fd = create(path);
    unsigned char look[64];
    check(ftruncate(fd, length) == 0, "ftruncate");
    for (ssize_t at = (length - 1) & ~1023; at >= 0; at -= 1024) {
        ssize_t count = length - at < 1024 ? length - at : 1024;
        check(pwrite(fd, bytes + at, count, at) == count, "pwrite");
    }
    check(pread(fd, look, sizeof look, 0) == sizeof look, "pread");
    check(pwrite(fd, look, sizeof look, 0) == sizeof look, "pwrite");
    check(pread(fd, look, sizeof look, 4096) == sizeof look, "pread");
    close(fd);
}

/* As shells do: the descriptor moves before anything is written. */
static void through_a_duplicate(const char *path)
{
    int fd = create(path), copy = dup(fd);
    check(copy >= 0, "dup");
    close(fd);
    write_all(copy);
    int other = dup(copy);
    close(other);
    check(pwrite(copy, bytes, 1, 0) == 1, "pwrite");
    close(copy);
}

static int run(const char *program, char *const *arguments)
{
    int status, failed[2];
    check(pipe2(failed, O_CLOEXEC) == 0, "pipe2");
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0) {
        execv(program, arguments);
        int why = errno;
        _exit(write(failed[1], &why, sizeof why) != sizeof why);
    }
    int why = 0;
    close(failed[1]);
    ssize_t got = read(failed[0], &why, sizeof why);
    close(failed[0]);
    check(waitpid(child, &status, 0) == child && WIFEXITED(status), "waitpid");
    if (got == 0 && WEXITSTATUS(status) != 0)
        errx(1, "%s ended with %d", program, WEXITSTATUS(status));
    return why;
}

static void write_program(const char *way, const char *path)
{
    if (strcmp(way, "write") == 0) {
        int fd = create(path);
        write_all(fd);
        close(fd);
    } else if (strcmp(way, "copy") == 0) {
        unlink(path);
        char *const cp[] = {"/bin/cp", "/proc/self/exe", (char *)path, NULL};
        char self[4096] = {0};
        check(readlink("/proc/self/exe", self, sizeof self - 1) > 0, "readlink");
        ((char **)cp)[1] = self;
        check(run(cp[0], cp) == 0, "cp");
    } else if (strcmp(way, "map") == 0) {
        map(path, 0);
    } else if (strcmp(way, "closed-map") == 0) {
        map(path, 1);
    } else if (strcmp(way, "pieces") == 0) {
        in_pieces(path);
    } else if (strcmp(way, "duplicate") == 0) {
        through_a_duplicate(path);
    } else if (strcmp(way, "nothing") == 0) {
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0) {
            fd = create(path);
            write_all(fd);
        }
        close(fd);
    } else {
        errx(2, "no way: %s", way);
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "ran") == 0)
        return 0;
    if (argc != 5)
        errx(2, "usage: write_and_run WAY MOUNTED SOURCE TIMES");
    int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    length = read(self, bytes, sizeof bytes);
    check(length > 0, "/proc/self/exe");
    close(self);
    char *const ran[] = {"program", "ran", NULL};
    int busy = 0, leased = 0;
    for (int n = 0; n < atoi(argv[4]); n++) {
        write_program(argv[1], argv[2]);
        if (n % 2 == 0) {
            int why = run(argv[3], ran);
            if (why != 0 && why != ETXTBSY)
                errx(1, "%s: %s", argv[3], strerror(why));
            busy += why == ETXTBSY;
        } else {
            int fd = open(argv[3], O_RDONLY | O_CLOEXEC);
            check(fd >= 0, argv[3]);
            leased += fcntl(fd, F_SETLEASE, F_RDLCK) != 0;
            close(fd);
        }
    }
    printf("%d busy, %d not leased\n", busy, leased);
    return 0;
}
