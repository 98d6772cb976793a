/*
 * Runs a program and, at one of its system calls, lets that call fail, kills the program, or interrupts it.
 *
 *   inject REPORT PROGRAM list                   -- COMMAND...    counts only; the report has every call
 *   inject REPORT PROGRAM fail  AT ROUND [SITE]  -- COMMAND...    the AT-th call (from 1; of those at SITE) fails
 *   inject REPORT PROGRAM kill  AT 0 [SITE]      -- COMMAND...    SIGKILL instead of the AT-th call
 *   inject REPORT PROGRAM int   AT AGAIN [SITE]  -- COMMAND...    SIGINT before the AT-th call, and before the AGAIN-th (0: once)
 *   inject REPORT PROGRAM term  AT               -- COMMAND...    SIGTERM
 *   inject REPORT PROGRAM shell AT LINE SITE     -- COMMAND...    a line of shell before the AT-th call at SITE
 *
 * COMMAND may lead to PROGRAM by way of others (setpriv): only calls of processes that have PROGRAM as their executable count, so that what a
 * step of a build does is left alone, while what the builder does on a step's behalf between clone and exec is not.
 *
 * It works by seccomp's user notification: the kernel asks this process before it carries out a call, whoever made it and however (libc, raw
 * system calls, threads). One process answers, so "the AT-th call" is a point in one order. A filter is inherited by everything that the program
 * starts, and the kernel says when nobody has it any more: that is how this program knows that nothing was left running.
 *
 * The report's lines: "call SITE", "hit NUMBER ERRNO SITE", "calls COUNT", "left yes|no". A SITE is the call's name, a blank, and its path with numbers
 * and digests replaced by "#".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

/* How long what was started may take to end after the program itself, in milliseconds. */
#define GRACE_MS 10000

enum kind { PATH, FD, OPEN, OPEN2, LOCK, DUP, FORK, PLAIN };

/* The failures of each group of calls, one a round: what a full or broken disk, a limit or a missing right makes of them. */
static const int opens[] = {EMFILE, EACCES, EIO};
static const int makes[] = {ENOSPC, EACCES, EIO};
static const int removes[] = {EIO, EACCES, EBUSY};
static const int writes[] = {ENOSPC, EIO, EDQUOT};
static const int reads[] = {EIO, EIO, EINTR};
static const int syncs[] = {EIO, ENOSPC, EDQUOT};
static const int marks[] = {EPERM, EIO, ENOSPC};
static const int mounts[] = {EPERM, ENOMEM, EINVAL};
static const int starts[] = {EAGAIN, ENOMEM, ENOSPC};
static const int execs[] = {EACCES, ENOMEM, ENOENT};
static const int locks[] = {ENOLCK, EIO, EINTR};
static const int descriptors[] = {EMFILE, ENFILE, ENOMEM};
static const int rights[] = {EPERM, EINVAL, ENOMEM};

static const struct call {
    int number;
    const char *name;
    enum kind kind;
    int argument; /* of the path or descriptor */
    const int *failures;
} calls[] = {
#define CALL(name, kind, argument, failures) {__NR_##name, #name, kind, argument, failures}
#ifdef __NR_open
    CALL(open, OPEN, 0, opens), CALL(creat, PATH, 0, makes), CALL(mkdir, PATH, 0, makes), CALL(rename, PATH, 1, makes),
    CALL(unlink, PATH, 0, removes), CALL(rmdir, PATH, 0, removes), CALL(link, PATH, 1, makes), CALL(symlink, PATH, 1, makes),
    CALL(mknod, PATH, 0, makes), CALL(chmod, PATH, 0, marks), CALL(chown, PATH, 0, marks), CALL(lchown, PATH, 0, marks),
    CALL(fork, FORK, 0, starts), CALL(vfork, FORK, 0, starts), CALL(getdents, FD, 0, reads), CALL(dup2, PLAIN, 0, descriptors),
    CALL(readlink, PATH, 0, reads),
#endif
    CALL(openat, OPEN, 1, opens), CALL(openat2, OPEN2, 1, opens), CALL(mkdirat, PATH, 1, makes), CALL(renameat2, PATH, 3, makes),
    CALL(renameat, PATH, 3, makes), CALL(unlinkat, PATH, 1, removes), CALL(linkat, PATH, 3, makes), CALL(symlinkat, PATH, 2, makes),
    CALL(mknodat, PATH, 1, makes), CALL(fchmodat, PATH, 1, marks), CALL(fchownat, PATH, 1, marks), CALL(fchmod, FD, 0, marks),
    CALL(fchown, FD, 0, marks), CALL(utimensat, PATH, 1, marks), CALL(setxattr, PATH, 0, marks), CALL(lsetxattr, PATH, 0, marks),
    CALL(fsetxattr, FD, 0, marks), CALL(removexattr, PATH, 0, marks), CALL(lremovexattr, PATH, 0, marks), CALL(fremovexattr, FD, 0, marks),
    CALL(fgetxattr, FD, 0, reads), CALL(flistxattr, FD, 0, reads), CALL(readlinkat, PATH, 1, reads),
    CALL(write, FD, 0, writes), CALL(pwrite64, FD, 0, writes), CALL(writev, FD, 0, writes), CALL(pwritev, FD, 0, writes),
    CALL(copy_file_range, FD, 2, writes), CALL(sendfile, FD, 0, writes), CALL(fallocate, FD, 0, writes), CALL(ftruncate, FD, 0, writes),
    CALL(truncate, PATH, 0, writes), CALL(read, FD, 0, reads), CALL(pread64, FD, 0, reads), CALL(readv, FD, 0, reads),
    CALL(getdents64, FD, 0, reads), CALL(fsync, FD, 0, syncs), CALL(fdatasync, FD, 0, syncs), CALL(syncfs, FD, 0, syncs),
    CALL(flock, FD, 0, locks), CALL(fcntl, LOCK, 0, locks), CALL(mount, PATH, 1, mounts), CALL(umount2, PATH, 0, mounts),
    CALL(fsopen, PATH, 0, mounts), CALL(fsconfig, PLAIN, 0, mounts), CALL(fsmount, PLAIN, 0, mounts), CALL(open_tree, PATH, 1, mounts),
    CALL(move_mount, PATH, 3, mounts), CALL(mount_setattr, PATH, 1, mounts), CALL(pivot_root, PATH, 0, mounts), CALL(chroot, PATH, 0, mounts),
    CALL(fchdir, FD, 0, opens), CALL(unshare, PLAIN, 0, rights), CALL(setns, PLAIN, 0, rights), CALL(clone, FORK, 0, starts),
    CALL(clone3, FORK, 0, starts), CALL(execve, PATH, 0, execs), CALL(execveat, PATH, 1, execs), CALL(pipe2, PLAIN, 0, descriptors),
    CALL(memfd_create, PATH, 0, descriptors), CALL(socketpair, PLAIN, 0, descriptors), CALL(eventfd2, PLAIN, 0, descriptors),
    CALL(epoll_create1, PLAIN, 0, descriptors), CALL(dup3, PLAIN, 0, descriptors), CALL(setgroups, PLAIN, 0, rights),
    CALL(setresuid, PLAIN, 0, rights), CALL(setresgid, PLAIN, 0, rights), CALL(capset, PLAIN, 0, rights), CALL(sethostname, PLAIN, 0, rights),
    CALL(prlimit64, PLAIN, 0, rights), CALL(seccomp, PLAIN, 0, rights), CALL(bpf, PLAIN, 0, rights),
};
#define CALLS (sizeof calls / sizeof calls[0])

static void fail(const char *what) {
    perror(what);
    exit(125);
}

static int install(void) {
    struct sock_filter filter[CALLS + 5];
    size_t at = 0;
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    filter[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 0, CALLS + 1);
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t n = 0; n < CALLS; n++)
        filter[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[n].number, CALLS - n, 0);
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
    struct sock_fprog program = {.len = at, .filter = filter};
    /* Without this a signal would interrupt a call that is being asked about, and it would be counted twice. */
    unsigned flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    return syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static void read_text(pid_t tid, uint64_t address, char *into, size_t size) {
    into[0] = 0;
    /* Page by page: the text may end just before a hole. */
    size_t done = 0;
    while (done + 1 < size) {
        size_t piece = 4096 - (address + done) % 4096;
        if (piece > size - 1 - done) piece = size - 1 - done;
        struct iovec local = {into + done, piece}, remote = {(void *)(address + done), piece};
        if (process_vm_readv(tid, &local, 1, &remote, 1, 0) != (ssize_t)piece) break;
        size_t length = strnlen(into + done, piece);
        done += length;
        if (length < piece) break;
    }
    into[done] = 0;
}

static int is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

/* Numbers and digests differ from run to run. */
static void normalise(const char *path, char *into, size_t size) {
    size_t to = 0;
    for (const char *at = path; *at && to + 2 < size;) {
        size_t hex = 0, digits = 0;
        while (is_hex(at[hex])) hex++;
        while (at[digits] >= '0' && at[digits] <= '9') digits++;
        if (hex >= 8 || digits > 0) {
            into[to++] = '#';
            at += hex >= 8 ? hex : digits;
        } else {
            into[to++] = *at == '\n' || *at == ' ' ? '_' : *at;
            at++;
        }
    }
    into[to] = 0;
}

/* The call's place, and whether it counts at all. */
static int site_of(const struct call *call, const struct seccomp_notif *asked, char *site, size_t size, const int **failures) {
    char text[600] = "", path[700], plain[600];
    pid_t tid = asked->pid;
    uint64_t argument = asked->data.args[call->argument], flags = 0;
    *failures = call->failures;
    switch (call->kind) {
    case FD:
    case LOCK: {
        if (call->kind == LOCK) {
            int command = asked->data.args[1];
            if (command == F_DUPFD_CLOEXEC || command == F_DUPFD) *failures = descriptors;
            else if (command != F_SETLK && command != F_SETLKW && command != F_OFD_SETLK && command != F_OFD_SETLKW) return 0;
        }
        struct stat stat_of;
        snprintf(path, sizeof path, "/proc/%d/fd/%d", tid, (int)argument);
        /* Pipes, sockets and counters are between threads, or the network's affair. */
        if (stat(path, &stat_of) != 0 || !(S_ISREG(stat_of.st_mode) || S_ISDIR(stat_of.st_mode))) return 0;
        ssize_t length = readlink(path, text, sizeof text - 1);
        text[length < 0 ? 0 : length] = 0;
        /* What the kernel makes up does not fail. */
        if (!strncmp(text, "/proc/", 6) || !strncmp(text, "/sys/", 5)) return 0;
        break;
    }
    case OPEN2: {
        struct open_how how = {0};
        struct iovec local = {&how, sizeof how}, remote = {(void *)asked->data.args[2], sizeof how};
        if (process_vm_readv(tid, &local, 1, &remote, 1, 0) > 0) flags = how.flags;
        read_text(tid, argument, text, sizeof text);
        break;
    }
    case OPEN:
        flags = asked->data.args[call->argument + 1];
        read_text(tid, argument, text, sizeof text);
        break;
    case PATH:
        read_text(tid, argument, text, sizeof text);
        break;
    case DUP:
    case FORK:
    case PLAIN:
        break;
    }
    if ((call->kind == OPEN || call->kind == OPEN2) && flags & O_CREAT) *failures = makes;
    if ((call->kind == OPEN || call->kind == OPEN2) && (!strncmp(text, "/proc/", 6) || !strncmp(text, "/sys/", 5))) return 0;
    /* The loader, before the program's first instruction. */
    if (strstr(text, ".so.")) return 0;
    normalise(text, plain, sizeof plain);
    const char *kind = flags & O_CREAT ? "+create" : "";
    snprintf(site, size, "%s%s %s", call->name, kind, plain);
    return 1;
}

static pid_t child;

static int send_fd(int socket, int fd) {
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    return sendmsg(socket, &message, 0) == 1 ? 0 : -1;
}

static int receive_fd(int socket) {
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(socket, &message, 0) != 1) return -1;
    int fd;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fputs("inject: see the first lines of inject.c\n", stderr);
        return 125;
    }
    FILE *report = fopen(argv[1], "we");
    if (!report) fail(argv[1]);
    struct stat program;
    if (stat(argv[2], &program) != 0) fail(argv[2]);
    const char *what = argv[3], *site_wanted = NULL, *line = NULL;
    unsigned long at = 0, second = 0;
    int word = 4;
    int failing = !strcmp(what, "fail");
    if (strcmp(argv[word], "--")) at = strtoul(argv[word++], NULL, 10);
    if (strcmp(argv[word], "--")) {
        line = argv[word++];
        second = strtoul(line, NULL, 10);
    }
    if (strcmp(argv[word], "--")) site_wanted = argv[word++];
    if (!argv[word] || strcmp(argv[word], "--") || !argv[word + 1]) return 125;
    char **command = argv + word + 1;

    /* What the program leaves becomes a child of this process, which can see its very end. */
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0) fail("prctl");
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) fail("socketpair");
    child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
        /* A group of its own: a signal of the terminal's would reach it twice. */
        setpgid(0, 0);
        int listener = install();
        if (listener < 0 || send_fd(sockets[1], listener) != 0) {
            perror("inject: seccomp");
            _exit(125);
        }
        close(listener);
        close(sockets[1]);
        execv(command[0], command);
        perror(command[0]);
        _exit(125);
    }
    close(sockets[1]);
    int listener = receive_fd(sockets[0]);
    if (listener < 0) return 125;
    int pidfd = syscall(__NR_pidfd_open, child, 0);
    unsigned long count = 0;
    int done = 0, status = 0, ended = 0, left = 0;
    for (;;) {
        struct pollfd polls[2] = {{listener, POLLIN, 0}, {ended ? -1 : pidfd, POLLIN, 0}};
        int ready = poll(polls, 2, ended ? GRACE_MS : -1);
        if (ready == 0) {
            left = 1;
            break;
        }
        if (polls[1].revents) {
            waitpid(child, &status, 0);
            ended = 1;
        }
        if (polls[0].revents & POLLIN) {
            struct seccomp_notif asked;
            memset(&asked, 0, sizeof asked);
            if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0) continue;
            struct seccomp_notif_resp answer = {.id = asked.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
            char exe[64], site[800];
            struct stat stat_of;
            const int *failures;
            const struct call *call = NULL;
            for (size_t n = 0; n < CALLS; n++)
                if (calls[n].number == asked.data.nr) call = &calls[n];
            snprintf(exe, sizeof exe, "/proc/%d/exe", asked.pid);
            int ours = stat(exe, &stat_of) == 0 && stat_of.st_ino == program.st_ino && stat_of.st_dev == program.st_dev;
            if (ours && call && site_of(call, &asked, site, sizeof site, &failures) &&
                ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &asked.id) == 0) {
                if (!strcmp(what, "list")) fprintf(report, "call %s\n", site);
                if (!site_wanted || !strcmp(site_wanted, site)) {
                    count++;
                    int again = !strcmp(what, "int") && second && count == second;
                    if ((count == at && !done) || again) {
                        int failure = failing ? failures[second % 3] : 0;
                        done = 1;
                        fprintf(report, "hit %lu %s %s\n", count, failing ? strerrorname_np(failure) : what, site);
                        if (failing) {
                            answer.flags = 0;
                            answer.error = -failure;
                        } else if (!strcmp(what, "shell")) {
                            if (system(line) != 0) fprintf(report, "failed %s\n", line);
                        } else {
                            kill(child, !strcmp(what, "kill") ? SIGKILL : !strcmp(what, "term") ? SIGTERM : SIGINT);
                            /* It is dead before anything else of it goes on. */
                            if (!strcmp(what, "kill")) {
                                struct pollfd gone = {pidfd, POLLIN, 0};
                                poll(&gone, 1, GRACE_MS);
                            }
                        }
                    }
                }
            }
            /* Who asked may be gone. */
            ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
        } else if (polls[0].revents & (POLLHUP | POLLERR)) {
            if (!ended) {
                waitpid(child, &status, 0);
                ended = 1;
            }
            /* The kernel forgets a filter before it closes the files, and with them the locks, of whoever had it. */
            while (waitpid(-1, NULL, 0) > 0) {
            }
            break;
        }
    }
    fprintf(report, "calls %lu\nleft %s\n", count, left ? "yes" : "no");
    if (fclose(report) != 0) fail(argv[1]);
    if (WIFSIGNALED(status)) return 128 + WTERMSIG(status);
    return WEXITSTATUS(status);
}
