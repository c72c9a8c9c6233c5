/* export_handle PATH: asks name_to_handle_at for PATH and prints "ok" or the errno's name. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc != 2)
        errx(2, "usage: export_handle PATH");
    struct file_handle *handle = malloc(sizeof *handle + MAX_HANDLE_SZ);
    if (!handle)
        err(1, "malloc");
    handle->handle_bytes = MAX_HANDLE_SZ;
    int mount_id;
    int result = name_to_handle_at(AT_FDCWD, argv[1], handle, &mount_id, 0);
    puts(result < 0 ? strerrorname_np(errno) : "ok");
    free(handle);
    return 0;
}
