/* dunlind as a process, for tests: a folder, a configuration, starting and stopping, its admin port, calls.
 * The program is bin/dunlind of the build folder, or DUNLIN_BIN/dunlind. */
#ifndef DN_TEST_NODE_PROCESS_H
#define DN_TEST_NODE_PROCESS_H

#include "base/clock.h"
#include "client/client.h"
#include "dunlin/v1/dunlin.pb-c.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* Bounds on hanging, not on speed. */
enum { WAIT_S = 60, PAUSE_US = 20000, CALL_MS = 20000, BODY_MAX = 1 << 18, PATH_TEXT = 256 };

struct bench {
    char folder[64];
    char config[PATH_TEXT], data[PATH_TEXT], log[PATH_TEXT];
    unsigned api, peers, admin;
    pid_t pid;
};

static char body[BODY_MAX];

/* ---- the process -----------------------------------------------------------------------------------------
 */

/* A listening (or only bound) socket on a loopback port; 0 picks one. */
static inline int hold_port(unsigned *port, bool listening)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)*port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    if (listening)
        assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static inline void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static inline void write_config(struct bench *b, unsigned id, const char *cluster, const char *extra)
{
    char text[2000];

    snprintf(text, sizeof(text),
             "node: {id: %u, data_dir: %s}\n"
             "cluster: {id: %s, shards: 2, members: [{id: %u, name: solo, address: '127.0.0.1:%u'}]}\n"
             "api: {address: '127.0.0.1:%u'}\n"
             "admin: {address: '127.0.0.1:%u'}\n%s",
             id, b->data, cluster, id, b->peers, b->api, b->admin, extra);
    write_file(b->config, text);
}

static inline int set_up(void **state)
{
    struct bench *b = calloc(1, sizeof(*b));
    int fds[3];

    assert_non_null(b);
    snprintf(b->folder, sizeof(b->folder), "/tmp/dunlin-node-XXXXXX");
    assert_non_null(mkdtemp(b->folder));
    snprintf(b->config, sizeof(b->config), "%s/node.yaml", b->folder);
    snprintf(b->data, sizeof(b->data), "%s/deep/er/data", b->folder);
    snprintf(b->log, sizeof(b->log), "%s/log", b->folder);
    fds[0] = hold_port(&b->api, false);
    fds[1] = hold_port(&b->peers, false);
    fds[2] = hold_port(&b->admin, false);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    write_config(b, 1, "test", "");
    *state = b;
    return 0;
}

static inline int remove_one(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)info;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static inline int tear_down(void **state)
{
    struct bench *b = *state;

    if (b->pid > 0) {
        kill(b->pid, SIGKILL);
        waitpid(b->pid, NULL, 0);
    }
    nftw(b->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(b);
    return 0;
}

static inline const char *program(void)
{
    static char path[PATH_TEXT];
    const char *folder = getenv("DUNLIN_BIN");

    snprintf(path, sizeof(path), "%s/dunlind", folder ? folder : "bin");
    return path;
}

static inline pid_t spawn(const struct bench *b, const char *const *arguments)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    int fd = open(b->log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    execv(program(), (char *const *)(uintptr_t)arguments);
    _exit(127);
}

static inline const char *read_log(const struct bench *b)
{
    static char text[1 << 16];
    FILE *file = fopen(b->log, "r");
    size_t length = file ? fread(text, 1, sizeof(text) - 1, file) : 0;

    text[length] = 0;
    if (file)
        fclose(file);
    return text;
}

static inline void start(struct bench *b)
{
    assert_int_equal(b->pid, 0);
    b->pid = spawn(b, (const char *[]){"dunlind", "--config", b->config, NULL});
}

/* The exit code; signals count as 1000 + number. */
static inline int wait_exit(const struct bench *b, pid_t pid)
{
    for (int left = WAIT_S * (1000000 / PAUSE_US); left > 0; left--) {
        int status;

        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
        usleep(PAUSE_US);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    fail_msg("did not end by itself: %s", read_log(b));
    return -1;
}

static inline void stop(struct bench *b, int number, int expected)
{
    assert_int_equal(kill(b->pid, number), 0);
    int code = wait_exit(b, b->pid);
    b->pid = 0;
    if (code != expected)
        fail_msg("exit code %d instead of %d: %s", code, expected, read_log(b));
}

/* The program must end by itself with this code and say this. */
static inline void ends(const struct bench *b, const char *const *arguments, int expected, const char *says)
{
    int code = wait_exit(b, spawn(b, arguments));

    if (code != expected || !strstr(read_log(b), says))
        fail_msg("exit code %d (not %d) or '%s' missing: %s", code, expected, says, read_log(b));
}

static inline void start_ends(const struct bench *b, int expected, const char *says)
{
    ends(b, (const char *[]){"dunlind", "--config", b->config, NULL}, expected, says);
}

/* ---- the admin port --------------------------------------------------------------------------------------
 */

/* The HTTP status and the whole answer in `body`; 0 when nobody answers. */
static inline int http(const struct bench *b, const char *method, const char *path)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)b->admin),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = WAIT_S};
    char request[PATH_TEXT];
    size_t length = 0;
    int status = 0;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    body[0] = 0;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    int n = snprintf(request, sizeof(request), "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                     method, path);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
        send(fd, request, (size_t)n, MSG_NOSIGNAL) == n) {
        for (ssize_t got;
             length < BODY_MAX - 1 && (got = read(fd, body + length, BODY_MAX - 1 - length)) > 0;)
            length += (size_t)got;
        body[length] = 0;
        if (sscanf(body, "HTTP/1.1 %d", &status) != 1)
            status = 0;
    }
    close(fd);
    return status;
}

static inline void wait_ready(struct bench *b)
{
    for (int left = WAIT_S * (1000000 / PAUSE_US); left > 0; left--) {
        int status;

        if (http(b, "GET", "/readyz") == 200)
            return;
        if (waitpid(b->pid, &status, WNOHANG) == b->pid) {
            b->pid = 0;
            fail_msg("ended while starting (status %d): %s", status, read_log(b));
        }
        usleep(PAUSE_US);
    }
    fail_msg("not ready: %s\n%s", body, read_log(b));
}

/* The value of the first line that starts with `name`; fails when there is none. */
static inline double metric(const char *name)
{
    char start_of_line[128];

    snprintf(start_of_line, sizeof(start_of_line), "\n%s", name);
    const char *line = strstr(body, start_of_line);
    if (!line)
        fail_msg("no metric %s in %s", name, body);
    return strtod(strchr(line + 1, ' '), NULL);
}

/* ---- calls -----------------------------------------------------------------------------------------------
 */

static inline uint8_t *call(const struct bench *b, const char *path, const ProtobufCMessage *message,
                            size_t *ret_length)
{
    struct dn_client *client = NULL;
    struct dn_error err = {0};
    char address[64];
    uint8_t packed[4096], *answer = NULL;

    snprintf(address, sizeof(address), "127.0.0.1:%u", b->api);
    assert_true(protobuf_c_message_get_packed_size(message) <= sizeof(packed));
    size_t length = protobuf_c_message_pack(message, packed);
    if (dn_client_connect(address, CALL_MS, &client, &err) != DN_OK ||
        dn_client_call(client, path, packed, length, CALL_MS, &answer, ret_length, &err) != DN_OK)
        fail_msg("%s: %s\n%s", path, err.message, read_log(b));
    dn_client_close(client);
    return answer;
}

static inline void publish(const struct bench *b, char *user, char *item, char *event_id)
{
    Dunlin__V1__Event event = DUNLIN__V1__EVENT__INIT;
    Dunlin__V1__Event *events[] = {&event};
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    size_t length;

    event.user_id = user;
    event.item_id = item;
    event.event_id = event_id;
    request.n_events = 1;
    request.events = events;
    uint8_t *bytes = call(b, "/dunlin.v1.Events/Publish", &request.base, &length);
    Dunlin__V1__PublishResponse *response = dunlin__v1__publish_response__unpack(NULL, length, bytes);
    assert_non_null(response);
    assert_int_equal(response->n_outcomes, 1);
    assert_int_equal(response->outcomes[0], DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_ACCEPTED);
    dunlin__v1__publish_response__free_unpacked(response, NULL);
    free(bytes);
}

static inline size_t session_events(const struct bench *b, char *user)
{
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    Dunlin__V1__GetSessionRequest request = DUNLIN__V1__GET_SESSION_REQUEST__INIT;
    size_t length;

    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_LINEARIZABLE;
    request.user_id = user;
    request.read = &read;
    uint8_t *bytes = call(b, "/dunlin.v1.Sessions/Get", &request.base, &length);
    Dunlin__V1__GetSessionResponse *response = dunlin__v1__get_session_response__unpack(NULL, length, bytes);
    assert_non_null(response);
    size_t count = response->n_events;
    dunlin__v1__get_session_response__free_unpacked(response, NULL);
    free(bytes);
    return count;
}

#endif
