/*
 * steps FILE STEP...: does these steps in order, in one process. FILE is open to read and write; bytes are characters.
 *
 *   map:LENGTH             map the first LENGTH bytes shared and writable
 *   store:OFFSET:COUNT:C   store into the map
 *   msync unmap            of the map
 *   fsync close open       of FILE
 *   write:OFFSET:COUNT:C   pwrite, by the open descriptor; put: by another one, opened O_WRONLY
 *   append:COUNT:C         by a descriptor opened O_APPEND
 *   ftruncate:LENGTH truncate:LENGTH fallocate:OFFSET:LENGTH
 *   copy:FROM:TO:COUNT     copy_file_range within FILE
 *   mtime:SECONDS          futimens, the access time left alone; path: utimensat by name
 *   atime:SECONDS now      only the access time; both to the present
 *   read seen              print runs of bytes, as pread and as the map has them; modified: print the time
 *   sleep:MILLISECONDS
 *   pause                  print a line, and wait for one
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *path;
static int fd = -1;
static unsigned char *map;
static size_t mapped;

static void print_runs(const char *what, const unsigned char *bytes, size_t count)
{
    printf("%s", what);
    for (size_t at = 0, next; at < count; at = next) {
        for (next = at; next < count && bytes[next] == bytes[at]; next++)
            ;
        if (bytes[at] == 0)
            printf(" %zu zeros", next - at);
        else
            printf(" %zu*%c", next - at, bytes[at]);
    }
    printf("\n");
}

static int write_run(int to, long offset, long count, int byte)
{
    char *bytes = malloc(count);
    memset(bytes, byte, count);
    ssize_t done = offset < 0 ? write(to, bytes, count) : pwrite(to, bytes, count, offset);
    free(bytes);
    return done == count ? 0 : -1;
}

static int by_another(int flags, long offset, long count, int byte)
{
    int other = open(path, O_WRONLY | flags);
    int failed = other < 0 || write_run(other, offset, count, byte) != 0;
    return failed ? -1 : close(other);
}

static int set_times(struct timespec atime, struct timespec mtime, int by_path)
{
    struct timespec both[2] = {atime, mtime};
    return by_path ? utimensat(AT_FDCWD, path, both, 0) : futimens(fd, both);
}

static int read_all(void)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return -1;
    unsigned char *bytes = malloc(st.st_size + 1);
    ssize_t got = pread(fd, bytes, st.st_size + 1, 0);
    if (got >= 0)
        print_runs("read", bytes, got);
    free(bytes);
    return got == st.st_size ? 0 : -1;
}

static int step(const char *name, long a, long b, long c, int byte)
{
    const struct timespec leave = {0, UTIME_OMIT}, now = {0, UTIME_NOW}, given = {a, 123456789};
    struct stat st;
    if (strcmp(name, "map") == 0) {
        mapped = a;
        map = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        return map == MAP_FAILED ? -1 : 0;
    }
    if (strcmp(name, "store") == 0)
        return memset(map + a, byte, b) ? 0 : -1;
    if (strcmp(name, "msync") == 0)
        return msync(map, mapped, MS_SYNC);
    if (strcmp(name, "unmap") == 0)
        return munmap(map, mapped);
    if (strcmp(name, "fsync") == 0)
        return fsync(fd);
    if (strcmp(name, "close") == 0)
        return close(fd);
    if (strcmp(name, "open") == 0)
        return (fd = open(path, O_RDWR)) < 0 ? -1 : 0;
    if (strcmp(name, "write") == 0)
        return write_run(fd, a, b, byte);
    if (strcmp(name, "put") == 0)
        return by_another(0, a, b, byte);
    if (strcmp(name, "append") == 0)
        return by_another(O_APPEND, -1, a, byte);
    if (strcmp(name, "ftruncate") == 0)
        return ftruncate(fd, a);
    if (strcmp(name, "truncate") == 0)
        return truncate(path, a);
    if (strcmp(name, "fallocate") == 0)
        return fallocate(fd, 0, a, b);
    if (strcmp(name, "copy") == 0) {
        off_t from = a, to = b;
        return copy_file_range(fd, &from, fd, &to, c, 0) == c ? 0 : -1;
    }
    if (strcmp(name, "mtime") == 0)
        return set_times(leave, given, 0);
    if (strcmp(name, "path") == 0)
        return set_times(leave, given, 1);
    if (strcmp(name, "atime") == 0)
        return set_times(given, leave, 0);
    if (strcmp(name, "now") == 0)
        return set_times(now, now, 0);
    if (strcmp(name, "read") == 0)
        return read_all();
    if (strcmp(name, "seen") == 0) {
        if (fstat(fd, &st) != 0)
            return -1;
        print_runs("seen", map, (size_t)st.st_size < mapped ? (size_t)st.st_size : mapped);
        return 0;
    }
    if (strcmp(name, "modified") == 0)
        return stat(path, &st) == 0 && printf("modified %ld.%09ld\n", st.st_mtim.tv_sec, st.st_mtim.tv_nsec) > 0 ? 0 : -1;
    if (strcmp(name, "sleep") == 0)
        return usleep(a * 1000);
    if (strcmp(name, "pause") == 0) {
        puts("paused");
        fflush(stdout);
        return getchar() == EOF ? -1 : 0;
    }
    errx(2, "no such step: %s", name);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        errx(2, "usage: steps FILE STEP...");
    path = argv[1];
    if ((fd = open(path, O_RDWR)) < 0)
        err(1, "open %s", path);
    for (int n = 2; n < argc; n++) {
        char *text = strdup(argv[n]), *word = strtok(text, ":"), *name = word;
        long numbers[3] = {0, 0, 0};
        int byte = 0;
        for (int given = 0; (word = strtok(NULL, ":")) != NULL;)
            if (word[0] >= '0' && word[0] <= '9' && given < 3)
                numbers[given++] = atol(word);
            else
                byte = word[0];
        if (step(name, numbers[0], numbers[1], numbers[2], byte) != 0)
            err(1, "%s", argv[n]);
        free(text);
    }
    return 0;
}
