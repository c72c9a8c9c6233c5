/*
 * lock hold KIND FILE: takes an exclusive lock, says "held", and keeps it until its input ends.
 * lock try KIND FILE:  says "free" or "taken".
 * lock wait KIND FILE: says "waiting", waits for the lock until a SIGALRM comes, and says "held" or "interrupted".
 * KIND: flock, posix (fcntl F_SETLK), ofd (fcntl F_OFD_SETLK); the last two lock bytes 100 to 199.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static void ignore(int signal)
{
    (void)signal;
}

static int take(int fd, const char *kind, int wait)
{
    if (strcmp(kind, "flock") == 0)
        return flock(fd, LOCK_EX | (wait ? 0 : LOCK_NB));
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 100};
    if (strcmp(kind, "posix") == 0)
        return fcntl(fd, wait ? F_SETLKW : F_SETLK, &range);
    if (strcmp(kind, "ofd") == 0)
        return fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &range);
    errx(2, "no such kind: %s", kind);
}

static void say(const char *word)
{
    puts(word);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        errx(2, "usage: lock hold|try|wait flock|posix|ofd FILE");
    int fd = open(argv[3], O_RDWR);
    if (fd < 0)
        err(1, "open %s", argv[3]);
    struct sigaction on_alarm = {.sa_handler = ignore}; /* no SA_RESTART: the call ends with EINTR */
    sigaction(SIGALRM, &on_alarm, NULL);
    int wait = strcmp(argv[1], "wait") == 0;
    if (wait)
        say("waiting");
    if (take(fd, argv[2], wait) == 0)
        say(strcmp(argv[1], "try") == 0 ? "free" : "held");
    else if (errno == EAGAIN || errno == EACCES)
        say("taken");
    else if (errno == EINTR)
        say("interrupted");
    else
        err(1, "lock %s", argv[3]);
    char end;
    while (strcmp(argv[1], "hold") == 0 && read(0, &end, 1) > 0)
        ;
    return 0;
}
