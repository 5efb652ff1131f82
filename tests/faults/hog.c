/* Uses up the pipe quota of the user that runs it, says so, and gives it back when its standard input ends. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    int ends[2], full = 0, opened = 0;
    /* Beyond the quota a pipe has less than its sixteen pages; a few more, in case others give some back. */
    while (full < 100 && pipe(ends) == 0) {
        opened++;
        full += fcntl(ends[0], F_GETPIPE_SZ) < 65536;
    }
    printf("%d pipes, %d of them small\n", opened, full);
    fflush(stdout);
    char byte;
    return read(0, &byte, 1) == 0 && full == 100 ? 0 : 1;
}
