/* The physical floor of `FROM busybox` and 40 RUN steps: what the kernel alone costs, with no builder around it.
 *
 *   floor BASE STATE STEPS
 *
 * For each step: an overlay over the base and all earlier steps' directories, a process in new mount, pid, ipc and uts namespaces with /proc and a
 * small /dev, pivot_root, exec of `/bin/sh -c "echo N > /f"`, wait. Nothing is hashed, recorded or checked. Prints milliseconds per step.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void child(const char *merged, const char *options, int step) {
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) die("private");
    if (mount("overlay", merged, "overlay", 0, options)) die("overlay");
    if (chdir(merged)) die("chdir");
    if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) die("proc");
    if (mount("dev", "dev", "tmpfs", MS_NOSUID, "mode=755")) die("dev");
    if (mknod("dev/null", S_IFCHR | 0666, 0x103)) die("null");
    if (syscall(SYS_pivot_root, ".", ".")) die("pivot_root");
    if (umount2(".", MNT_DETACH)) die("umount");
    char command[64];
    snprintf(command, sizeof command, "echo %d > /f", step);
    execl("/bin/sh", "sh", "-c", command, NULL);
    die("exec");
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: floor BASE STATE STEPS\n");
        return 2;
    }
    if (chdir(argv[2])) die(argv[2]);
    int steps = atoi(argv[3]);
    if (symlink(argv[1], "b") && errno != EEXIST) die("link to the base");
    mkdir("m", 0755);
    double start = now_ms();
    for (int step = 0; step < steps; step++) {
        char options[8192], name[64];
        snprintf(name, sizeof name, "%d", step);
        if (mkdir(name, 0755)) die(name);
        snprintf(name, sizeof name, "w%d", step);
        if (mkdir(name, 0755)) die(name);
        int used = snprintf(options, sizeof options, "volatile,upperdir=%d,workdir=w%d,lowerdir=", step, step);
        for (int lower = step - 1; lower >= 0; lower--) used += snprintf(options + used, sizeof options - used, "%d:", lower);
        snprintf(options + used, sizeof options - used, "b");
        pid_t pid = syscall(SYS_clone, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD, 0, 0, 0, 0);
        if (pid < 0) die("clone");
        if (pid == 0) child("m", options, step);
        int status;
        if (waitpid(pid, &status, 0) != pid) die("wait");
        if (status) {
            fprintf(stderr, "floor: step %d ended with status %d\n", step, status);
            return 1;
        }
    }
    printf("%.3f\n", (now_ms() - start) / steps);
    return 0;
}
