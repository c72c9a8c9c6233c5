/*
 * refused FROM TO [swap]: asks for what the kernel's FUSE refuses, and prints the errno's name for each. With "swap", for swapon(2) of
 * FROM, too.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/swap.h>
#include <unistd.h>

static void say(const char *what, int result)
{
    printf("%s %s\n", what, result != 0 ? strerrorname_np(errno) : "ok");
}

int main(int argc, char **argv)
{
    if (argc < 3)
        errx(2, "usage: refused FROM TO [swap]");
    int from = open(argv[1], O_RDWR), to = open(argv[2], O_RDWR);
    if (from < 0 || to < 0)
        err(1, "open");
    say("FICLONE", ioctl(to, FICLONE, from));
    struct file_clone_range range = {.src_fd = from, .src_length = 4096};
    say("FICLONERANGE", ioctl(to, FICLONERANGE, &range));
    struct {
        struct file_dedupe_range range;
        struct file_dedupe_range_info to;
    } dedupe = {{.src_length = 4096, .dest_count = 1}, {.dest_fd = to}};
    int result = ioctl(from, FIDEDUPERANGE, &dedupe);
    if (result == 0 && dedupe.to.status != 0)
        result = dedupe.to.status, errno = -dedupe.to.status;
    say("FIDEDUPERANGE", result);
    struct fiemap map = {.fm_length = 4096};
    say("FIEMAP", ioctl(from, FS_IOC_FIEMAP, &map));
    if (argc > 3) {
        int on = swapon(argv[1], 0);
        say("swapon", on);
        if (on == 0)
            swapoff(argv[1]);
    }
    return 0;
}
