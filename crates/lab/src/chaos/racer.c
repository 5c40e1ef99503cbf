/* Lets process numbers be used again, while the agent looks who is on its socket.
 *
 * Again and again: a process without an identity connects, hands its connection on, and ends. A process that has one
 * gets its number. Whatever the agent says on that connection, it must not be the identity of the second process. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const char REQUEST[] =
    "GET /v1/whoami HTTP/1.1\r\nhost: a\r\nworkload.spiffe.io: true\r\nconnection: close\r\n\r\n";

static const char *path;

static void be(unsigned user) {
    if (setgroups(0, NULL) || setgid(user) || setuid(user)) _exit(2);
}

static int dial(void) {
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    struct timeval patience = { .tv_sec = 5 };
    strncpy(at.sun_path, path, sizeof at.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof at)) return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

static void hand_on(int to, int fd) {
    char room[CMSG_SPACE(sizeof fd)] = { 0 }, byte = 0;
    struct iovec data = { &byte, 1 };
    struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(part), &fd, sizeof fd);
    sendmsg(to, &message, 0);
}

static int take(int from) {
    char room[CMSG_SPACE(sizeof(int))] = { 0 }, byte;
    struct iovec data = { &byte, 1 };
    struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
    int fd = -1;
    if (recvmsg(from, &message, MSG_CMSG_CLOEXEC) <= 0) return -1;
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    if (part) memcpy(&fd, CMSG_DATA(part), sizeof fd);
    return fd;
}

/* Whether the agent names any identity. */
static int has_identity(int fd, int *answered) {
    static char said[65536];
    size_t length = 0;
    ssize_t count;
    while (length < sizeof said - 1 && (count = read(fd, said + length, sizeof said - 1 - length)) > 0) length += count;
    said[length] = 0;
    *answered = length > 0;
    return strstr(said, "\"identities\":[{") != NULL;
}

static void next_number(int to, pid_t wanted) {
    char text[16];
    int length = snprintf(text, sizeof text, "%d", wanted - 1);
    if (pwrite(to, text, length, 0) != length) _exit(3);
}

int main(int count, char **arguments) {
    if (count != 5) return 2;
    path = arguments[1];
    long races = atol(arguments[2]);
    unsigned stranger = atoi(arguments[3]), known = atoi(arguments[4]);
    int last = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC), answered;
    if (last < 0) return 3;
    signal(SIGPIPE, SIG_IGN);
    /* The second process has an identity: otherwise nothing would be tried. */
    pid_t control = fork();
    if (!control) {
        be(known);
        int fd = dial();
        if (fd < 0 || write(fd, REQUEST, sizeof REQUEST - 1) < 0) _exit(1);
        _exit(has_identity(fd, &answered) ? 0 : 1);
    }
    int status;
    waitpid(control, &status, 0);
    if (status) return 4;
    long played = 0, wrong = 0, answers = 0, tries = 0;
    while (played < races && tries++ < races * 3) {
        int line[2], ready[2];
        char byte;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, line) || pipe2(ready, O_CLOEXEC)) return 5;
        pid_t first = fork();
        if (!first) {
            be(stranger);
            int fd = dial();
            if (fd < 0) _exit(1);
            /* Every other one has asked before it ends. */
            if (tries % 2 && write(fd, REQUEST, sizeof REQUEST - 1) < 0) _exit(1);
            hand_on(line[1], fd);
            if (tries % 5 == 0) usleep(tries % 400);
            _exit(0);
        }
        close(line[1]);
        int fd = take(line[0]);
        close(line[0]);
        waitpid(first, &status, 0);
        next_number(last, first);
        pid_t second = fork();
        if (!second) {
            be(known);
            if (write(ready[1], "", 1) != 1) _exit(1);
            for (;;) pause();
        }
        if (read(ready[0], &byte, 1) != 1) return 6;
        close(ready[0]);
        close(ready[1]);
        if (fd >= 0 && second == first) {
            /* A connection that was closed already says nothing, and that is right. */
            if (tries % 2 == 0 && write(fd, REQUEST, sizeof REQUEST - 1) < 0) errno = 0;
            wrong += has_identity(fd, &answered);
            answers += answered;
            played++;
        }
        if (fd >= 0) close(fd);
        kill(second, SIGKILL);
        waitpid(second, &status, 0);
    }
    printf("%ld %ld %ld\n", played, wrong, answers);
    return 0;
}
