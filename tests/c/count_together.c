/*
 * count_together init FILE: lays a robust process-shared mutex, a process-shared semaphore and two
 *                           counters into FILE.
 * count_together count FILE N PEERS: waits until PEERS processes are here, raises both counters N times,
 *                                    one under the mutex, one under the semaphore, then makes the file
 *                                    durable and prints what it sees.
 * count_together abandon FILE: dies holding the mutex.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define COUNTERS_AT 4096 /* the counters live on another page than the locks */
#define LENGTH 8192

struct locks {
    pthread_mutex_t mutex;
    sem_t semaphore;
};

struct counters {
    volatile long present;
    volatile long under_mutex;
    volatile long under_semaphore;
};

static void *map(const char *path, int flags)
{
    int fd = open(path, O_RDWR | flags, 0644);
    if (fd < 0)
        err(1, "open %s", path);
    if (flags & O_CREAT && ftruncate(fd, LENGTH) != 0)
        err(1, "ftruncate %s", path);
    void *base = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        err(1, "mmap %s", path);
    close(fd);
    return base;
}

static void init(struct locks *locks)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    int error = pthread_mutex_init(&locks->mutex, &attr);
    if (error)
        errx(1, "pthread_mutex_init: %s", strerror(error));
    if (sem_init(&locks->semaphore, 1, 1) != 0)
        err(1, "sem_init");
}

static void lock(pthread_mutex_t *mutex)
{
    int error = pthread_mutex_lock(mutex);
    if (error == EOWNERDEAD)
        error = pthread_mutex_consistent(mutex);
    if (error)
        errx(1, "pthread_mutex_lock: %s", strerror(error));
}

static void meet(struct locks *locks, struct counters *counters, long peers)
{
    lock(&locks->mutex);
    counters->present++;
    pthread_mutex_unlock(&locks->mutex);
    while (counters->present < peers)
        sched_yield();
}

static void count(struct locks *locks, struct counters *counters, long times)
{
    for (long n = 0; n < times; n++) {
        lock(&locks->mutex);
        counters->under_mutex++;
        pthread_mutex_unlock(&locks->mutex);
        while (sem_wait(&locks->semaphore) != 0)
            if (errno != EINTR)
                err(1, "sem_wait");
        counters->under_semaphore++;
        sem_post(&locks->semaphore);
    }
    if (msync(locks, LENGTH, MS_SYNC) != 0)
        err(1, "msync");
    printf("%ld %ld\n", counters->under_mutex, counters->under_semaphore);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        errx(2, "usage: count_together init|count|abandon FILE [N PEERS]");
    int first = strcmp(argv[1], "init") == 0;
    char *base = map(argv[2], first ? O_CREAT | O_TRUNC : 0);
    struct locks *locks = (struct locks *)base;
    if (first)
        init(locks);
    else if (strcmp(argv[1], "abandon") == 0)
        lock(&locks->mutex);
    else if (argc == 5) {
        struct counters *counters = (struct counters *)(base + COUNTERS_AT);
        meet(locks, counters, atol(argv[4]));
        count(locks, counters, atol(argv[3]));
    }
    return 0;
}
