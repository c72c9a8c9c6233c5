/*
 * one_call CALL FILE: changes FILE by one system call and prints "ok" or the errno's name, so that a test
 * can make the call as any user. FILE must have at least 8192 bytes.
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
#include <unistd.h>

static int store(int fd)
{
    char *bytes = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        return -1;
    memset(bytes + 100, 's', 10);
    return msync(bytes, 8192, MS_SYNC);
}

/* 8 KiB into FILE's second half from an unnamed file in memory would be another filesystem: copy within. */
static int copy(int fd)
{
    off_t from = 0, to = 4096;
    ssize_t done = copy_file_range(fd, &from, fd, &to, 4096, 0);
    return done == 4096 ? 0 : -1;
}

static int call(const char *name, const char *path)
{
    if (strcmp(name, "truncate") == 0)
        return truncate(path, 5000);
    if (strcmp(name, "truncate_same") == 0)
        return truncate(path, 8192);
    if (strcmp(name, "chown_same") == 0)
        return chown(path, geteuid(), getegid());
    if (strcmp(name, "chown_none") == 0)
        return chown(path, -1, -1);
    if (strcmp(name, "chmod_same") == 0)
        return chmod(path, 06777);
    if (strcmp(name, "open_trunc") == 0)
        return open(path, O_WRONLY | O_TRUNC);
    int fd = open(path, O_RDWR);
    if (fd < 0)
        return -1;
    if (strcmp(name, "open_only") == 0)
        return 0;
    if (strcmp(name, "write") == 0)
        return write(fd, "0123456789", 10) == 10 ? 0 : -1;
    if (strcmp(name, "write_empty") == 0)
        return write(fd, "", 0) == 0 ? 0 : -1;
    if (strcmp(name, "pwrite") == 0)
        return pwrite(fd, "0123456789", 10, 4090) == 10 ? 0 : -1;
    if (strcmp(name, "append") == 0)
        return pwrite(fd, "0123456789", 10, 8192) == 10 ? 0 : -1;
    if (strcmp(name, "ftruncate") == 0)
        return ftruncate(fd, 5000);
    if (strcmp(name, "grow") == 0)
        return ftruncate(fd, 20000);
    if (strcmp(name, "fallocate") == 0)
        return fallocate(fd, 0, 0, 16384);
    if (strcmp(name, "keep_size") == 0)
        return fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 16384);
    if (strcmp(name, "punch") == 0)
        return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096);
    if (strcmp(name, "zero") == 0)
        return fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 4096);
    if (strcmp(name, "copy") == 0)
        return copy(fd);
    if (strcmp(name, "store") == 0)
        return store(fd);
    errx(2, "no such call: %s", name);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        errx(2, "usage: one_call CALL FILE");
    puts(call(argv[1], argv[2]) < 0 ? strerrorname_np(errno) : "ok");
    return 0;
}
