/*
 * refuse_calls CALL... -- COMMAND: runs COMMAND, which gets EPERM from these system calls, as under the filters of
 * container engines.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct { const char *name; unsigned number; } calls[] = {
    {"unshare", SYS_unshare},
    {"setfsuid", SYS_setfsuid},
    {"setfsgid", SYS_setfsgid},
    {"capset", SYS_capset},
    {"open_tree", SYS_open_tree},
};
#define CALLS (sizeof calls / sizeof *calls)

static unsigned number_of(const char *name)
{
    for (size_t i = 0; i < CALLS; i++)
        if (strcmp(calls[i].name, name) == 0)
            return calls[i].number;
    errx(1, "unknown call %s", name);
}

int main(int argc, char **argv)
{
    struct sock_filter filter[2 * CALLS + 2];
    unsigned short length = 0;
    int at = 1;
    filter[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (; at < argc && strcmp(argv[at], "--") != 0 && length + 3u <= 2 * CALLS + 2; at++) {
        filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number_of(argv[at]), 0, 1);
        filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    }
    filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    if (at + 1 >= argc || strcmp(argv[at], "--") != 0)
        errx(1, "usage: refuse_calls CALL... -- COMMAND");
    /* Without PR_SET_NO_NEW_PRIVS, which fusermount3 could not mount under: root may. */
    struct sock_fprog program = {length, filter};
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) != 0)
        err(1, "seccomp");
    execvp(argv[at + 1], argv + at + 1);
    err(1, "%s", argv[at + 1]);
}
